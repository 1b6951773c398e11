"""Faults that a failover and a failback must survive: on sites in memory, and on the stack's real ones."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from rempart.errors import FailoverError, LeaseHeld, RempartError, SiteError, SiteUnavailable
from rempart.flows.failover.fail_over import fail_over
from rempart.flows.replication.reconcile import before_bringing
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import PostgresqlContinuity
from rempart.settings.config import Connection
from rempart.settings.sections import Buckets
from tests import switchovers
from tests.lying import Answer, Request, Upstream, custom, lying_site
from tests.lying.platforms import reached_through


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stores)])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """A platform of two sites, both empty."""
    if request.param == "memory":
        monkeypatch.setenv("REMPART_HOME", str(switchovers.ROOT))
        yield switchovers.in_memory()
        return
    ledger = request.getfixturevalue("proven_ledger")
    with switchovers.on_real_servers(request.getfixturevalue("platform"), ledger) as made:
        yield made


@pytest.fixture
def real(platform: Platform, proven_ledger: MemoryLedger) -> Iterator[Platform]:
    with switchovers.on_real_servers(platform, proven_ledger) as made:
        yield made


class UnreachableSite:
    """A site that answers nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.endpoint = name, "http://127.0.0.1:9"

    def __getattr__(self, name: str) -> object:
        raise SiteUnavailable(f"{name} at site '{self.name}': no answer", "Wait.")


def without_primary(platform: Platform) -> Platform:
    return dataclasses.replace(platform, sites={**platform.sites, "primary": UnreachableSite("primary")})


def put(platform: Platform, site: str, key: str, body: bytes) -> None:
    platform.sites[site].write(platform.config.buckets.lake, key, body)


def got(platform: Platform, site: str, key: str) -> bytes:
    return platform.sites[site].read(platform.config.buckets.lake, key)


def replicated(platform: Platform) -> dict[str, bytes]:
    """Some objects at both sites."""
    made = switchovers.fill(platform)
    bring(platform, "primary", "haven", ("lake", "artifacts"))
    return made


def past_the_second() -> None:
    """Sites tell when an object was written in whole seconds."""
    time.sleep(1.1)


def test_c2_both_sides_were_written_conflicts_are_listed_and_neither_is_lost(pair: Platform) -> None:
    made = replicated(pair)
    put(pair, "primary", "k/000", b"primary's, never replicated")
    put(pair, "primary", "k/002", b"the same at both")
    put(pair, "primary", "only/primary", b"never replicated")
    past_the_second()
    switchovers.over(without_primary(pair), accept_loss=True)
    put(pair, "haven", "k/000", b"haven's")
    put(pair, "haven", "k/002", b"the same at both")
    put(pair, "haven", "only/haven", b"new")
    plan = fail_over(pair, "primary")
    bucket = pair.config.buckets.lake
    assert plan.conflicts == (f"{bucket}/k/000",)
    result = switchovers.back(pair)
    assert result.conflicts == (f"{bucket}/k/000",)
    kept = f"conflicts/{result.generation - 2}/k/000"
    for site in ("primary", "haven"):
        assert got(pair, site, "k/000") == b"haven's", "the active site's version stands"
        assert got(pair, site, kept) == b"primary's, never replicated"
        assert got(pair, site, "only/primary") == b"never replicated"
        assert got(pair, site, "only/haven") == b"new"
    assert switchovers.content(pair, "primary") == switchovers.content(pair, "haven")
    assert made.keys() <= switchovers.content(pair, "primary").keys()
    told = next(record.body for record in pair.ledger.find("failover") if record.body["step"] == "diff")
    assert told["conflicts"] == [f"{bucket}/k/000"] and told["adopted"] == [f"{bucket}/only/primary"]
    assert told["kept"] == f"conflicts/{result.generation - 2}/ at 'haven'"


def test_c3_a_failback_to_a_site_that_is_newer_takes_over_what_was_committed_there(pair: Platform) -> None:
    replicated(pair)
    past_the_second()
    put(pair, "primary", "k/000", b"committed before the loss, never replicated")
    past_the_second()
    switchovers.over(without_primary(pair), accept_loss=True)
    past_the_second()
    put(pair, "primary", "k/002", b"written by somebody after the switch")
    result = switchovers.back(pair)
    for site in ("primary", "haven"):
        assert got(pair, site, "k/000") == b"committed before the loss, never replicated"
        assert got(pair, site, "k/002") == b"primary k 2", "nobody was to write there by then"
        assert got(pair, site, f"conflicts/{result.generation - 2}/k/002") == b"written by somebody after the switch"
    assert result.conflicts == (f"{pair.config.buckets.lake}/k/002",)
    assert result.steps["diff"]["adopted"] == [f"{pair.config.buckets.lake}/k/000"]


