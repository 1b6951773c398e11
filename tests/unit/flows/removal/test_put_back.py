"""Stored deliveries come back after any reset, and nothing of a pipeline is left beside its own folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rempart.errors import PipelineError
from rempart.flows.erasure import erase_versions
from rempart.flows.ingestion import rejudge
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.removal import execute, facts
from rempart.flows.shared import removals
from rempart.flows.shared.leases import pair_lease
from rempart.ingestion import deliveries, snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.catalogue import MemoryCatalogue
from rempart.replication.plan import Replica
from tests.erasable import NOW, Lake
from tests.unit.flows.erasure.booked import WHO, erase

NAME = "hotel_bookings"
LANDING = "landing"


def no_run() -> list[str]:
    return []


def change(lake: Lake, what: removals.What = "reset") -> execute.Removed:
    return execute.remove(lake.platform, lake.pipeline, what, no_run)


def waiting(lake: Lake) -> dict[str, bytes]:
    home = lake.site("primary")
    return {info.key: home.read(LANDING, info.key) for info in home.list(LANDING, f"{NAME}/")}


def lose(lake: Lake) -> None:
    for key in waiting(lake):
        lake.site("primary").delete(LANDING, key)


def current(lake: Lake) -> snapshots.Snapshot:
    found = snapshots.current(lake.site("primary"), lake.bucket, NAME)
    assert found
    return found


def arrivals(lake: Lake) -> dict[str, str]:
    found = deliveries.outcomes(lake.site("primary"), lake.bucket, NAME)
    return {str(outcome["sha256"]): str(outcome["landed_at"]) for outcome in found}


def test_deliveries_whose_copies_are_gone_come_back_by_the_next_reset(lake: Lake) -> None:
    was, arrived = current(lake), arrivals(lake)
    change(lake)
    once = waiting(lake)
    lose(lake)  # somebody cleans the landing bucket up
    assert change(lake).put_back == 2 and waiting(lake) == once
    ingest(lake.platform, lake.pipeline)
    assert current(lake).id == was.id and arrivals(lake) == arrived, "they count from their first arrival"
    # put back once more, they are the same deliveries
    for key, body in once.items():
        lake.site("primary").write(LANDING, key, body)
    again = ingest(lake.platform, lake.pipeline)
    assert (again.changed, again.deliveries) == (False, 0) and not waiting(lake)


def test_a_reset_that_is_completed_puts_back_what_was_lost_meanwhile(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = current(lake)
    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(erase_versions, "delete_unless_locked", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        change(lake)
    once = waiting(lake)
    lose(lake)
    assert change(lake).put_back == 2 and waiting(lake) == once
    ingest(lake.platform, lake.pipeline)
    assert current(lake).id == was.id


def test_a_delivery_that_an_erasure_cut_is_not_lost_to_a_second_reset(lake: Lake) -> None:
    erase(lake, WHO)
    rows = current(lake).rows
    for _ in range(2):
        assert change(lake).put_back == 2
        ingest(lake.platform, lake.pipeline)
        assert current(lake).rows == rows


def test_a_rejudgement_names_the_deliveries_that_nobody_took_in(lake: Lake) -> None:
    assert rejudge.plan(lake.platform, lake.pipeline).waiting == 0
    home = lake.site("primary")
    (lost, *_) = sorted(arrivals(lake))
    home.delete(lake.bucket, deliveries.outcome_key(NAME, lost))
    planned = rejudge.plan(lake.platform, lake.pipeline)
    assert planned.waiting == 1 and "NOT judged: 1 stored deliveries" in "\n".join(planned.lines())


def test_a_history_that_is_extracted_again_is_a_loss(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "is_extracted", lambda source: True)
    versions = lake.pipeline.model_copy(update={"on_conflict": "history"})
    planned = execute.look(lake.platform, versions, "reset", no_run)
    assert any("accepted rows would be lost, unless the source still has them" in why for why in planned.refusals)
    assert not execute.look(lake.platform, versions, "reset", no_run, accept_loss=True).refusals


def test_a_reset_leaves_no_extracted_delivery(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next extraction begins again, and takes the name of the first."""
    key = f"{NAME}/extract-00000001/rows.csv"
    lake.site("primary").write(LANDING, key, b"rows")
    change(lake)
    assert key in waiting(lake), "to this pipeline files are delivered"
    monkeypatch.setattr(facts, "is_extracted", lambda source: True)
    change(lake)
    assert key not in waiting(lake)


