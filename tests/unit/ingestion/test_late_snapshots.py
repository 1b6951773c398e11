"""L9: a write of `current.json` that a site stores late hides no rows, whoever reads the current snapshot."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rempart.cli.views import snapshot_objects
from rempart.errors import IngestError, SiteUnavailable
from rempart.flows.ingestion import current_snapshot, profile
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.prediction.score import score
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import materialize
from rempart.ingestion import snapshots
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.shown_snapshots import CURRENT, A, B, C, Deliver, newest, show, stores_of, two

__all__ = ["two"]

UNCHECKED = {
    "flows/erasure/erase_listing.py": "what a site of a pair names helps to doubt its listing; a replica may be behind",
    "flows/erasure/erase_stores.py": "during a restore, which brings an older snapshot back",
    "flows/ingestion/current_snapshot.py": "here it is checked",
    "flows/ingestion/delta_log.py": "inside a commit, after which the next one publishes the newest again",
    "flows/ingestion/ingest_run.py": "compared with the checked one that the run began with",
    "flows/removal/facts.py": "a plan that deletes every snapshot, whichever is current",
    "flows/restore/restore_objects.py": "a restore has brought it back",
}
"""Modules that read what a site shows without asking evidence, and why that is right."""


class LateSite(MemorySite):
    """A site that takes one write of `current.json`, does not answer, and stores it only `at_last`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.late, self.taken = False, b""

    def write(self, bucket: str, key: str, body: bytes, **more: Any) -> ObjectInfo:
        if self.late and key == CURRENT:
            self.late, self.taken = False, body
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")
        return super().write(bucket, key, body, **more)

    def at_last(self) -> None:
        super().write("lake", CURRENT, self.taken)


@pytest.fixture
def late(platform: Platform) -> LateSite:
    site = LateSite("primary")
    for bucket in ("landing", "lake"):
        site.ensure_bucket(bucket, versioned=True)
    platform.sites["primary"] = site
    return site


@pytest.mark.parametrize("before", [(), (A,)], ids=["first snapshot", "later snapshot"])
def test_l9_a_write_that_a_site_stores_late_takes_no_rows_of_the_next_run(
    platform: Platform, readings: Pipeline, deliver: Deliver, late: LateSite, before: tuple[str, ...]
) -> None:
    """The run that gave the write up recorded nothing, so that evidence does not know its snapshot."""
    hours = itertools.count()
    platform = replace(platform, clock=lambda: NOW + timedelta(hours=next(hours)))
    if before:
        deliver("0.csv", *before)
        ingest(platform, readings)
    deliver("1.csv", B)
    late.late = True
    with pytest.raises(SiteUnavailable):
        ingest(platform, readings)
    deliver("2.csv", "m4,2026-02-01,4,1,base,")
    rows = ingest(platform, readings).total_rows
    right = late.read("lake", CURRENT)
    late.at_last()
    deliver("3.csv", C)
    with pytest.raises(IngestError, match=rf"evidence \d+ names [0-9a-f]{{32}} \({rows} rows\). Nothing was ingested"):
        ingest(platform, readings)
    late.write("lake", CURRENT, right)
    assert ingest(platform, readings).total_rows == rows + 1 == len(before) + 3


def test_l9_nobody_reads_an_earlier_snapshot_that_a_site_shows(
    platform: Platform, readings: ModelPipeline, two: dict[str, bytes]
) -> None:
    show(platform, two["1"])
    readers: dict[str, Callable[[], object]] = {
        "features": lambda: materialize(platform, readings),
        "predictions": lambda: score(platform, readings),
        "a profile": lambda: profile.make(platform, readings, [None]),
        "an erasure": lambda: stores_of(platform).current("readings"),
    }
    for read in readers.values():
        with pytest.raises(IngestError, match=rf"names {newest(platform)} \(2 rows\). Nothing was read") as refused:
            read()
        assert "docs/runbooks/current-snapshot-is-gone.md" in refused.value.hint
    found = snapshot_objects.objects_of(platform, readings, newest(platform))
    (line,) = snapshot_objects.lines(found, "readings")
    assert not found.is_whole and line.startswith("BEHIND: Pipeline 'readings': site 'primary' shows snapshot")
    restored = stores_of(platform, "primary").current("readings")  # a restore brought it back
    assert restored is not None and restored.rows == 1
    show(platform, two["2"])
    assert snapshot_objects.objects_of(platform, readings, newest(platform)).is_whole