@pytest.mark.full
def test_c3_a_second_switchover_there_and_back_finds_no_conflict_of_the_first(pair: Platform) -> None:
    replicated(pair)
    for number in range(2):
        switchovers.over(pair)
        put(pair, "haven", "k/000", f"haven's {number}".encode())
        assert switchovers.back(pair).conflicts == ()
        put(pair, "primary", "k/000", f"primary's {number}".encode())
    assert switchovers.over(pair).conflicts == ()
    assert got(pair, "haven", "k/000") == b"primary's 1"


@pytest.mark.stores
def test_c5_the_network_is_cut_in_the_middle_of_a_drain(real: Platform) -> None:
    bucket = real.config.buckets.lake
    for number in range(60):
        put(real, "primary", f"many/{number:03d}", os.urandom(2000))
    past_the_second()
    cut, served = threading.Event(), [0]

    def cut_off(request: Request, site: Upstream) -> Answer:
        if request.method == "GET" and "many/" in request.key:
            served[0] += 1
            if served[0] > 70:
                cut.set()
        if cut.is_set():
            raise ConnectionAbortedError
        return site.ask(request)

    with lying_site(real.sites["primary"].endpoint, custom(cut_off)) as network:
        broken = reached_through(real, "primary", network.url)
        with pytest.raises(RempartError) as stopped:
            switchovers.over(broken)
        assert stopped.value.transient, "a task is tried again"
        assert cut.is_set()
        now = real.active()
        assert (now.state, now.site) == ("fenced", "primary")
        record = real.ledger.find("replication", "primary->haven", limit=1)[0]
        there = {info.key for info in real.sites["haven"].list(bucket)}
        left = [info.modified for info in real.sites["primary"].list(bucket) if info.key not in there]
        assert 0 < len(left) < 60, "some arrived, some did not"
        assert record.body["lag_seconds"] == pytest.approx((record.at - min(left)).total_seconds(), abs=3)
        drain = next(entry.body for entry in real.ledger.find("failover") if entry.body["step"] == "drain")
        assert (drain["ok"], drain["lag_seconds"]) == (False, record.body["lag_seconds"])
        assert drain["not_arrived_count"] == len(left)
        cut.clear()
        served[0] = -10_000
        result = switchovers.over(broken)
    assert result.done and (result.lag_seconds, result.not_arrived) == (0.0, ())
    assert switchovers.content(real, "haven") == switchovers.content(real, "primary")


def _go_and_be_killed(step: str, buckets: Buckets, generations: Connection, proven: list[dict[str, Any]]) -> None:
    """In a process of its own: fail over, and die in the middle of a step."""

    class Killer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == f"{step} ...":
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()

    logging.getLogger("rempart").addHandler(Killer())
    logging.getLogger("rempart").setLevel(logging.INFO)

    def slowly(_: Platform, active: object) -> str:
        time.sleep(5)
        return "late"

    found, ledger = open_platform(), MemoryLedger()
    for record in proven:
        ledger.append("capabilities", record["site"], record)
    settings = found.config.model_copy(update={"buckets": buckets})
    own = dataclasses.replace(found, config=settings, ledger_=ledger, continuity_=PostgresqlContinuity(generations))
    fail_over(own, "haven", dry_run=False, tracking=slowly)


def _killed_in(platform: Platform, step: str) -> int | None:
    assert isinstance(platform.continuity, PostgresqlContinuity)
    proven = [dict(record.body) for record in platform.ledger.find("capabilities")]
    given = (step, platform.config.buckets, platform.continuity._connection, proven)
    process = multiprocessing.get_context("spawn").Process(target=_go_and_be_killed, args=given)
    process.start()
    process.join(300)
    return process.exitcode


@pytest.mark.stores
@pytest.mark.parametrize(
    "step", ["drain", *(pytest.param(step, marks=pytest.mark.full) for step in ("fence", "verify", "switch", "resume"))]
)
def test_x1_sigkill_in_a_step_and_a_further_run_converges(real: Platform, step: str) -> None:
    made = switchovers.fill(real, count=40)
    code = _killed_in(real, step)
    assert code in (-signal.SIGKILL, 0), "a step may be done before the signal comes"
    if code:
        with pytest.raises(LeaseHeld):  # until its lease ends by itself
            switchovers.over(real)
        _let_leases_end(real)
    result = switchovers.over(real)
    assert result.done and result.active == "haven"
    assert switchovers.content(real, "haven") == made
    assert [switch.state for switch in real.continuity.active_sites("primary").history()] == ["active", "fenced"]