PLACES = (
    "snapshots/{}/current.json",
    "snapshots/{}/_delta_log/00000000000000000001.json",
    "snapshots/{}/parts/1.parquet",
    "deliveries/{}/1.json",
    "sources/{}/pending.json",
    "profiles/{}/1.html",
    "quarantine/{}/1.parquet",
    "raw/{}/1/a.csv",
    "training/{}/1.parquet",
)


def test_copies_that_a_reconciliation_kept_aside_go_in_every_version(lake: Lake, folder: Path) -> None:
    for name in ("primary", "haven"):
        for place in PLACES:
            for body in (b"one", b"two"):
                lake.site(name).write(lake.bucket, f"conflicts/3/{place.format(NAME)}", body)
                lake.site(name).write(lake.bucket, f"conflicts/4/conflicts/3/{place.format(NAME)}", body)
            lake.site(name).write(lake.bucket, f"conflicts/3/{place.format('other')}", b"another pipeline's")
    lake.site("primary").write(LANDING, f"conflicts/3/{NAME}/late.csv", b"it waited")

    def left(*kept: str) -> list[str]:
        return [
            f"{name}/{info.key}"
            for name in ("primary", "haven")
            for bucket in (lake.bucket, LANDING)
            for info in lake.site(name).versions(bucket, "conflicts/")
            if NAME in info.key and not any(part in info.key for part in kept)
        ]

    assert not change(lake).left and left("raw/", "training/", "late.csv") == []
    assert not change(lake, "remove").left and left() == []
    assert len(list(lake.site("haven").versions(lake.bucket, "conflicts/3/"))) == len(PLACES)


def replica(key: str, version: str | None) -> Replica:
    at = version or ""
    return Replica(key, at, 0, False, 1, "", "", NOW, at, "", "read back", NOW, NOW)


def catalogue(lake: Lake, *pair: str) -> Any:
    return lake.platform.continuity.catalogue(*pair)


def test_a_removal_that_was_killed_before_the_catalogues_forgot_is_completed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, known = lake.site("primary"), catalogue(lake, "primary", "haven")
    rows = [replica(info.key, info.version_id) for info in home.versions(lake.bucket) if not info.marker]
    with lake.platform.continuity.hold_lease(pair_lease("primary", "haven"), "a test") as lease:
        known.record(lake.bucket, rows, lease)
    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(MemoryCatalogue, "forget", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        change(lake)
    assert not list(home.versions(lake.bucket, f"snapshots/{NAME}/"))
    assert not change(lake).left
    left = {row.key.split("/")[0] for row in known.rows(lake.bucket) if NAME in row.key}
    assert left == {"raw", "training"} and any(row.key == "snapshots/other/current.json" for row in rows)
    assert any(row.key == "snapshots/other/current.json" for row in known.rows(lake.bucket))


def test_no_model_joins_a_pipeline_that_was_removed_since_its_training_began() -> None:
    ledger = MemoryLedger()
    ledger.append("snapshot", NAME, {"snapshot": "a"})
    removals.check_trained(ledger, NAME, "a")
    ledger.append("removal", NAME, {"id": "1", "what": "reset", "state": "ended"})
    removals.check_trained(ledger, NAME, "a")  # models stay
    ledger.append("removal", NAME, {"id": "2", "what": "remove", "state": "began"})
    with pytest.raises(PipelineError, match="has not ended"):
        removals.check_trained(ledger, NAME, "a")
    ledger.append("removal", NAME, {"id": "2", "what": "remove", "state": "ended"})
    with pytest.raises(PipelineError, match="was removed after snapshot a was made"):
        removals.check_trained(ledger, NAME, "a")
    ledger.append("snapshot", NAME, {"snapshot": "b", "replaced": "a"})
    removals.check_trained(ledger, NAME, "a")
    removals.check_trained(ledger, NAME, "b")
