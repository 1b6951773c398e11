"""While a version is opened, the scorer goes on looking at the ledger and answers for the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from rempart.flows.governance import clients
from rempart.flows.serving import service
from rempart.flows.serving.service import ScorerService
from rempart.serving.scorer.deployments import OpenedVersion
from rempart.settings.pipeline import ModelPipeline
from tests.unit.flows.serving.test_service import NAME, PIPELINE, World, answering_version, in_loop, patience, world

__all__ = ["patience", "world"]


def test_a_version_that_is_opened_slowly_delays_no_revocation_of_a_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "OPEN_PATIENCE", 0.05)
    world.train("1", 3)
    world.train("2", 4)
    world.promote("1")
    key = clients.issue(world.platform.ledger, "shop", [NAME], 60, [NAME])
    goes_on, opened = threading.Event(), list[str]()

    def slow(pipeline: ModelPipeline, record: Mapping[str, Any]) -> OpenedVersion:
        opened.append(record["version"])
        assert goes_on.wait(30)
        return world.scripted(pipeline, record)

    async def check(made: ScorerService) -> None:
        await made.refresh()
        assert made.scorer.clients.of(f"Bearer {key}").name == "shop"
        clients.revoke(world.platform.ledger, "shop")
        world.promote("2")
        await made.refresh()
        assert not made.scorer.clients.known and made.is_waiting and opened == ["1"], "one at a time"
        goes_on.set()
        while answering_version(made) != "2":
            await made.refresh()
        assert opened == ["1", "2"]
        goes_on.clear()
        world.promote("1")
        watching = asyncio.create_task(made.watch())
        while len(opened) < 3:
            await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait([watching])
        goes_on.set()
        while made.is_waiting:
            await asyncio.sleep(0.01)
        assert watching.cancelled() and answering_version(made) == "2", "nothing is deployed after the end"

    in_loop(world.service(slow), check)


def test_while_a_new_pipelines_first_champion_is_opened_the_scorer_stays_ready(world: World) -> None:
    other, seen = "other", list[tuple[bool, bool]]()

    def opened(pipeline: ModelPipeline, record: Mapping[str, Any]) -> OpenedVersion:
        known = made.scorer.deployments
        name = other if known.has_started else NAME
        seen.append((known.is_ready, known.slots[name].is_opening))
        return world.scripted(pipeline, record)

    async def check(made: ScorerService) -> None:
        world.train("1", 3)
        world.promote("1")
        await made.refresh()
        world.files[other] = PIPELINE
        world.platform.ledger.append("candidate", other, world.train("2", 4))
        world.platform.ledger.append("promotion", other, {"version": "2", "previous": None, "reasons": []})
        await made.refresh()
        assert made.scorer.deployments.of(other).opened.version == "2"

    made = world.service(opened)
    in_loop(made, check)
    assert seen == [(False, True), (True, True)], "only its own start keeps requests away"
