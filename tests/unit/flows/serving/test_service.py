"""The scorer follows the ledger, and goes on with what it knows while ledger and site are away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import DatabaseUnavailable, ModelRefused, PipelineError, ServingError, SiteUnavailable
from rempart.features.prediction.plan import plan
from rempart.flows.governance import clients
from rempart.flows.prediction.champion import Champion
from rempart.flows.serving import model_files, service, standings
from rempart.flows.serving.service import Opening, ScorerService
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.models.loading import open_verified
from rempart.models.onnx_format import MODEL_FILE
from rempart.serving.scorer.app import Scorer
from rempart.serving.scorer.clients import Clients
from rempart.serving.scorer.deployments import Deployments, OpenedVersion
from rempart.serving.scorer.friendly import Question
from rempart.serving.scorer.refusals import Refused
from rempart.settings.config import load
from rempart.settings.pipeline import ModelPipeline, Pipeline
from tests import answering
from tests.answering import RecordingLog, ScriptedVersion
from tests.memory_site import MemorySite
from tests.unit.flows.prediction.test_champion import no_lookup, raw
from tests.unit.training import stage

NAME = "stays_test"
PIPELINE = stage.pipeline()
SHADOWED = stage.pipeline(serving={"shadow": True})


class World:
    """A platform in memory with versions 1 (a real model) and 2."""

    def __init__(self, folder: Path) -> None:
        self.platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), no_connection)
        self.folder = folder
        self.files: dict[str, Pipeline | PipelineError] = {NAME: PIPELINE}
        self.opened: list[ScriptedVersion] = []
        self.refused: set[str] = set()

    @property
    def site(self) -> MemorySite:
        found = self.platform.sites["primary"]
        assert isinstance(found, MemorySite)
        return found

    def train(self, version: str, iterations: int) -> Mapping[str, Any]:
        record = answering.record(version, iterations)
        self.site.write("artifacts", f"jobs/{version}/{MODEL_FILE}", answering.body(iterations))
        self.platform.ledger.append("candidate", NAME, record)
        return record

    def promote(self, version: str) -> None:
        self.platform.ledger.append("promotion", NAME, {"version": version, "previous": None, "reasons": []})

    def scripted(self, pipeline: ModelPipeline, record: Mapping[str, Any]) -> OpenedVersion:
        if record["version"] in self.refused:
            raise ModelRefused("open the version: it differs", "Look at it.")
        version = ScriptedVersion(record["version"])
        version.sha256 = record["files"][MODEL_FILE]
        self.opened.append(version)
        return version

    def service(self, opened: service.Opened | None = None) -> ScorerService:
        scorer = Scorer(Deployments(), Clients(), RecordingLog(), "here", "0")
        return ScorerService(self.platform, self.folder, scorer, opened or self.scripted, lambda: dict(self.files))


def no_connection(name: str) -> Any:
    raise AssertionError(name)


def away(*_: Any, **__: Any) -> Any:
    raise DatabaseUnavailable("read the ledger: no answer", "Start it.")


def site_away(*_: Any, **__: Any) -> Any:
    raise SiteUnavailable("read model.onnx: no answer", "Wait.")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "scorer")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look waits until its versions are open, however busy this machine is."""
    monkeypatch.setattr(service, "OPEN_PATIENCE", 60.0)


