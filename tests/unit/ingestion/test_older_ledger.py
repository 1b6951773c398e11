"""What a site shows as the current snapshot is read if the ledger is older than the site, or a run was killed."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from rempart.errors import IngestError, ObjectMissing
from rempart.flows.erasure.erase_objects import repoint
from rempart.flows.ingestion import current_snapshot
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.memory import MemoryLedger
from rempart.settings.pipeline import Pipeline
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.shown_snapshots import A, B, C, Deliver, stores_of, two

__all__ = ["two"]


def made(content: str, previous: Snapshot | None, hour: float, **more: object) -> Snapshot:
    """An empty snapshot, whose id is that of its `content`."""
    before, at = previous.id if previous else None, NOW + timedelta(hours=hour)
    empty = Snapshot("", "readings", at, before, 0, (), {}, "personal", NOW.date(), (content,), "day")
    return replace(empty, id=snapshots.content_id(empty), **more)  # type: ignore[arg-type]


def commit(platform: Platform, *of: Snapshot, recorded: bool = True, **more: str) -> None:
    for snapshot in of:
        snapshots.commit(platform.sites["primary"], "lake", snapshot, [])
        if recorded:
            facts = {"snapshot": snapshot.id, "previous": snapshot.previous, "site": "primary", "bucket": "lake"}
            platform.ledger.append("snapshot", "readings", {**facts, "rows": 0, **more})


def delete_manifest(platform: Platform, name: str) -> None:
    platform.sites["primary"].delete("lake", f"snapshots/readings/{name}.json")


def read(platform: Platform) -> Snapshot | None:
    site = platform.sites["primary"]
    return current_snapshot.checked(platform.ledger, platform.active(), site, "lake", "readings")


def restored(platform: Platform, ledger: MemoryLedger) -> Platform:
    """The ledger alone was restored; the restore is recorded in it."""
    ledger.append("restore", "a point", {"ok": True, "aside": "", "parts": ["database:ledger"]})
    return replace(platform, ledger_=ledger)


@pytest.mark.parametrize("is_recorded", [True, False], ids=["restore of a part", "to a moment"])
@pytest.mark.parametrize("since", [2, 3])
def test_a_ledger_that_was_restored_alone_stops_nothing(
    platform: Platform, readings: Pipeline, deliver: Deliver, since: int, is_recorded: bool
) -> None:
    hours = itertools.count()
    platform = replace(platform, clock=lambda: NOW + timedelta(hours=next(hours)))
    earlier = MemoryLedger()
    for number, row in enumerate((A, B, C, "m4,2026-02-02,4,1,base,")[: since + 1]):
        deliver(f"{number}.csv", row)
        ingest(platform, readings)
        earlier = earlier if number else copy.deepcopy(platform.ledger)  # type: ignore[assignment]
    now = restored(platform, earlier) if is_recorded else replace(platform, ledger_=earlier)
    found = read(now)
    assert found is not None and found.rows == since + 1
    deliver("last.csv", "m5,2026-02-03,4,1,base,")
    assert ingest(now, readings).total_rows == since + 2


def test_a_restored_ledger_knows_no_later_erasure(platform: Platform) -> None:
    """It deleted the manifest of the newest snapshot on record."""
    first = made("1", None, 0)
    second = made("2", first, 1)
    commit(platform, first, second)
    earlier: MemoryLedger = copy.deepcopy(platform.ledger)  # type: ignore[assignment]
    cut = made("2 without a person", first, 1)
    commit(platform, cut, replaced=second.id)
    delete_manifest(platform, second.id)
    assert read(replace(platform, ledger_=earlier)) == read(restored(platform, earlier)) == cut


def test_a_restored_ledger_is_no_reason_to_read_a_snapshot_that_it_knows_as_earlier(platform: Platform) -> None:
    first = made("1", None, 0)
    commit(platform, first, made("2", first, 1))
    snapshots.point_at(platform.sites["primary"], "lake", first)
    with pytest.raises(IngestError, match="Nothing was read"):
        read(restored(platform, copy.deepcopy(platform.ledger)))  # type: ignore[arg-type]


def test_a_write_that_arrives_late_is_no_descendant_of_rows_that_came_back(platform: Platform) -> None:
    """The run that gave up began with the second snapshot; then the rows of the first one came back."""
    first = made("1", None, 0)
    second = made("2", first, 1)
    given_up = made("3", second, 2)
    commit(platform, first, second)
    commit(platform, given_up, recorded=False)
    commit(platform, made("1", second, 3))
    assert read(platform) == made("1", second, 3)
    snapshots.point_at(platform.sites["primary"], "lake", given_up)
    with pytest.raises(IngestError, match=f"names {first.id}"):
        read(platform)


@pytest.mark.parametrize("ledger", ["empty", "of another bucket"])
def test_a_lost_manifest_is_not_taken_for_a_pipeline_without_rows(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], ledger: str
) -> None:
    now = replace(platform, ledger_=MemoryLedger())
    if ledger != "empty":
        now.ledger.append("snapshot", "readings", {"snapshot": "0", "site": "primary", "bucket": "former", "rows": 1})
    shown = read(now)
    assert shown is not None
    delete_manifest(platform, shown.id)
    before = list(platform.sites["primary"].list("lake"))
    with pytest.raises(ObjectMissing, match=shown.id):
        ingest(now, readings)
    assert list(platform.sites["primary"].list("lake")) == before
    now.ledger.append("removal", "readings", {"id": "r", "what": "reset", "state": "ended"})
    assert ingest(now, readings).total_rows == 1


def test_an_erasure_that_brings_an_earlier_snapshot_back_is_finished_after_a_kill(
    platform: Platform, readings: Pipeline
) -> None:
    """Without the rows of one person, the second snapshot is the first."""
    first = made("1", None, 0)
    second = made("2", first, 1)
    commit(platform, first, second)
    keys = [f"snapshots/readings/{name}.json" for name in (second.id, first.id)]
    told = {"bucket": "lake", "key": keys[0], "sha256": "", "to": keys[1], "to_sha256": ""}
    platform.ledger.append("erasure", "readings", {"state": "rewritten", "successors": [told]})
    snapshots.point_at(platform.sites["primary"], "lake", first)  # and killed
    assert read(platform) == first
    assert repoint(stores_of(platform), readings, {second.id: first}) is None
    delete_manifest(platform, second.id)
    commit(platform, made("3", first, 2), recorded=False)  # killed, too
    assert read(platform) == made("3", first, 2)


def test_rows_that_come_back_count_although_the_clock_of_their_machine_is_behind(platform: Platform) -> None:
    """Their run was killed before its evidence. The snapshot between was current only once, before them."""
    first = made("1", None, 0)
    second = made("2", first, 1)
    commit(platform, first, second)
    again = made("1", second, 0.9)
    commit(platform, again, recorded=False)
    assert read(platform) == again
