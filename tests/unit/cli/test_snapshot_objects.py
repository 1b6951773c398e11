"""`rempart pipeline show` looks whether the objects of the current snapshot are at the active site."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from rempart.cli.views import snapshot_objects
from rempart.cli.views.snapshot_objects import SnapshotObjects
from rempart.errors import SiteError
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.pipeline import Pipeline
from tests.unit.ingestion.conftest import deliver, make_platform, platform, readings

__all__ = ["deliver", "make_platform", "platform", "readings"]


@pytest.fixture
def snapshot(platform: Platform, readings: Pipeline, deliver: Callable[..., None]) -> str:
    """The id of a snapshot of two months."""
    deliver("1.csv", "m1,2026-01-01,1,,base,", "m2,2026-02-01,2,3,night,x")
    found = ingest(platform, readings).snapshot
    assert found
    return found


def look(platform: Platform, readings: Pipeline, snapshot: str) -> SnapshotObjects:
    return snapshot_objects.look(lambda: platform, readings, snapshot)


def test_a_whole_snapshot_is_no_line(platform: Platform, readings: Pipeline, snapshot: str) -> None:
    found = look(platform, readings, snapshot)
    assert found == SnapshotObjects("primary", 4) and list(snapshot_objects.lines(found, "readings")) == []


def test_a_lost_part_is_told_in_one_line_with_the_command(
    platform: Platform, readings: Pipeline, snapshot: str
) -> None:
    site = platform.sites["primary"]
    lost = snapshots.read(site, "lake", "readings", snapshot).parts[1].key
    site.delete("lake", lost)
    (line,) = snapshot_objects.lines(look(platform, readings, snapshot), "readings")
    assert line == (
        f"MISSING at site 'primary': 1 of the snapshot's objects: {lost}. "
        "Bring them back: rempart restore --only dataset:readings"
    )


def test_everything_that_is_lost_is_counted(platform: Platform, readings: Pipeline, snapshot: str) -> None:
    site = platform.sites["primary"]
    for info in list(site.list("lake", "snapshots/")):
        site.delete("lake", info.key)
    found = look(platform, readings, snapshot)
    assert found.missing == ("snapshots/readings/current.json", f"snapshots/readings/{snapshot}.json")
    (line,) = snapshot_objects.lines(found, "readings")
    assert "nobody knows how many are there" in line and not found.is_whole
    assert snapshot_objects.as_json(found) == {"site": "primary", "missing": found.missing, "unknown": None}


def test_a_snapshot_that_was_given_up_on_record_is_not_to_be_brought_back(
    platform: Platform, readings: Pipeline, snapshot: str
) -> None:
    site = platform.sites["primary"]
    for info in list(site.list("lake", "snapshots/")):
        site.delete("lake", info.key)
    body = {"shown": None, "site": "primary", "bucket": "lake", "by": "an erasure in its inputs"}
    platform.ledger.append("acceptance", readings.name, {**body, "lost": "another"})
    assert not look(platform, readings, snapshot).is_whole
    platform.ledger.append("acceptance", readings.name, {**body, "lost": snapshot})
    assert look(platform, readings, snapshot).is_whole


def test_a_site_that_refuses_or_hangs_is_unknown_and_never_whole(readings: Pipeline) -> None:
    over = threading.Event()

    def refuses() -> Platform:
        raise SiteError("list lake at site 'primary': refused", "Look at it.")

    def hangs() -> Platform:
        over.wait(60)
        raise AssertionError

    for opens, told in ((refuses, "refused"), (hangs, "no answer within 0 s")):
        found = snapshot_objects.look(opens, readings, "s", 0.05)
        (line,) = snapshot_objects.lines(found, "readings")
        assert line.startswith("UNKNOWN: ") and line.endswith(told) and not found.missing
    over.set()
