"""A materialization reads the snapshot that it should, and of it what differs from the loaded one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.errors import InputMissing
from rempart.features import offline
from rempart.features.databases import FeatureDatabases
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import materialize
from rempart.ingestion import snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from tests.integration.test_features import NOW, arrow, row
from tests.memory_site import MemorySite
from tests.snapshots_of_tables import Drawing
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores


def test_flow_takes_the_current_snapshot_or_the_one_named(feature_databases: FeatureDatabases, tmp_path: Path) -> None:
    pipeline = stays("stays_of_the_flow")
    settings, drawing = config.load(), Drawing(pipeline, tmp_path)
    site = MemorySite()
    site.ensure_bucket(settings.buckets.lake, versioned=True)
    of = {f"pg_feast_{part}": getattr(feature_databases, part) for part in ("registry", "offline", "online")}
    sites, ledger = {settings.active_site: site}, MemoryLedger()
    platform = Platform(settings, of.__getitem__, lambda: NOW, sites, ledger, MemoryContinuity())
    with pytest.raises(InputMissing, match="has no snapshot yet"):
        materialize(platform, pipeline)
    first: snapshots.Snapshot | None = None
    before: snapshots.Snapshot | None = None
    for rows in ([row(1, 0)], [row(2, 40, house="red")]):  # in two months
        snapshot, added = drawing.add(before, arrow(rows))
        snapshots.commit(site, settings.buckets.lake, snapshot, added)
        first, before = before, snapshot
    assert first is not None
    assert before is not None
    result = materialize(platform, pipeline)
    assert (result.snapshot, result.views, result.rows_offline, result.rows_online) == (before.id, 3, 6, 6)
    earlier = materialize(platform, pipeline, first.id)
    assert (earlier.snapshot, earlier.rows_online, earlier.changed) == (first.id, 3, True)
    assert offline.find_snapshot(feature_databases, pipeline.name) == first.id
    part, lake = before.parts[0].key, settings.buckets.lake
    body = site.read(lake, part)
    site.delete(lake, part)  # a month without new rows is not read again
    later = materialize(platform, pipeline)
    assert (later.snapshot, later.rows_offline, later.note) == (before.id, 6, "")
    site.write(lake, part, body)
    site.delete(lake, f"{snapshots.folder(pipeline.name)}{before.id}.json")
    again = materialize(platform, pipeline, first.id)
    assert (again.rows_offline, again.note) == (
        3,
        f"All rows were read: snapshot {before.id}, which is loaded, cannot be compared.",
    )
