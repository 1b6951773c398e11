"""Reset and removal at two sites in memory: what goes, what waits again, and what forbids them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import PipelineError, SiteError
from rempart.flows.erasure import erase as erasing
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_stores import open_stores
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.removal import execute, jobs
from rempart.flows.shared import removals
from rempart.flows.training import champions
from rempart.ingestion import snapshots
from rempart.models.removal import Registered
from rempart.settings import pipelines
from tests.erasable import ROWS, Lake
from tests.unit.flows.erasure.booked import WHO, erase
from tests.unit.flows.removal.stores import Stores

NAME = "hotel_bookings"
KEPT = ("raw/", "training/")
JOB_FILES = ("checkpoint/5-ab.npz", "model.onnx", "order.json", "result.json", "spec.json")


def no_run() -> list[str]:
    return []


def keys(lake: Lake, site: str = "primary") -> set[str]:
    """The keys of every version of the pipeline's objects, conflicts among them."""
    return {info.key for info in lake.site(site).versions(lake.bucket) if NAME in info.key}


def current(lake: Lake) -> snapshots.Snapshot | None:
    return snapshots.current(lake.site("primary"), lake.bucket, NAME)


def waiting(lake: Lake) -> list[str]:
    return [info.key for info in lake.site("primary").list(lake.platform.config.buckets.landing, f"{NAME}/")]


def change(lake: Lake, what: removals.What, runs: Callable[[], list[str]] = no_run) -> execute.Removed:
    return execute.remove(lake.platform, lake.pipeline, what, runs)


def test_a_plan_names_what_goes_and_stays_and_changes_nothing(lake: Lake) -> None:
    before = [list(lake.site(name).versions(lake.bucket)) for name in ("primary", "haven")]
    told = "\n".join(execute.look(lake.platform, lake.pipeline, "reset", no_run).lines())
    assert "2 deliveries" in told and "snapshots/hotel_bookings/" in told and "hotel_bookings__rows" in told
    assert "raw/hotel_bookings/" not in told and "restore points" in told and "every record of the ledger" in told
    told = "\n".join(execute.look(lake.platform, lake.pipeline, "remove", no_run).lines())
    assert "raw/hotel_bookings/" in told and "training/hotel_bookings/" in told and "2 versions" in told
    assert [list(lake.site(name).versions(lake.bucket)) for name in ("primary", "haven")] == before
    assert not lake.platform.ledger.find("removal")


def test_after_a_reset_the_stored_deliveries_give_the_same_snapshot(lake: Lake, stores: Stores) -> None:
    was = current(lake)
    assert was is not None
    done = change(lake, "reset")
    assert not done.left and not done.locked and done.put_back == 2
    for name in ("primary", "haven"):
        assert all(key.startswith(KEPT) for key in keys(lake, name))
        assert lake.site(name).read(lake.bucket, "snapshots/other/current.json")
    assert stores.tables == [] and stores.models.model
    again = ingest(lake.platform, lake.pipeline)
    now = current(lake)
    assert now is not None and (now.id, now.rows, again.deliveries) == (was.id, was.rows, 2)
    assert again.quarantined == 1  # the second delivery of a booking is refused again, so the order was kept
    states = [record.body["state"] for record in lake.platform.ledger.find("removal", NAME)]
    assert states == ["ended", "deleting", "began"]
    assert waiting(lake) == [] and not ingest(lake.platform, lake.pipeline).changed


