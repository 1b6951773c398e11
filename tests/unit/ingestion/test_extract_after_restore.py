"""Extraction after a restore: the rows of snapshots that were left behind come again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.pipeline import Pipeline
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.test_extract import Table, meters, source_of


@pytest.fixture
def table() -> Table:
    table = Table()
    for n in range(3):
        table.put(f"m{n}", NOW - timedelta(hours=5 - n))
    return table


def goes_back(platform: Platform, snapshot: snapshots.Snapshot) -> None:
    """Restore the data set to an earlier snapshot; the outcomes of later deliveries stay."""
    snapshots.point_at(platform.sites["primary"], "lake", snapshot)
    platform.ledger.append("restore", "primary", {"parts": ["dataset:readings"]})


def with_two_snapshots(platform: Platform, readings: Pipeline, table: Table) -> tuple[Platform, snapshots.Snapshot]:
    """Extract and ingest at two times, `m7` at the second. Return the platform, an hour later, and the first one."""
    source, site, at = source_of(table, readings), platform.sites["primary"], [NOW]
    platform = replace(platform, clock=lambda: at[0])
    extract(platform, readings, source=source)
    ingest(platform, readings)
    old = snapshots.current(site, "lake", "readings")
    assert old is not None
    at[0] += timedelta(hours=1)
    table.put("m7", at[0])
    extract(platform, readings, source=source)
    ingest(platform, readings)
    assert "m7" in meters(platform)
    assert extract(platform, readings, source=source).deliveries == 0
    at[0] += timedelta(hours=1)
    return platform, old


def test_rows_that_a_restore_left_behind_come_again(platform: Platform, readings: Pipeline, table: Table) -> None:
    platform, old = with_two_snapshots(platform, readings, table)
    goes_back(platform, old)
    assert extract(platform, readings, source=source_of(table, readings)).deliveries == 1  # the bytes are known
    ingest(platform, readings)
    assert sorted(meters(platform)) == sorted(table.rows)


def test_a_snapshot_built_after_a_restore_takes_no_stand_that_was_left_behind(
    platform: Platform, readings: Pipeline, table: Table, deliver: Callable[..., None]
) -> None:
    platform, old = with_two_snapshots(platform, readings, table)
    goes_back(platform, old)
    deliver("by-hand.csv", "m8,2026-01-01,1,,base,")
    ingest(platform, readings)  # its snapshot is later than that with m7, and does not descend from it
    assert extract(platform, readings, source=source_of(table, readings)).deliveries == 1
    assert ingest(platform, readings).accepted == 1
    assert sorted(meters(platform)) == sorted([*table.rows, "m8"])
