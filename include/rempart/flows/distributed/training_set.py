"""Join a training set on Spark: executors read the snapshots' parts, join, and write the rows in order of the key.

The job knows no feature store: its order has the views as Feast's registry describes them. It commits nothing: whoever
ordered it reads the rows back and checks them (`distributed.joined`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.errors import IntegrityError, LabelsMissing, SparkError
from rempart.features import training_set
from rempart.features.label_feed import LabelFeed, feed_of
from rempart.features.labels import Received
from rempart.features.parquet_store import joining, loading, training_sets
from rempart.features.parquet_store.joining import JoinedView
from rempart.features.parquet_store.loading import UsedRows
from rempart.features.used import sources
from rempart.flows.distributed.world import World
from rempart.ingestion import snapshots
from rempart.ingestion.parsing.schema import arrow_schema
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site
from rempart.spark import credentials
from rempart.spark.connection import SparkConnection
from rempart.spark.definitions import defined
from rempart.spark.order import InputObject, Made, MadeObject, SparkOrder
from rempart.spark.sites import OpenSite, keep_rows, one_task_each, spark_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

ROWS, LABELS, USED = "rows", "labels", "used"
"""Roles of the manifests that an order names: of the rows, of the labels, and of a pipeline whose views are used."""
PART = "rows"
"""Role of the objects that count: the training set's rows, one after the other in the result's order."""
_MADE = {"number": "bigint", "sha256": "string", "bytes": "bigint", "rows": "bigint"}


def run(order: SparkOrder, session: SparkSession, world: World, open_site: OpenSite | None = None) -> Made:
    """Do the work of an order: join its training set and write it below the order's prefix.

    `open_site`: opens its site in executors; by default with the job's credentials.

    `facts`: `examples` (number of rows), `open` (rows that lack their own target), `labels` (rows by the state of their
    label) where another pipeline delivers them. Or `inexact` alone: a column whose sums need PostgreSQL; or `missing`
    alone: the error of labels that no row has. Raises FeatureError, SparkError, IntegrityError, SiteError.
    """
    pipeline = defined(order.pipelines, order.pipeline)
    if not isinstance(pipeline, ModelPipeline):
        raise SparkError(f"join a training set of '{pipeline.name}': it has no model", "Order a pipeline with a model.")
    feed = feed_of(pipeline, {name: defined(order.pipelines, name) for name in order.pipelines})
    opened = open_site or partial(credentials.site_of, order)
    views = [read_view(each) for each in order.parameters["views"]]

    def rows_of(manifest: InputObject) -> DataFrame:
        return snapshot_rows(session, opened, manifest.bucket, read_manifest(world.site, manifest))

    (own,) = order.of_role(ROWS)
    used = {each.name: each for each in order.of_role(USED)}
    given = [UsedRows(source, rows_of(used[name]), "") for name, source in sources.sources(pipeline).items()]
    with SparkConnection(session) as connection:
        try:
            labels = _labels(order, session, feed, opened, world)
            loaded = loading.load(connection, pipeline, rows_of(own), labels, used=given, exact=True)
        except loading.InexactSums as column:
            return Made(facts={"inexact": str(column)})
        except LabelsMissing as missing:
            return Made(facts={"missing": {"what": missing.what, "hint": missing.hint}})
        world.progress("loaded", rows=loaded.examples, views=len(views))
        frame = connection.sql(query(connection, pipeline, views, feed)).frame
        place = Target(opened, order.output.bucket, order.key(""), order.parameters["retain_until"])
        written = write(frame, pipeline, place, feed)
    if (found := sum(each.rows for each in written)) != loaded.examples:
        raise training_set.multiplied(pipeline, loaded.examples, found)
    facts: dict[str, Any] = {"examples": loaded.examples, "open": loaded.open}
    if loaded.labels:
        facts["labels"] = asdict(loaded.labels.rows)
    return Made(made=tuple(written), facts=facts)


def query(
    connection: SparkConnection, pipeline: ModelPipeline, views: Sequence[JoinedView], feed: LabelFeed | None = None
) -> str:
    """Return the query of the training set over loaded rows, in order of the key."""
    shaped = [(view, joining.uniqueness(connection, view)) for view in views]
    entities = loading.in_duckdb(training_set.entity_query(pipeline))
    columns = training_set.entity_columns(pipeline)
    joined = joining.joined(entities, columns, "event_timestamp", shaped)
    return training_sets.ordered_query(training_set.stored_kinds(pipeline, feed), pipeline.key, joined)


def told_view(view: JoinedView) -> dict[str, Any]:
    """Return a view as JSON."""
    return asdict(view) | {"keys": list(view.keys), "features": list(view.features.items())}


def read_view(told: Mapping[str, Any]) -> JoinedView:
    """Return the view that `told_view` wrote."""
    return JoinedView(**{**told, "keys": tuple(told["keys"]), "features": dict(told["features"])})


def read_manifest(site: Site, manifest: InputObject) -> snapshots.Snapshot:
    """Return the snapshot that an order names. Raises IntegrityError if its manifest was altered, ObjectMissing."""
    body = site.read(manifest.bucket, manifest.key, sha256=manifest.sha256)
    try:
        found = snapshots.parse(body, manifest.name)
    except ValueError:
        found = None
    if found is None or found.pipeline != manifest.name or found.id != snapshots.content_id(found):
        raise IntegrityError(
            f"read manifest {manifest.bucket}/{manifest.key} at site '{site.name}': its content does not match its id",
            "Restore the object from its replica or a restore point.",
        )
    return found


def snapshot_rows(session: SparkSession, open_site: OpenSite, bucket: str, snapshot: snapshots.Snapshot) -> DataFrame:
    """Return the rows of a snapshot. A task reads one partition, and checks it against the snapshot's id first."""
    reader = _Partitions(open_site, bucket, snapshot)
    numbers = one_task_each(session, len(snapshot.partitions))
    return numbers.mapInArrow(reader, spark_schema(arrow_schema(snapshot.columns)))


