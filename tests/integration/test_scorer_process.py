"""The scorer's process under load: versions change, it is killed, its disk takes nothing, and all else is away."""

from __future__ import annotations

import json
import random
import resource
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from rempart.flows.failover.fail_over import SwitchoverResult
from rempart.flows.prediction_log import files, run
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.platform import Platform
from rempart.serving.hour_files import ROOT
from rempart.sites.port import Site
from tests import switchovers
from tests.faults.test_failover import UnreachableSite
from tests.served import NAME, STORES, Answer, Served, served

pytestmark = pytest.mark.stores
RATE, BUSY = 300.0, 2000.0
SEED = 22


@pytest.fixture(scope="module")
def world(
    platform: Platform, capability_records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with served(platform, capability_records, tmp_path_factory.mktemp("served")) as made:
        yield made


def first(answers: list[Answer], version: str) -> int | None:
    """The place of the first answer of a version."""
    return next((place for place, each in enumerate(answers) if each.status == 200 and each.version == version), None)


def test_nothing_that_was_answered_is_lost_and_nothing_is_logged_twice(world: Served) -> None:
    points, answers = random.Random(SEED), list[Answer]()  # noqa: S311 - the seed is told
    world.start()

    # 2,000 requests and more across a promotion and a roll back
    steps = [lambda: world.promote("2"), lambda: world.roll_back("1")]

    def until_it_is_back(got: list[Answer]) -> bool:
        if steps and len(got) >= (300 if len(steps) == 2 else (first(got, "2") or 10**9) + 300):
            steps.pop(0)()
        newer = first(got, "2")
        is_back = newer is not None and first(got[newer:], "1") is not None
        return len(got) < 2000 or bool(steps) or not is_back or got[-1].version == "2"

    swapped = world.load(RATE, until_it_is_back)
    assert len(swapped) >= 2000 and {each.status for each in swapped} == {200}, world.told()
    assert not world.wrong(swapped), "the prediction is that of the version that the answer names"
    begins = min(each.got for each in swapped if each.version == "2")
    ends = min(each.got for each in swapped if each.version == "1" and each.sent > begins)
    assert {each.version for each in swapped if each.sent < ends and begins < each.sent and each.got < ends} == {"2"}
    assert {each.version for each in swapped if each.sent > ends} <= {"1"}
    answers += swapped

    # killed under load; then everything but its own disk is away
    answers += world.load(BUSY, killing(world, points.randrange(100, 400)))
    world.start(*STORES)
    assert world.health()["ledger_answers"] is False
    answers += world.load(RATE, lambda got: len(got) < 300)
    assert {each.status for each in answers[-300:]} == {200}

    # its disk takes nothing, until there is room again
    limit = resource.prlimit(world.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(world.pid, resource.RLIMIT_FSIZE, (0, limit[1]))
    refused = world.load(RATE, lambda got: len(got) < 50)
    assert {each.status for each in refused} == {503}
    assert all("write the prediction log" in each.body["error"] and each.body["remedy"] for each in refused)
    resource.prlimit(world.pid, resource.RLIMIT_FSIZE, limit)
    answers += world.load(BUSY, killing(world, points.randrange(100, 400)))

    # a client asks again for what it got no answer to: that is another prediction, with an id of its own
    world.start()
    unanswered = [each for each in answers if each.status == 0]
    assert unanswered, f"seed {SEED}"
    again = [asked_again(world, each) for each in unanswered[:5]]
    assert world.stop() == 0
    shipped = world.ship()["entries"]
    logged = world.logged()
    assert not world.lost_or_doubled(answers, logged), f"seed {SEED}"
    times = [row["id"] for row in logged]
    assert [times.count(each) for each in again] == [1] * len(again)
    answered = sum(each.status == 200 for each in answers) + len(again)
    assert shipped == len(logged) and answered <= shipped <= answered + len(unanswered), f"seed {SEED}"
    assert world.ship()["entries"] == 0, "shipped again, nothing is added"


def test_it_answers_while_the_platform_moves_and_its_log_is_whole_at_both_sites(world: Served) -> None:
    home, lake = world.platform, world.platform.config.buckets.lake
    haven = home.site("haven", "personal")
    without_primary = replace(home, sites={"haven": haven, "primary": cast("Site", UnreachableSite("primary"))})
    bring(home, "primary", "haven", ("lake", "artifacts"))
    world.start()
    moved: list[SwitchoverResult] = []

    def until_it_moved(got: list[Answer]) -> bool:
        if len(got) >= 100 and not moved:
            moved.append(switchovers.over(without_primary, accept_loss=True))
        return not moved or len(got) < 300

    answers = world.load(RATE, until_it_moved)
    assert {each.status for each in answers} == {200} and moved[0].active == "haven"
    assert world.stop() == 0
    for model in (world.var / "scorer").glob("*.onnx"):
        model.unlink()
    world.start("s3_primary")  # its model comes from the other site
    answers += world.load(RATE, lambda got: len(got) < 100)
    assert {each.status for each in answers} == {200} and not world.wrong(answers)
    assert world.stop() == 0
    assert run.run(without_primary, world.log)["entries"] == len(answers)
    switchovers.back(home)
    at_both = [world.logged(site) for site in ("primary", "haven")]
    assert at_both[0] == at_both[1] and not world.lost_or_doubled(answers, at_both[0])
    stored = [{info.key for info in home.site(name, "personal").list(lake, ROOT)} for name in ("primary", "haven")]
    assert stored[0] == stored[1] == files.on_record(home.ledger, lake, NAME, stored[0])


def killing(world: Served, after: int) -> Any:
    """Go on until the scorer was killed, after so many answers or a few more, and was asked in vain."""
    killed: list[bool] = []

    def goes_on(got: list[Answer]) -> bool:
        if killed:
            return False
        if len(got) >= after:
            world.kill()
            killed.append(True)
        return True

    return goes_on


def asked_again(world: Served, lost: Answer) -> str:
    """Ask again, with an id of the client's own. Return the id of the prediction."""
    types = {int: "INT64", float: "FP64", bool: "BOOL", str: "BYTES"}
    kinds = {name: types[type(value)] for row in world.rows for name, value in row.items() if value is not None}
    tensors = [
        {"name": name, "shape": [1], "datatype": kinds[name], "data": [value]}
        for name, value in world.rows[lost.row].items()
    ]
    body = json.dumps({"id": "mine", "inputs": tensors}).encode()
    url = f"http://127.0.0.1:{world.port}/v2/models/{NAME}/infer"
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {world.key}"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - this machine
        told = json.load(answer)
    assert told["id"] == "mine"
    return str(told["parameters"]["ids"])