@pytest.mark.parametrize("late_by", [-1, 1], ids=["clock behind", "clock ahead"])
def test_x4_a_late_write_is_known_by_its_predecessor_although_clocks_differ(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], late_by: int
) -> None:
    """The run that gave up began with the snapshot before the newest, on a machine whose clock is an hour off."""
    site = platform.sites["primary"]
    before = snapshots.read(site, "lake", "readings", newest(platform))
    sibling = replace(before, key=("day", "meter"), created_at=before.created_at + timedelta(hours=late_by))
    snapshots.commit(site, "lake", replace(sibling, id=snapshots.content_id(sibling)), [])
    with pytest.raises(IngestError, match="Nothing was ingested"):
        ingest(platform, readings)


@pytest.mark.parametrize("late_by", [-1, 1], ids=["clock behind", "clock ahead"])
def test_x4_a_snapshot_whose_run_was_killed_before_its_evidence_counts_although_clocks_differ(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], late_by: int
) -> None:
    site = platform.sites["primary"]
    before = snapshots.read(site, "lake", "readings", newest(platform))
    child = replace(
        before,
        key=("day", "meter"),
        previous=before.id,
        deliveries=(),
        created_at=before.created_at + timedelta(hours=late_by),
    )
    snapshots.commit(site, "lake", replace(child, id=snapshots.content_id(child)), [])
    assert ingest(platform, readings).total_rows == 3


def test_l9_rows_that_were_current_twice_are_no_newer_for_it(platform: Platform, readings: Pipeline) -> None:
    """A, B and A again are on record: a late write of B names A as its predecessor, and is older all the same."""
    site, made = platform.sites["primary"], list[snapshots.Snapshot]()
    columns = snapshots.snapshot_columns(readings)
    for hour, (key, previous) in enumerate([(("meter",), None), (("day",), 0), (("meter",), 1)]):
        empty = snapshots.Snapshot(
            "", "readings", NOW + timedelta(hours=hour), None, 0, (), columns, "personal", NOW.date(), key, "day"
        )
        known = made[previous].id if previous is not None else None
        made.append(replace(empty, id=snapshots.content_id(empty), previous=known))
        snapshots.commit(site, "lake", made[-1], [])
        body = {"snapshot": made[-1].id, "previous": known, "site": "primary", "bucket": "lake", "rows": 0}
        platform.ledger.append("snapshot", "readings", body)
    active = platform.active()
    assert current_snapshot.checked(platform.ledger, active, site, "lake", "readings") == made[2]
    snapshots.point_at(site, "lake", made[1])
    with pytest.raises(IngestError, match=f"names {made[2].id}"):
        current_snapshot.checked(platform.ledger, active, site, "lake", "readings")


def test_l9_a_write_that_arrives_after_a_reset_names_nothing(
    platform: Platform, readings: Pipeline, two: dict[str, bytes]
) -> None:
    site = platform.sites["primary"]
    for info in list(site.list("lake", "snapshots/")):
        site.delete("lake", info.key)
    platform.ledger.append("removal", "readings", {"id": "r", "what": "reset", "state": "ended"})
    show(platform, two["2"])
    assert ingest(platform, readings).total_rows == 1


def test_l9_whoever_reads_the_current_snapshot_checks_it() -> None:
    root = project_root() / "include/rempart"
    calls = re.compile(r"\bsnapshots\.current\(")
    unchecked = {str(file.relative_to(root)) for file in root.rglob("*.py") if calls.search(file.read_text())}
    assert unchecked == set(UNCHECKED)


def test_what_is_committed_between_the_two_looks_is_no_loss(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure makes another snapshot the current one while a run begins: it looked at the site before, and then at
    evidence."""
    show(platform, two["1"])
    look = snapshots.current

    def before_the_commit(*where: Any) -> snapshots.Snapshot | None:
        found = look(*where)
        show(platform, two["2"])
        return found

    monkeypatch.setattr(snapshots, "current", before_the_commit)
    assert ingest(platform, readings).total_rows == 3
