"""Have a training set joined on Spark, and read it back: its rows count if they are whole, in order and unaltered."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import IntegrityError, LabelsMissing, LeaseLost
from rempart.features import training_set
from rempart.features.databases import FeatureDatabases
from rempart.features.label_feed import LabelCounts, LabelsUsed
from rempart.features.parquet_store import training_sets
from rempart.features.training_set import TrainingSet
from rempart.features.versions import version_of
from rempart.flows.distributed import facts, orders
from rempart.flows.distributed.facts import TrainingSetFacts
from rempart.flows.distributed.loaded_snapshots import LoadedSnapshots
from rempart.flows.distributed.training_set import LABELS, PART, ROWS, USED, told_view
from rempart.flows.shared import leases
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.engine import identity
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.spool import spool_folder
from rempart.spark.order import ATTEMPTS, InputObject, SparkOrder, SparkResult

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.sites.port import Site

logger = logging.getLogger(__name__)


def point_in_time(
    platform: Platform,
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    loaded: LoadedSnapshots,
    backend: orders.SparkBackend | None = None,
) -> TrainingSet | None:
    """Return the training set of snapshots, as `parquet_store.training_sets.point_in_time` does, joined on Spark.

    None if sums of a column would not be those of PostgreSQL to six digits; the log names it. What the job stored is
    deleted at the end. A training, a search and a monitoring of the same snapshots have equal orders, and one place
    for what the job stores: they run one after the other. Raises SparkError, FeatureError, LabelsMissing,
    IntegrityError, SiteError, PlacementDenied, DatabaseUnavailable; LeaseHeld if another of them runs longer than
    `spark.timeout` allows.
    """
    site = platform.active_site(pipeline.classification)
    ordered = order(platform, databases, pipeline, loaded, site)
    longest = ATTEMPTS * pipeline.spark.timeout
    with leases.alone(platform.continuity, ordered.order_id, longest) as lease, spool_folder() as folder:
        try:
            result = orders.run(platform, pipeline, ordered, backend, folder)
            told = facts.of_result(TrainingSetFacts, result)
            if told.inexact:
                logger.info(
                    "'%s': numbers of column '%s' are too small, large or alike for DECIMAL(38, 9)",
                    pipeline.name,
                    told.inexact,
                )
                return None
            if told.missing:
                raise LabelsMissing(told.missing.what, told.missing.hint)
            return read(site, pipeline, loaded, ordered, result, folder)
        finally:
            with suppress(LeaseLost), platform.continuity.still(lease):  # else they are another run's by now
                orders.forget(site, ordered)


def order(
    platform: Platform, databases: FeatureDatabases, pipeline: ModelPipeline, loaded: LoadedSnapshots, site: Site
) -> SparkOrder:
    """Return the order of a training set. It has the views as Feast's registry describes them."""
    bucket = platform.config.buckets.lake
    kept = platform.clock() + platform.config.retention[pipeline.classification].snapshots

    def manifest(role: str, snapshot: snapshots.Snapshot) -> InputObject:
        key = f"{snapshots.folder(snapshot.pipeline)}{snapshot.id}.json"
        body = site.read(bucket, key)
        return InputObject(
            role=role,
            bucket=bucket,
            key=key,
            sha256=hashlib.sha256(body).hexdigest(),
            bytes=len(body),
            rows=snapshot.rows,
            name=snapshot.pipeline,
        )

    inputs = [manifest(ROWS, loaded.rows)]
    if loaded.labels:
        inputs.append(manifest(LABELS, loaded.labels))
    inputs += [manifest(USED, snapshot) for _, snapshot in sorted(loaded.used.items())]
    views = [told_view(view) for view in training_sets.asked_views(databases, pipeline)]
    parameters = {"views": views, "retain_until": kept.date().isoformat()}
    others = [loaded.feed.source] if loaded.feed else []
    return orders.order(platform.config, site.name, pipeline, "training_set", inputs, parameters, others)


def read(
    site: Site,
    pipeline: ModelPipeline,
    loaded: LoadedSnapshots,
    ordered: SparkOrder,
    result: SparkResult,
    folder: Path | None = None,
) -> TrainingSet:
    """Return the training set that a job stored. `folder`: has its objects, if they were read back.

    Its rows are those of the snapshot: as many as the job counted, and without labels of another pipeline as many as
    the snapshot has keys, each once and in order. Raises FeatureError, IntegrityError, SparkError.
    """
    import pyarrow as pa

    told = facts.of_result(TrainingSetFacts, result)
    expected = told.examples
    if loaded.labels is None and version_of(pipeline) is None and expected + told.open != loaded.rows.rows:
        raise training_set.multiplied(pipeline, loaded.rows.rows, expected + told.open)
    schema = pa.schema(training_set.kinds(pipeline).items())
    table = pa.Table.from_batches(_batches(site, ordered, result, schema, folder), schema)
    if table.num_rows != expected:
        raise training_set.multiplied(pipeline, expected, table.num_rows)
    if identity.ascends(table.select(list(pipeline.key)), strictly=True) is False:
        raise IntegrityError(
            f"read the training set of '{pipeline.name}': job {ordered.order_id} gave rows out of order, or one twice",
            "Do not train on it. Run again; if it fails again, report it and use `engine: duckdb` meanwhile.",
        )
    labels = None
    if loaded.labels:
        if told.labels is None:
            raise facts.malformed(result, "facts", "they count no labels")
        counts = LabelCounts(**told.labels.model_dump())
        labels = LabelsUsed(loaded.labels.pipeline, loaded.labels.id, counts)
    used = {name: snapshot.id for name, snapshot in loaded.used.items()}
    return TrainingSet(table, loaded.rows.id, labels, used, open=told.open)


def _batches(
    site: Site, ordered: SparkOrder, result: SparkResult, schema: pa.Schema, folder: Path | None
) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for made in result.of_role(PART):
        if folder:
            table = pq.read_table(orders.read_file(folder, made))
        else:
            table = pq.read_table(pa.BufferReader(site.read(ordered.output.bucket, made.key, sha256=made.sha256)))
        if table.schema != schema:
            raise IntegrityError(
                f"read {made.key} of job {ordered.order_id}: its columns are not those of the training set",
                "Run `make setup-spark`, then train again.",
            )
        yield from table.to_batches()