def test_a_run_that_is_killed_after_a_reset_is_completed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    was = current(lake)
    change(lake, "reset")
    with monkeypatch.context() as killed:
        killed.setattr(ingest_run, "conclude", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(lake.platform, lake.pipeline)
    done = ingest(lake.platform, lake.pipeline)
    now = current(lake)
    assert was and now and now.id == was.id and (done.accepted, done.quarantined) == (now.rows, 1)


def test_an_erasure_that_was_followed_into_a_pipeline_is_over_there(lake: Lake) -> None:
    lake.platform.ledger.append("erasure", NAME, {"state": "derived", "deleted": 1, "withdrawn": False, "pending": []})
    assert not change(lake, "reset").left


def test_a_reset_brings_no_erased_row_back(lake: Lake) -> None:
    assert not erase(lake, WHO).pending
    rows = getattr(current(lake), "rows", 0)
    change(lake, "reset")
    ingest(lake.platform, lake.pipeline)
    assert getattr(current(lake), "rows", 0) == rows and lake.holders(WHO) == []


class Dying:
    """Raises after so many writes and deletions at the sites, as a killed process would end."""

    def __init__(self, lake: Lake, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        for name in ("primary", "haven"):
            site: Any = lake.site(name)
            for act in ("write", "write_new", "delete"):
                monkeypatch.setattr(site, act, self._counted(getattr(site, act)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return call(*given, **named)

        return counted


@pytest.mark.parametrize("steps", [0, 1, 3, 9, 17])
def test_an_interrupted_reset_is_completed_by_the_same_command(
    lake: Lake, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = current(lake)
    with monkeypatch.context() as during:
        Dying(lake, during, steps)
        with pytest.raises(KeyboardInterrupt):
            change(lake, "reset")
    with pytest.raises(PipelineError, match="has not ended"):
        ingest(lake.platform, lake.pipeline)  # nobody builds on half of the data
    assert not change(lake, "reset").left
    assert len(waiting(lake)) == 2
    ingest(lake.platform, lake.pipeline)
    assert getattr(current(lake), "id", "") == getattr(was, "id", None)


@pytest.mark.parametrize("steps", [0, 13])
def test_a_removal_leaves_nothing_at_either_site_even_if_it_was_interrupted(
    lake: Lake, stores: Stores, folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.site("primary").write(lake.platform.config.buckets.landing, f"{NAME}/late.csv", b"it waits")
    with monkeypatch.context() as during:
        Dying(lake, during, steps)
        with pytest.raises(KeyboardInterrupt):
            change(lake, "remove")
    moved = pipelines.named_or_removed(NAME)
    done = execute.remove(lake.platform, moved, "remove", no_run)
    assert not done.left and keys(lake) == keys(lake, "haven") == set() and waiting(lake) == []
    assert lake.site("haven").read(lake.bucket, "snapshots/other/current.json")
    assert stores.models == Registered() and pipelines.names() == [] and (folder / "removed" / f"{NAME}.yaml").is_file()
    assert lake.platform.ledger.find("snapshot", NAME)  # what was stays on record
    told = "\n".join(execute.look(lake.platform, moved, "remove", no_run).lines())
    assert "snapshots" not in told.split("kept:")[0]


def test_a_champion_of_a_removed_pipeline_is_none_of_a_new_one_with_its_name(lake: Lake, folder: Path) -> None:
    ledger = lake.platform.ledger
    ledger.append("promotion", NAME, {"version": "1", "previous": None, "reasons": []})
    change(lake, "reset")
    assert champions.intended(champions.decisions_on(ledger, NAME)) == "1"
    change(lake, "remove")
    assert champions.intended(champions.decisions_on(ledger, NAME)) is None


def test_a_run_that_began_before_a_reset_commits_nothing(lake: Lake) -> None:
    run = ingest_run.begin(lake.platform, lake.pipeline)
    change(lake, "reset")
    with pytest.raises(PipelineError, match="nothing was committed"):
        run.check_unchanged(None)


def test_an_erasure_after_a_removal_still_finds_the_key_and_schema(lake: Lake, folder: Path) -> None:
    erase(lake, WHO)
    change(lake, "remove")
    (result,) = erasing.again(lake.platform)
    assert result.pipeline == NAME and not result.pending


def silent_site(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def gone(*given: Any, **named: Any) -> Any:
        raise SiteError("no answer", "Wait.")

    monkeypatch.setattr(lake.site("haven"), "versions", gone)
    yield "site 'haven' did not answer"


def unfinished_erasure(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    lake.platform.ledger.append("erasure", NAME, {"state": "registered", "id": "e", "pseudonyms": []})
    yield "an erasure of rows of 'hotel_bookings' is in progress"


def lost_delivery(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    home = lake.site("primary")
    for info in list(home.versions(lake.bucket, f"raw/{NAME}/")):
        home.delete(lake.bucket, info.key, version_id=info.version_id)
    yield "accepted rows would be lost"


@pytest.mark.parametrize("unsafe", [silent_site, unfinished_erasure, lost_delivery])
def test_what_is_not_safe_is_refused_by_name_before_anything_changes(
    lake: Lake, unsafe: Callable[[Lake, pytest.MonkeyPatch], Iterator[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (why,) = unsafe(lake, monkeypatch)
    before = keys(lake)
    with pytest.raises(PipelineError, match=why):
        change(lake, "reset")
    assert keys(lake) == before and not lake.platform.ledger.find("removal")


def test_a_run_that_has_not_ended_is_named_also_if_it_began_after_the_plan(lake: Lake) -> None:
    with pytest.raises(PipelineError, match="a run has not ended: train_x"):
        change(lake, "reset", lambda: ["train_x"])
    answers = iter([[], ["ingest_x"]])
    with pytest.raises(PipelineError, match="a run began meanwhile: ingest_x"):
        change(lake, "reset", lambda: next(answers))
    assert current(lake) is not None
    assert not change(lake, "reset").left


def test_a_reset_is_not_begun_in_the_middle_of_a_removal(lake: Lake) -> None:
    lake.platform.ledger.append("removal", NAME, {"id": "1", "what": "remove", "state": "deleting"})
    with pytest.raises(PipelineError, match="a remove began"):
        change(lake, "reset")
    assert len(ROWS) > 10 and current(lake) is not None


def test_what_a_replication_copied_while_the_reset_waited_goes_too(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = f"snapshots/{NAME}/copied.json"
    delete = erase_versions.delete_versions

    def copying(*given: Any, **named: Any) -> Any:
        """The lease is waited for here: the objects were listed before."""
        if waited:
            lake.site("haven").write(lake.bucket, waited.pop(), b"{}")
        return delete(*given, **named)

    waited = [copied]
    monkeypatch.setattr(erase_versions, "delete_versions", copying)
    done = change(lake, "reset")
    assert done.left == () and not waited
    assert copied not in keys(lake, "haven")


@pytest.fixture
def trained(lake: Lake) -> Lake:
    """Jobs of the pipeline with and without a candidate, of another pipeline, and one that stored no order."""
    bucket = lake.platform.config.buckets.artifacts
    for name in ("primary", "haven"):
        site = lake.site(name)
        for job, pipeline in (("a1", NAME), ("a2", NAME), ("b1", "stays"), ("b2", "stays")):
            for file in JOB_FILES:
                site.write(bucket, f"jobs/{job}/{file}", json.dumps({"pipeline": pipeline}).encode())
        site.write(bucket, f"jobs/a1/{JOB_FILES[0]}", b"a second version")
        site.write(bucket, "jobs/c1/checkpoint.json", b"{}")
        site.write(bucket, "mlflow/1/model.onnx", b"of MLflow")
        site.delete(bucket, "jobs/a1/spec.json")  # a candidate's evidence names it, even without its order
        site.delete(bucket, "jobs/a1/order.json")
    for job, pipeline in (("a1", NAME), ("b1", "stays")):
        lake.platform.ledger.append("candidate", pipeline, {"version": "1", "job_id": job})
    return lake


def jobs_left(lake: Lake, site: str) -> set[str]:
    bucket = lake.platform.config.buckets.artifacts
    return {info.key.split("/")[1] for info in lake.site(site).versions(bucket) if info.key.startswith("jobs/")}


def test_the_plan_counts_them_and_a_removal_deletes_every_version_of_them(trained: Lake, folder: Path) -> None:
    bucket = trained.platform.config.buckets.artifacts
    told = "\n".join(execute.look(trained.platform, trained.pipeline, "remove", no_run).lines())
    assert "files of training jobs" in told
    assert "training jobs" not in "\n".join(execute.look(trained.platform, trained.pipeline, "reset", no_run).lines())
    done = change(trained, "remove")
    assert not done.left
    for site in ("primary", "haven"):
        assert jobs_left(trained, site) == {"b1", "b2", "c1"}
        assert trained.site(site).read(bucket, "mlflow/1/model.onnx")
    ended = trained.platform.ledger.find("removal", NAME)[0]
    assert ended.body["state"] == "ended" and ended.body["jobs"] == ["a1", "a2"]


def test_a_site_that_does_not_answer_is_named_by_the_plan(
    trained: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*given: object, **named: object) -> object:
        raise SiteError("no answer", "Wait.")

    for act in ("versions", "list", "read"):
        monkeypatch.setattr(trained.site("haven"), act, gone)
    told = "\n".join(execute.look(trained.platform, trained.pipeline, "remove", no_run).lines())
    assert "site 'haven' did not answer" in told


def test_what_says_whose_job_it_is_goes_last(trained: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = trained.platform.config.buckets.artifacts
    home, gone = trained.site("primary"), list[str]()
    delete = home.delete

    def counted(place: str, key: str, **named: object) -> object:
        if place == bucket:
            gone.append(key)
            if len(gone) == 4:
                raise KeyboardInterrupt
        return delete(place, key, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as during:
        during.setattr(home, "delete", counted)
        with pytest.raises(KeyboardInterrupt):
            change(trained, "remove")
    assert not any(key.endswith(jobs.ORDERS) for key in gone)
    assert jobs.of_pipeline(open_stores(trained.platform), NAME) == {"a1", "a2"}
