"""Load a snapshot into the feature store: offline history, Feast's repository, online values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rempart.errors import FeatureError
from rempart.features import offline, online
from rempart.features.databases import FeatureDatabases
from rempart.flows.ingestion import derived_run
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class MaterializeResult:
    """Result of a materialization. `rows_offline`: rows of all views in the offline store; `rows_online`: entity rows
    online.

    `from_time` and `to_time` (ISO 8601, UTC) span the event times written to the online store, or None. `changed`:
    something was written to either store.
    """

    snapshot: str
    views: int
    rows_offline: int
    rows_online: int
    from_time: str | None
    to_time: str | None
    changed: bool


def feature_databases(platform: Platform) -> FeatureDatabases:
    """Return the platform's feature store."""
    return FeatureDatabases(*(platform.database(f"feast_{name}") for name in ("registry", "offline", "online")))


def materialize(platform: Platform, pipeline: ModelPipeline, snapshot_id: str | None = None) -> MaterializeResult:
    """Load a snapshot (default: the current one) and write changes to the online store.

    If rows were erased from a named snapshot, its replacement is loaded. Loading a snapshot twice changes nothing.
    Raises FeatureError (also without a snapshot), SiteError, IntegrityError, PlacementDenied, SiteFenced,
    DatabaseUnavailable, BackupError (the register's key is gone).
    """
    from rempart.ingestion import snapshots

    active = platform.active()
    removal = removals.check_open(platform.ledger, pipeline.name)
    site = platform.active_site(pipeline.classification, active)
    bucket = platform.config.buckets.lake
    snapshot = (
        snapshots.current(site, bucket, pipeline.name)
        if snapshot_id is None
        else snapshots.read(
            site,
            bucket,
            pipeline.name,
            erasures.snapshot_id(platform.ledger, bucket, pipeline.name, snapshot_id),
        )
    )
    if snapshot is None:
        raise FeatureError(f"'{pipeline.name}' has no snapshot yet", f"Run `rempart pipeline run {pipeline.name}`.")
    with platform.committing(active):
        removals.check_same(platform.ledger, pipeline.name, removal)
        derived_run.check_clean(platform.ledger, snapshot)
        rows = snapshots.rows(site, bucket, snapshot)
        rows = erasures.without_erased(platform.ledger, pipeline, rows, erasures.secrets_of(platform))
        return materialize_rows(feature_databases(platform), pipeline, rows, snapshot.id, platform.clock())


def materialize_rows(
    databases: FeatureDatabases, pipeline: ModelPipeline, rows: pa.RecordBatchReader, snapshot_id: str, at: datetime
) -> MaterializeResult:
    """Materialize a snapshot's rows as they are read; `at` (UTC) is recorded as the time of the load."""
    load = offline.load(databases, pipeline, rows, snapshot_id, at)
    done = online.materialize(databases, pipeline)
    return MaterializeResult(
        snapshot=snapshot_id,
        views=len(pipeline.features),
        rows_offline=load.view_rows,
        rows_online=done.online,
        from_time=done.start.isoformat() if done.start else None,
        to_time=done.end.isoformat() if done.end else None,
        changed=bool(load.changed or done.written),
    )
