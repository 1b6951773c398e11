"""Load a snapshot into the feature store: offline history, Feast's repository, online values."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from rempart.errors import FeatureError, InputMissing, IntegrityError, ObjectMissing
from rempart.features import offline, online
from rempart.features.databases import FeatureDatabases
from rempart.features.freshness import records
from rempart.features.freshness.content import read_content
from rempart.features.label_feed import LabelsUsed, feed_of
from rempart.features.labels import Received
from rempart.features.offline_load.basis import Changes
from rempart.features.parquet_store.loading import UsedRows
from rempart.features.parquet_store.training_sets import SnapshotRows
from rempart.features.used import sources
from rempart.flows.distributed.loaded_snapshots import LoadedSnapshots
from rempart.flows.ingestion import current_snapshot, derived_run
from rempart.flows.shared import erasures, removals, used_views
from rempart.flows.shared.platform import Platform
from rempart.flows.training import labelled
from rempart.ledger.port import Ledger
from rempart.settings.pipeline import ModelPipeline, Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.ingestion.snapshots import Snapshot
    from rempart.sites.port import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaterializeResult:
    """Result of a materialization. `rows_offline`: rows of all views in the offline store; `rows_online`: entity rows
    online; `rows_written`: those of them that were written to the online store. `seconds`: duration of the whole.

    `from_time` and `to_time` (ISO 8601, UTC) span the event times written to the online store, or None. `changed`:
    something was written to either store. `labels`: how many rows have a label, if another pipeline delivers them.
    `note`: why all rows were read, and which views were made anew; "" if only what changed was. `used`: id of the
    snapshot of each pipeline whose views are used.
    """

    snapshot: str
    views: int
    rows_offline: int
    rows_online: int
    from_time: str | None
    to_time: str | None
    changed: bool
    labels: LabelsUsed | None = None
    rows_written: int = 0
    note: str = ""
    seconds: float = field(default=0.0, compare=False)
    used: Mapping[str, str] = field(default_factory=dict)


def feature_databases(platform: Platform) -> FeatureDatabases:
    """Return the platform's feature store."""
    return FeatureDatabases(*(platform.database(f"feast_{name}") for name in ("registry", "offline", "online")))


def loaded_snapshot(platform: Platform, pipeline: str) -> str | None:
    """Return the id of the snapshot that is in the feature store, or None if none was loaded.

    Raises DatabaseUnavailable, PlacementDenied.
    """
    return offline.find_snapshot(feature_databases(platform), pipeline)


def materialize(platform: Platform, pipeline: ModelPipeline, snapshot_id: str | None = None) -> MaterializeResult:
    """Load a snapshot (default: the current one) and write changes to the online store.

    If rows were erased from a named snapshot, its replacement is loaded. Loading a snapshot twice changes nothing. Each
    materialization is evidence of kind `materialization`: entities, newest event time and load of each view, and the
    snapshots of pipelines whose views are used. Raises InputMissing without a snapshot, or before such a pipeline is
    loaded; IngestError if evidence names a newer snapshot; FeatureError, SiteError, IntegrityError, PlacementDenied,
    SiteFenced, DatabaseUnavailable, BackupError (the register's key is gone).
    """
    from rempart.ingestion import snapshots

    began, active = time.monotonic(), platform.active()
    removal = removals.check_open(platform.ledger, pipeline.name)
    site = platform.active_site(pipeline.classification, active)
    bucket = platform.config.buckets.lake
    snapshot = (
        current_snapshot.checked(platform.ledger, active, site, bucket, pipeline.name)
        if snapshot_id is None
        else snapshots.read(
            site,
            bucket,
            pipeline.name,
            erasures.snapshot_id(platform.ledger, bucket, pipeline.name, snapshot_id),
        )
    )
    if snapshot is None:
        raise InputMissing(f"'{pipeline.name}' has no snapshot yet", f"Run `rempart pipeline run {pipeline.name}`.")
    labels = labelled.delivered(platform, pipeline, active)
    used_views.record(platform.ledger, pipeline)
    with platform.committing(active):
        removals.check_same(platform.ledger, pipeline.name, removal)
        derived_run.check_clean(platform.ledger, snapshot)
        databases, secrets = feature_databases(platform), erasures.secrets_of(platform)

        def read(only: Collection[str] | None = None) -> pa.RecordBatchReader:
            rows = snapshots.rows(site, bucket, snapshot, only)
            return erasures.without_erased(platform.ledger, pipeline, rows, secrets)

        loaded = offline.find_snapshot(databases, pipeline.name)
        partitions = _changed_partitions(site, bucket, pipeline, loaded, snapshot)
        changes = Changes(
            None if partitions is None else loaded,
            partitions or (),
            read(partitions or ()),
            erasures.left_out(platform.ledger, pipeline.name),
        )
        received = labels.received(platform) if labels else None
        result = materialize_rows(databases, pipeline, read(), snapshot.id, platform.clock(), received, changes)
        result = replace(result, seconds=round(time.monotonic() - began, 3))
        _record(platform.ledger, databases, pipeline, result)
        return result


def _changed_partitions(
    site: Site, bucket: str, pipeline: ModelPipeline, loaded: str | None, snapshot: Snapshot
) -> tuple[str, ...] | None:
    """Return the names of the partitions in which a snapshot differs from the loaded one.

    None if that is unknown: the site has no manifest of the loaded one, or they are not partitioned as the file says.
    """
    from rempart.ingestion import snapshots

    if loaded is None or (snapshot.partition_by, snapshot.partition_every) != (
        pipeline.partition_by,
        pipeline.partition_every,
    ):
        return None
    try:
        before = snapshots.read(site, bucket, pipeline.name, loaded)
    except (ObjectMissing, IntegrityError):
        return None
    return snapshots.changed_partitions(before, snapshot)


