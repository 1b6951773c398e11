"""Load rows, the tables of views, and labels into an engine, by the SQL that loads them into PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rempart.counts import counted
from rempart.engine_connection import EngineConnection
from rempart.errors import FeatureError
from rempart.features import labels as label_rows
from rempart.features import tables
from rempart.features.label_feed import LabelsUsed
from rempart.features.labels import Received
from rempart.features.plan import ViewTable, labels_table, rows_table, view_table, view_tables
from rempart.features.training_set import all_open, no_example
from rempart.features.views import select_view
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql


class InexactSums(Exception):
    """DuckDB's decimals of nine places give no sums of this column to six digits."""


@dataclass(frozen=True)
class LoadedRows:
    """Number of rows to learn from, the labels if another pipeline delivers them, and rows without their own target."""

    examples: int
    labels: LabelsUsed | None
    open: int


class UsedRows(NamedTuple):
    """Rows of a pipeline whose views are used, which are read once, and the id of their snapshot.

    `rows`: an Arrow reader, or a relation of the engine.
    """

    source: ModelPipeline
    rows: Any
    snapshot: str


def load(
    connection: EngineConnection,
    pipeline: ModelPipeline,
    rows: Any,
    labels: Received | None,
    *,
    used: Sequence[UsedRows] = (),
    exact: bool = False,
) -> LoadedRows:
    """Create the tables of a pipeline from rows, and from labels.

    `rows`: an Arrow reader, which is read once, batch by batch, or a relation of the engine; so are those of `labels`.
    `used`: rows of each pipeline whose views are used. Raises FeatureError if a row has no moment; LabelsMissing if no
    row has a label, or its own target; what reading the rows raises; InexactSums, only if they must be `exact`.
    """
    names = {view.from_ for view in pipeline.used_views().values()}
    for source, others, _ in used:
        read = [name for name in source.features if f"{source.name}.{name}" in names]
        _load_rows(connection, source, others)
        if exact and (column := inexact_column(connection, source, read)):
            raise InexactSums(column)
        for name in read:
            _create_view(connection, source, view_table(source, name))
    _load_rows(connection, pipeline, rows)
    if exact and (column := inexact_column(connection, pipeline, [*pipeline.features])):
        raise InexactSums(column)
    for view in view_tables(pipeline):
        _create_view(connection, pipeline, view)
    labelled = _load_labels(connection, pipeline, labels) if labels else None
    waiting = count(connection, in_duckdb(label_rows.select_open(pipeline)))
    relation = in_duckdb(label_rows.examples(pipeline))
    examples = count(connection, f"SELECT count(*) FROM {relation} examples")  # noqa: S608 - names of a checked file
    if waiting and not examples:
        raise all_open(pipeline, waiting)
    return LoadedRows(examples, labelled, waiting)


def _create_view(connection: EngineConnection, pipeline: ModelPipeline, view: ViewTable) -> None:
    """Create the table of a view; a row view is one of the rows as they are."""
    columns = ", ".join(f'"{name}"' for name, _ in tables.view_columns(view))
    kind = "VIEW" if pipeline.features[view.view].kind == "row" else "TABLE"
    selected = in_duckdb(select_view(pipeline, view))
    connection.execute(f'CREATE {kind} "{view.table}" AS SELECT * FROM ({selected}) v ({columns})')  # noqa: S608 - names of a checked file


def inexact_column(connection: EngineConnection, pipeline: ModelPipeline, views: Iterable[str]) -> str | None:
    """Return a column of which DuckDB's decimals of nine places give no `sum`, `mean` or `std` to six digits, or None.

    Only columns of aggregates in these `views` count. It has very small or very large numbers, ones that differ little
    for their size, or ones that are none.
    """
    wanted: dict[str, set[str]] = {}
    for view in (pipeline.features[name] for name in views):
        for made in view.aggregates() if view.kind == "trailing" else ():
            if made.column and made.function in ("sum", "mean", "std"):
                wanted.setdefault(made.column, set()).add(made.function)
    for column, functions in wanted.items():
        table = f'(SELECT "{column}"::DOUBLE AS x FROM "{rows_table(pipeline)}")'  # noqa: S608 - names of a checked file
        finite = "FILTER (WHERE isfinite(x) AND abs(x) <= 1e100)"
        measured = f"avg(abs(x)) {finite}, max(abs(x)) {finite}, stddev_pop(x) {finite}, count(x)"
        (found,) = connection.execute(f"SELECT {measured}, count(x) {finite} FROM {table}").fetchall()  # noqa: S608
        size, largest, spread = (value or 0.0 for value in found[:3])
        count, usable = found[3:]
        if usable < count or 0 < size < 1e-3 or largest * count > 1e28:
            return column
        if "std" in functions and (largest > 1e14 or 0 < spread**2 < 1e6 * (1e-16 * largest**2 + 1e-9)):
            return column
    return None