def _let_leases_end(platform: Platform) -> None:
    assert isinstance(platform.continuity, PostgresqlContinuity)
    with psycopg.connect(platform.continuity._connection.postgresql_url(), autocommit=True) as opened:
        opened.execute("UPDATE lease SET until = clock_timestamp()")


@pytest.mark.stores
def test_x2_two_failovers_at_once_are_one(real: Platform) -> None:
    made = switchovers.fill(real, count=30)
    outcomes: list[object] = []

    def run(operation: Callable[[], object]) -> None:
        try:
            outcomes.append(operation())
        except LeaseHeld as error:
            outcomes.append(error)

    both = [threading.Thread(target=run, args=(lambda: switchovers.over(real),)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(240)
    held = [outcome for outcome in outcomes if isinstance(outcome, LeaseHeld)]
    assert len(outcomes) == 2 and len(held) <= 1, "one waits for its next try, or came after and found it done"
    assert [switch.generation for switch in real.continuity.active_sites("primary").history()] == [2, 1]
    assert switchovers.content(real, "haven") == made


@pytest.mark.full
def test_a_switchover_under_way_admits_no_other(pair: Platform) -> None:
    replicated(pair)
    with pytest.raises(FailoverError, match="A task still commits"), pair.committing(pair.active()):
        _impatiently(pair)
    with pytest.raises(FailoverError, match="a switchover from 'primary' to 'haven' is running"):
        switchovers.back(pair)
    assert switchovers.over(pair).done


def _impatiently(platform: Platform) -> None:
    import rempart.flows.failover.switchover_steps as flow

    patience = flow.WRITERS_SECONDS
    flow.WRITERS_SECONDS = 1.0
    try:
        switchovers.over(platform)
    finally:
        flow.WRITERS_SECONDS = patience


@pytest.mark.stores
def test_the_mirror_at_each_site_tells_the_generation(real: Platform) -> None:
    replicated(real)
    switchovers.over(real)
    for site in real.sites.values():
        told = json.loads(site.read(real.config.buckets.backups, "continuity/active.json"))
        assert (told["generation"], told["site"]) == (2, "haven")


@pytest.mark.full
def test_c2_a_replication_to_a_site_that_was_lost_keeps_what_only_that_one_has(pair: Platform) -> None:
    """Restore points go to the other site as soon as it is back, before anybody went home."""
    replicated(pair)
    put(pair, "primary", "k/000", b"primary's, never replicated")
    past_the_second()
    switchovers.over(without_primary(pair), accept_loss=True)
    put(pair, "haven", "k/000", b"haven's")
    generation = pair.active().generation
    before_bringing(pair, "primary", "haven")  # not from the active site: nothing to keep
    before_bringing(pair, "haven", "primary")
    bring(pair, "haven", "primary", ("lake", "artifacts"))
    for site in ("primary", "haven"):
        assert got(pair, site, "k/000") == b"haven's"
        assert got(pair, site, f"conflicts/{generation}/k/000") == b"primary's, never replicated"
    told = pair.ledger.find("failover", "haven->primary")
    assert [record.body["conflicts"] for record in told] == [[f"{pair.config.buckets.lake}/k/000"]]
    assert switchovers.back(pair).conflicts == ()


@pytest.mark.parametrize("written", ["by this site's times", "while haven was active"])
def test_i3_a_damaged_replica_is_replaced_also_after_the_platform_moved_and_came_home(
    pair: Platform, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written == "while haven was active":  # a site's times have whole seconds
        monkeypatch.setattr("rempart.flows.replication.reconcile.was_active", lambda *arguments: True)
    replicated(pair)
    switchovers.over(pair)
    assert switchovers.back(pair).done
    put(pair, "primary", "k/new", b"whole")
    haven = pair.sites["haven"]

    class Truncating:
        """A way to haven that loses the last byte of each object."""

        def write(self, bucket: str, key: str, body: bytes, **more: Any) -> Any:
            return haven.write(bucket, key, body[:-1], **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(haven, name)

    with pytest.raises(SiteError):
        bring(dataclasses.replace(pair, sites={**pair.sites, "haven": Truncating()}), "primary", "haven", ("lake",))
    assert haven.head(pair.config.buckets.lake, "k/new").size == len(b"whol")
    before_bringing(pair, "primary", "haven")
    bring(pair, "primary", "haven", ("lake",))
    assert got(pair, "haven", "k/new") == b"whole"
    assert not [key for info in haven.list(pair.config.buckets.lake) if (key := info.key).startswith("conflicts/")]