@dataclass(frozen=True)
class _Partitions:
    """Reads the partitions whose numbers come in."""

    open_site: OpenSite
    bucket: str
    snapshot: snapshots.Snapshot

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                name = self.snapshot.partitions[number].partition
                yield from snapshots.rows(self.open_site(), self.bucket, self.snapshot, [name])


@dataclass(frozen=True)
class Target:
    """Where executors write a training set: keys begin with `prefix`; objects are kept until a date (ISO 8601)."""

    open_site: OpenSite
    bucket: str
    prefix: str
    retain_until: str

    def key(self, sha256: str) -> str:
        """Return the key of an object."""
        return f"{self.prefix}rows-{sha256}.parquet"


def write(frame: DataFrame, pipeline: ModelPipeline, place: Target, feed: LabelFeed | None = None) -> list[MadeObject]:
    """Write ordered rows as Parquet, one object for each task, and return them in order. Rows stay with executors.

    An object is named by its content, so a task that runs twice writes one object.
    """
    import pyarrow as pa

    stored = pa.schema(training_set.stored_kinds(pipeline, feed).items())
    whole = pa.schema(training_set.kinds(pipeline, feed).items())
    writer = _Writer(pipeline, place, stored, whole)
    ddl = ", ".join(f"{name} {kind}" for name, kind in _MADE.items())
    made = sorted(tuple(row) for row in frame.mapInArrow(writer, ddl).collect())
    return [
        MadeObject(role=PART, key=place.key(sha256), sha256=sha256, bytes=size, rows=rows)
        for _, sha256, size, rows in made
    ]


@dataclass(frozen=True)
class _Writer:
    """Writes the rows of a task as one object, and tells its number in the order, its SHA-256, bytes and rows."""

    pipeline: ModelPipeline
    place: Target
    stored: Any
    whole: Any

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyspark import TaskContext

        context, place = TaskContext.get(), self.place
        assert context is not None  # noqa: S101 - it runs in a task
        tables = (training_sets.finished(self.pipeline, batch, self.stored) for batch in batches)
        kept = {"retain-until": place.retain_until}
        if made := keep_rows(tables, self.whole, place.open_site, place.bucket, place.key, kept):
            values = (context.partitionId(), *made)
            yield pa.RecordBatch.from_pylist([dict(zip(_MADE, values, strict=True))])


def _labels(
    order: SparkOrder, session: SparkSession, feed: LabelFeed | None, open_site: OpenSite, world: World
) -> Received | None:
    """Return the labels that another pipeline delivers."""
    if feed is None:
        return None
    (manifest,) = order.of_role(LABELS)
    snapshot = read_manifest(world.site, manifest)
    rows = snapshot_rows(session, open_site, manifest.bucket, snapshot)
    return Received(feed, rows, snapshot.id, snapshot.created_at)