def in_loop(made: ScorerService, check: Callable[[ScorerService], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await check(made)
        finally:
            await made.scorer.shadows.finish()
            await made.scorer.deployments.finish()

    asyncio.run(main())


def answering_version(made: ScorerService) -> str | None:
    slot = made.scorer.deployments.slots.get(NAME)
    return slot.champion.opened.version if slot and slot.champion else None


def test_a_real_version_answers_as_the_champion_of_a_table_and_starts_again_without_ledger_and_site(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = world.train("1", 3)
    world.promote("1")
    rows = [dict(row) for row in raw(answering.TABLE).slice(0, 20).to_pylist()]
    model = open_verified(record, answering.body(3))
    names = [feature.name for feature in model.features]
    champion = Champion(model, plan(PIPELINE, names), no_lookup, lambda: datetime.now(UTC))
    wanted = champion.predict(raw(answering.TABLE).slice(0, 20)).to_pylist()
    question = Question([row | {"arrival": row["arrival"].isoformat()} for row in rows])

    async def check(made: ScorerService) -> None:
        await made.refresh()
        answer = await made.scorer.deployments.of(NAME).ask(question)
        assert list(answer.outputs) == wanted
        assert answer.features[0][list(answer.names).index("stay__lead")] == rows[0]["lead"]

    in_loop(world.service(Opening(world.platform, world.folder).open), check)
    monkeypatch.setattr(Platform, "ledger", property(away))
    monkeypatch.setattr(MemorySite, "read", site_away)

    async def check_again(made: ScorerService) -> None:
        await check(made)
        known = made.scorer.deployments
        assert known.known_at is not None and "read the ledger" in known.fault

    in_loop(world.service(Opening(world.platform, world.folder).open), check_again)
    model.close()


def test_an_altered_model_is_not_opened_and_one_altered_on_disk_is_fetched_again(world: World) -> None:
    record = world.train("1", 3)
    digest = record["files"][MODEL_FILE]
    sites = [lambda: world.site]
    assert model_files.body_of(record, sites, "artifacts", world.folder) == answering.body(3)
    kept = world.folder / f"{digest}.onnx"
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_bytes(b"altered")
    assert model_files.body_of(record, sites, "artifacts", world.folder) == answering.body(3)
    kept.unlink()
    world.site.write("artifacts", f"jobs/1/{MODEL_FILE}", b"altered")
    good = stage.memory_site()
    good.write("artifacts", f"jobs/1/{MODEL_FILE}", answering.body(3))
    with pytest.raises(Exception, match="SHA-256"):
        model_files.body_of(record, sites, "artifacts", world.folder)
    assert model_files.body_of(record, [*sites, lambda: good], "artifacts", world.folder) == answering.body(3)
    with pytest.raises(ModelRefused, match="differs from the recorded file"):
        open_verified(record, b"altered")
    with pytest.raises(ModelRefused, match="names no object"):
        model_files.body_of({**record, "outputs": {}}, sites, "artifacts", world.folder / "other")
    model_files.forget_others(world.folder, ())
    assert not list(world.folder.glob("*.onnx"))


def test_promotion_rollback_and_removal_take_effect(world: World) -> None:
    async def check(made: ScorerService) -> None:
        assert not made.scorer.deployments.is_ready
        await made.refresh()
        assert answering_version(made) is None and made.scorer.deployments.is_ready
        world.train("1", 3)
        world.train("2", 4)
        world.promote("1")
        await made.refresh()
        assert answering_version(made) == "1"
        world.promote("2")
        await made.refresh()
        assert answering_version(made) == "2"
        world.platform.ledger.append("rollback", NAME, {"champion": "1", "replaces": "2", "alias_was": "2"})
        await made.refresh()
        assert answering_version(made) == "1"
        opened = len(world.opened)
        world.platform.ledger.append("look", NAME, {})
        await made.refresh()
        assert len(world.opened) == opened, "what answers is not opened again"
        world.opened[-1].is_broken = True
        await made.refresh()
        assert len(world.opened) == opened + 1
        world.files[NAME] = PipelineError("the file is not valid", "Correct it.")
        await made.refresh()
        assert answering_version(made) == "1"
        del world.files[NAME]
        await made.refresh()
        assert answering_version(made) is None

    in_loop(world.service(), check)
    assert all(version.closed for version in world.opened)


def test_who_waits_for_a_look_returns_after_one_that_began_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(made: ScorerService) -> None:
        keys = list[str]()
        read = made._read

        def issue_while_reading(*given: Any) -> Any:
            found = read(*given)
            if not keys:  # too late for this reading
                keys.append(clients.issue(world.platform.ledger, "shop", [NAME], 60, [NAME]))
            return found

        monkeypatch.setattr(made, "_read", issue_while_reading)
        looking = asyncio.create_task(made.refresh())
        while not keys:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(made.looked())
        await looking
        await asyncio.sleep(0)
        assert not waiting.done() and not made.scorer.clients.known
        await made.refresh()
        await waiting
        assert made.scorer.clients.of(f"Bearer {keys[0]}").name == "shop"

    in_loop(world.service(), check)


def test_a_champion_that_cannot_be_opened_leaves_the_former_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(made: ScorerService) -> None:
        world.train("1", 3)
        world.train("2", 4)
        world.promote("1")
        await made.refresh()
        world.refused = {"2"}
        world.promote("2")
        await made.refresh()
        slot = made.scorer.deployments.slots[NAME]
        assert (answering_version(made), slot.fault) == ("1", "open the version: it differs")
        world.refused = set()
        await made.refresh()
        assert answering_version(made) == "1", "it is not tried at once"
        made._failed.clear()
        await made.refresh()
        assert (answering_version(made), slot.fault) == ("2", "")

    in_loop(world.service(), check)


def test_the_newest_candidate_shadows_the_champion_if_the_file_says_so(world: World) -> None:
    async def check(made: ScorerService) -> None:
        world.train("1", 3)
        world.promote("1")
        world.train("2", 4)
        await made.refresh()
        slot = made.scorer.deployments.slots[NAME]
        assert slot.shadow is None
        world.files[NAME] = SHADOWED
        await made.refresh()
        assert slot.shadow and slot.shadow.opened.version == "2"
        world.promote("2")
        await made.refresh()
        assert (answering_version(made), slot.shadow) == ("2", None)

    in_loop(world.service(), check)


def test_clients_follow_the_ledger_and_stay_while_it_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(made: ScorerService) -> None:
        key = clients.issue(world.platform.ledger, "shop", [NAME], 60, [NAME])
        await made.refresh()
        header = f"Bearer {key}"
        assert made.scorer.clients.of(header).name == "shop"
        with monkeypatch.context() as patch:
            patch.setattr(Platform, "ledger", property(away))
            await made.refresh()
            assert made.scorer.clients.of(header).name == "shop"
            assert made.scorer.deployments.fault
        clients.revoke(world.platform.ledger, "shop")
        await made.refresh()
        assert not made.scorer.clients.known and not made.scorer.deployments.fault

    in_loop(world.service(), check)


def test_an_unexpected_failure_a_full_disk_and_a_shorter_ledger_are_told_and_nothing_is_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(24, "too many open files")

    def full(*_: Any) -> None:
        raise ServingError("keep the reading: no space", "Make room.")

    async def check(made: ScorerService) -> None:
        world.train("1", 3)
        world.promote("1")
        made.open = fails
        await made.refresh()
        assert made.scorer.deployments.slots[NAME].fault == "open it: OSError"
        key = clients.issue(world.platform.ledger, "shop", [NAME], 60, [NAME])
        await made.refresh()
        assert made.scorer.clients.of(f"Bearer {key}").name == "shop"
        clients.revoke(world.platform.ledger, "shop")
        with monkeypatch.context() as patch:
            patch.setattr(standings, "keep", full)
            await made.refresh()
        assert not made.scorer.clients.known and not made.scorer.deployments.fault
        with monkeypatch.context() as patch:
            patch.setattr(standings, "newest_record", lambda ledger: 1)
            await made.refresh()
        assert "it ends at record 1" in made.scorer.deployments.fault and not made.scorer.clients.known

    in_loop(world.service(), check)


def test_a_ledger_that_does_not_answer_keeps_nobody_waiting_and_is_asked_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.train("1", 3)
    world.train("2", 4)
    world.promote("1")
    key = clients.issue(world.platform.ledger, "shop", [NAME], 60, [NAME])
    in_loop(world.service(), ScorerService.refresh)  # it leaves a reading on disk
    monkeypatch.setattr(service, "PATIENCE", 0.1)
    goes_on, asked, read = threading.Event(), [0], standings.newest_record

    def stalled(ledger: Ledger) -> int:
        asked[0] += 1
        assert goes_on.wait(30)
        return read(ledger)

    async def check(made: ScorerService) -> None:
        made.scorer.deployments.champions = None
        monkeypatch.setattr(standings, "newest_record", stalled)
        for _ in range(3):
            await made.refresh()
        assert (answering_version(made), asked) == ("1", [1])
        assert made.scorer.clients.of(f"Bearer {key}").name == "shop"
        assert "no answer within" in made.scorer.deployments.fault and not made.scorer.deployments.is_starting
        assert made.is_waiting
        monkeypatch.setattr(service, "PATIENCE", 30)
        world.promote("2")
        goes_on.set()
        await made.refresh()
        assert not made.is_waiting
        await made.refresh()
        assert (answering_version(made), made.scorer.deployments.fault) == ("2", "")

    in_loop(world.service(), check)


def test_a_champion_that_is_being_opened_is_told_so(world: World) -> None:
    world.train("1", 3)
    world.promote("1")
    opens, goes_on = threading.Event(), threading.Event()

    def slow(pipeline: ModelPipeline, record: Mapping[str, Any]) -> OpenedVersion:
        opens.set()
        assert goes_on.wait(30)
        return world.scripted(pipeline, record)

    async def check(made: ScorerService) -> None:
        refreshing = asyncio.create_task(made.refresh())
        await asyncio.to_thread(opens.wait, 30)
        with pytest.raises(Refused) as refused:
            made.scorer.deployments.of(NAME)
        assert refused.value.status == 503 and "it is being opened" in refused.value.what
        goes_on.set()
        await refreshing
        assert answering_version(made) == "1" and not made.scorer.deployments.slots[NAME].fault

    in_loop(world.service(slow), check)


def test_a_reading_that_cannot_be_read_counts_as_none(world: World) -> None:
    assert standings.kept(world.folder) is None
    world.folder.mkdir()
    for text in ("", "{}", "[]", '{"at": 1}'):
        (world.folder / standings.FILE).write_text(text)
        assert standings.kept(world.folder) is None