def _record(ledger: Ledger, databases: FeatureDatabases, pipeline: ModelPipeline, result: MaterializeResult) -> None:
    """Write the evidence of a materialization."""
    _, content = read_content(databases, pipeline)
    body = {
        "snapshot": result.snapshot,
        "used": dict(result.used),
        "rows_written": result.rows_written,
        "rows_online": result.rows_online,
        "seconds": result.seconds,
        "views": records.contents(content),
    }
    ledger.append("materialization", pipeline.name, body)


def loaded_snapshots(platform: Platform, pipeline: ModelPipeline) -> LoadedSnapshots:
    """Return the snapshots that are loaded; if rows were erased from one, its replacement.

    Raises FeatureError if nothing was loaded, or a snapshot is gone; InputMissing if a view of another pipeline is not
    loaded; SiteError, IntegrityError, PlacementDenied, DatabaseUnavailable.
    """
    from rempart.ingestion import snapshots

    ids = offline.loaded_ids(feature_databases(platform), pipeline)
    site, bucket = platform.active_site(pipeline.classification), platform.config.buckets.lake

    def read(name: str, loaded: str) -> Snapshot:
        try:
            found = snapshots.read(site, bucket, name, erasures.snapshot_id(platform.ledger, bucket, name, loaded))
        except ObjectMissing as cause:
            raise FeatureError(
                f"read snapshot {loaded} of '{name}', which is loaded in the feature store: site '{site.name}' has it "
                "no longer",
                f"Run materialize_features_{pipeline.name}, then train again.",
            ) from cause
        derived_run.check_clean(platform.ledger, found)
        return found

    feed = feed_of(pipeline)
    return LoadedSnapshots(
        read(pipeline.name, ids.rows),
        feed,
        read(feed.source.name, ids.labels) if feed and ids.labels else None,
        {name: read(name, ids.used[name]) for name in sources.sources(pipeline)},
    )


def loaded_content(platform: Platform, pipeline: ModelPipeline, loaded: LoadedSnapshots | None = None) -> SnapshotRows:
    """Return the rows of the loaded snapshot, its labels, and the rows of pipelines whose views are used, as they stand
    in the Parquet parts at the active site.

    Each partition is checked against its snapshot's id before its first row. Raises the errors of `loaded_snapshots`,
    BackupError.
    """
    from rempart.ingestion import snapshots

    loaded = loaded or loaded_snapshots(platform, pipeline)
    site, bucket = platform.active_site(pipeline.classification), platform.config.buckets.lake
    secrets, received = erasures.secrets_of(platform), None

    def rows_of(of: Pipeline, snapshot: Snapshot) -> pa.RecordBatchReader:
        return erasures.without_erased(platform.ledger, of, snapshots.rows(site, bucket, snapshot), secrets)

    if loaded.feed:
        removal = removals.check_open(platform.ledger, loaded.feed.source.name)
        delivered = labelled.of_snapshot(site, bucket, loaded.feed, loaded.labels, removal, platform.clock())
        received = delivered.received(platform)
    used = [
        UsedRows(source, rows_of(source, loaded.used[name]), loaded.used[name].id)
        for name, source in sources.sources(pipeline).items()
    ]
    return SnapshotRows(rows_of(pipeline, loaded.rows), loaded.rows.id, received, used)


def spark_content(platform: Platform, pipeline: ModelPipeline) -> LoadedSnapshots | None:
    """Return the loaded snapshots for a join on Spark; None where the join must be on this machine; the log says why.

    A job has no register of erasures: it gets no snapshot that still holds an erased row. Raises the errors of
    `loaded_content`.
    """
    loaded = loaded_snapshots(platform, pipeline)
    if loaded.feed and loaded.labels is None:
        return None  # no row has a label, as the join says
    erased = [source for source in loaded.pipelines(pipeline) if erasures.on_record(platform.ledger, source.name)]
    if erased:
        content, counted = loaded_content(platform, pipeline, loaded), 0
        readers = [content.rows, *(used.rows for used in content.used)]
        readers += [content.labels.rows] if content.labels else []
        counted = sum(batch.num_rows for reader in readers for batch in reader)
        if counted != loaded.count:
            logger.info(
                "'%s': a loaded snapshot still has rows that were erased: joining on this machine", pipeline.name
            )
            return None
    return loaded


def materialize_rows(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    rows: pa.RecordBatchReader,
    snapshot_id: str,
    at: datetime,
    labels: Received | None = None,
    changes: Changes | None = None,
    *,
    keep_former: bool = True,
) -> MaterializeResult:
    """Materialize a snapshot's rows as they are read; `at` (UTC, now) is recorded as the time of the load.

    Without `labels`, those that are loaded stay. `changes`: see `offline.load`. `keep_former`: see
    `online.materialize`; an erasure keeps none.
    """
    load = offline.load(databases, pipeline, rows, snapshot_id, at, labels, changes)
    if load.labels:
        logger.info("%s", load.labels.told())
    done = online.materialize(databases, pipeline, at, keep_former=keep_former)
    return MaterializeResult(
        snapshot=snapshot_id,
        views=len(pipeline.features),
        rows_offline=load.view_rows,
        rows_online=done.online,
        from_time=done.start.isoformat() if done.start else None,
        to_time=done.end.isoformat() if done.end else None,
        changed=bool(load.changed or done.written),
        labels=load.labels,
        rows_written=done.written,
        used=load.used,
        note=load.note,
    )