def in_duckdb(query: sql.Composable) -> str:
    """Return a query of the offline store for DuckDB, whose `numeric` has three places."""
    return query.as_string(None).replace("::numeric", "::DECIMAL(38, 9)")


def count(connection: EngineConnection, query: str) -> int:
    """Return the number that is the answer to a query."""
    ((number,),) = connection.execute(query).fetchall()
    return int(number)


class _Received:
    """Rows as DuckDB reads them. It passes no exception on, so the first is kept here."""

    def __init__(self, rows: pa.RecordBatchReader) -> None:
        self.rows = rows
        self.failure: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.rows.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.rows
        except Exception as error:
            self.failure = error
            raise


def _read(connection: EngineConnection, rows: Any, statement: str) -> None:
    """Execute a statement over `received`, which are these rows. Raises what reading them raises."""
    import pyarrow as pa

    received = _Received(rows) if isinstance(rows, pa.RecordBatchReader) else None
    connection.register("received", received.reader() if received else rows)
    try:
        connection.execute(statement)
    except Exception:  # the engine's own
        if received and received.failure is not None:
            raise received.failure from None
        raise
    connection.unregister("received")


def _load_rows(connection: EngineConnection, pipeline: ModelPipeline, rows: Any) -> None:
    """Create the table of the rows, with the moment of the prediction."""
    typed = ", ".join(f'"{c}"::{kind} AS "{c}"' for c, kind in tables.rows_columns(pipeline) if c != "event_timestamp")
    moment = in_duckdb(tables.instant(pipeline, pipeline.prediction.at))
    _read(
        connection,
        rows,
        f'CREATE TABLE "{rows_table(pipeline)}" AS SELECT *, ({moment})::timestamptz AS event_timestamp'  # noqa: S608 - names of a checked file
        f" FROM (SELECT {typed} FROM received) r",
    )
    timeless = count(connection, f'SELECT count(*) FROM "{rows_table(pipeline)}" WHERE event_timestamp IS NULL')  # noqa: S608
    if timeless:
        raise FeatureError(
            f"build the training set of '{pipeline.name}': {counted(timeless, 'row is', 'rows are')} without a moment",
            "Declare the columns of `key` and `moments` as not nullable, so that such rows go to quarantine.",
        )


def _load_labels(connection: EngineConnection, pipeline: ModelPipeline, labels: Received) -> LabelsUsed:
    """Create the table of the labels and return how many rows have one. Raises LabelsMissing."""
    received = zip(
        label_rows.received_columns(pipeline, labels.feed), label_rows.delivered(pipeline, labels.feed), strict=True
    )
    typed = ", ".join(f'"{column}"::{kind} AS "{name}"' for (name, kind), column in received)
    create = f'CREATE TABLE "{label_rows.RECEIVED}" AS SELECT {typed} FROM received'  # noqa: S608 - names of a checked file
    _read(connection, labels.rows, create)
    columns = label_rows.columns(pipeline, labels.feed)
    stored = ", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind in columns)
    names = ", ".join(f'"{name}"' for name, _ in columns)
    connection.execute(
        f'CREATE TABLE "{labels_table(pipeline)}" AS SELECT {stored}'  # noqa: S608 - names of a checked file
        f" FROM ({in_duckdb(label_rows.select(pipeline, labels))}) l ({names})"
    )
    counts = label_rows.counts(*connection.execute(in_duckdb(label_rows.select_counts(pipeline))).fetchall())
    used = LabelsUsed(labels.feed.source.name, labels.snapshot or "", counts)
    if not counts.labelled:
        raise no_example(pipeline, used)
    return used
