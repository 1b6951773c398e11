"""Derive rows on Spark: executors run the query of a derived pipeline over its inputs' snapshots, and write its rows.

The rows are in no order: the task that ordered them reads them back and sorts them into one delivery, as with DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.errors import SparkError
from rempart.flows.distributed.grown import JobFolder
from rempart.flows.distributed.known import GONE, KnownForm, known_rows
from rempart.flows.distributed.world import World
from rempart.ingestion.derived import inputs as files
from rempart.ingestion.derived.binding import sql_type
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema, snapshot_columns
from rempart.settings.pipeline import Pipeline
from rempart.spark import credentials
from rempart.spark.connection import SparkConnection
from rempart.spark.definitions import defined
from rempart.spark.exact import queries
from rempart.spark.order import Made, MadeObject, SparkOrder
from rempart.spark.sites import OpenSite, keep_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

ROWS = "rows"
"""Role of the objects that count: the derived rows, in no order."""
_MADE = "sha256 string, bytes bigint, rows bigint"


@dataclass(frozen=True)
class Parameters:
    """Facts of an order beside its objects, whose roles are the names of the inputs.

    `query`: bound, in DuckDB's own form. `columns`: type of each column of its result. `forms`: of each input's parts.
    """

    query: str
    columns: Mapping[str, str]
    forms: Mapping[str, KnownForm]

    def as_json(self) -> dict[str, Any]:
        """Return the parameters as plain JSON. The columns have an order."""
        return {**asdict(self), "columns": list(self.columns.items())}

    @staticmethod
    def of(found: Mapping[str, Any]) -> Parameters:
        """Return the parameters in an order. Raises SparkError."""
        try:
            forms = {name: KnownForm(**form) for name, form in found["forms"].items()}
            return Parameters(found["query"], dict(found["columns"]), forms)
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise SparkError(
                f"read the order: its parameters are not those of a derivation ({type(cause).__name__})",
                "Order the job by the version of Rempart that runs it.",
            ) from None


def types(pipelines: Mapping[str, Pipeline]) -> queries.Tables:
    """Return the SQL type of each column of some pipelines' snapshots."""
    return {name: sql_types(snapshot_columns(pipeline)) for name, pipeline in pipelines.items()}


def sql_types(columns: Mapping[str, SnapshotColumn]) -> dict[str, str]:
    """Return the SQL type of each column."""
    return {name: sql_type(column.type) for name, column in columns.items()}


def check(pipeline: Pipeline) -> None:
    """Check that the query of a derived pipeline gives on Spark the rows of DuckDB. One that is not derived passes.

    Raises PipelineError, IngestError.
    """
    if files.is_derived(pipeline):
        found = files.bound(pipeline, files.declared_inputs(pipeline))
        queries.query(found.query.text, types(found.inputs), sql_types(found.query.columns))


def run(order: SparkOrder, session: SparkSession, world: World, open_site: OpenSite | None = None) -> Made:
    """Do the work of an order: derive its rows and write them below the order's prefix.

    `open_site`: opens its site in executors; by default with the job's credentials. Raises IngestError for a query that
    Spark does not do as DuckDB does, SparkError, IntegrityError.
    """
    given = Parameters.of(order.parameters)
    opened = open_site or partial(credentials.site_of, order)
    inputs = {name: defined(order.pipelines, name) for name in given.forms}
    columns = {name: SnapshotColumn(type_, True) for name, type_ in given.columns.items()}
    query = queries.query(given.query, types(inputs), sql_types(columns))
    place = JobFolder(order.output.bucket, order.key(""))
    with SparkConnection(session) as connection:
        for name, form in given.forms.items():
            rows = known_rows(session, opened, order.of_role(name), inputs[name], form)
            connection.register(name, rows.where(f"NOT {GONE}").drop(GONE))
        frame = connection.sql(query).frame
        writer = _Writer(opened, place, arrow_schema(columns))
        made = sorted(tuple(row) for row in frame.mapInArrow(writer, _MADE).collect())
    world.progress("derived", rows=sum(rows for _, _, rows in made))
    return Made(
        made=tuple(
            MadeObject(role=ROWS, key=place.part(sha256), sha256=sha256, bytes=size, rows=rows)
            for sha256, size, rows in made
        )
    )


@dataclass(frozen=True)
class _Writer:
    """Writes the rows of a task as one object, and tells its SHA-256, bytes and rows."""

    open_site: OpenSite
    place: JobFolder
    schema: Any

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        tables = (pa.Table.from_batches([batch]) for batch in batches)
        if made := keep_rows(tables, self.schema, self.open_site, self.place.bucket, self.place.part):
            sha256, size, rows = made
            yield pa.RecordBatch.from_pylist([{"sha256": sha256, "bytes": size, "rows": rows}])
