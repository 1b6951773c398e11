"""Choose the rows of a snapshot that a scoring predicts: those of a window, or those without a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from rempart.errors import PredictionError
from rempart.features.parquet_store import scratch
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_MEMORY = 256
"""MiB of DuckDB for the keys of labels; the rest is spilled."""


@dataclass(frozen=True)
class RowPeriod:
    """Rows whose time is at or after `since` and before `until` (None: no bound), in the column that partitions them.

    Both are dates if the column has dates, else instants in UTC.
    """

    column: str
    since: date | None
    until: date | None

    def partitions(self, names: Iterable[str]) -> list[str]:
        """Return the partitions that may hold such rows. Pure."""
        first, last = (_text(edge) for edge in (self.since, self.until))
        return [
            name
            for name in names
            if (first is None or name >= first[: len(name)]) and (last is None or name <= last[: len(name)])
        ]

    def of(self, rows: pa.Table) -> pa.Table:
        """Return the rows of a table that are in the window."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = rows.schema.field(self.column).type
        if self.since is not None:
            rows = rows.filter(pc.greater_equal(rows[self.column], pa.scalar(self.since, kind)))
        if self.until is not None:
            rows = rows.filter(pc.less(rows[self.column], pa.scalar(self.until, kind)))
        return rows


def window(column: str, kind: str, since: str | None, until: str | None) -> RowPeriod | None:
    """Return the window of a run's parameters, or None without any. Raises PredictionError for other text."""
    if since is None and until is None:
        return None
    edges = [_edge(name, text, kind) for name, text in (("from", since), ("to", until))]
    first, last = edges
    if first is not None and last is not None and first >= last:
        raise PredictionError(
            f"score the rows from {since} to {until}: the window is empty, because `to` is not in it",
            "Pass a `to` that is later than `from`.",
        )
    return RowPeriod(column, first, last)


def _edge(name: str, text: str | None, kind: str) -> date | None:
    if text is None:
        return None
    try:
        if kind == "date":
            return date.fromisoformat(text)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise PredictionError(
            f"Run parameter {name}: '{text[:40]}' is not {'a date' if kind == 'date' else 'a date or time'}",
            "Write a date such as 2017-06-01" + (", or a time such as 2017-06-01T12:00Z." if kind != "date" else "."),
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _text(edge: date | None) -> str | None:
    return None if edge is None else edge.isoformat()[: len("YYYY-MM-DDTHH")]


@dataclass(frozen=True)
class Targets:
    """Rows that have targets, and their columns that stand for the key of the rows to predict.

    `snapshot`: that of the labels, if another pipeline delivers them.
    """

    rows: pa.RecordBatchReader
    key: Sequence[str]
    snapshot: str | None = None


@contextmanager
def without_labels(targets: Targets | None, pipeline: ModelPipeline) -> Iterator[Unlabelled]:
    """Provide a filter for rows of a pipeline without a target. Without `targets` it keeps every row."""
    if targets is None:
        yield Unlabelled(None, ())
        return
    with spool_folder() as folder:
        place = scratch.ScratchDatabase(folder, _MEMORY)
        with scratch.created(place, "read the keys of labels") as connection:
            both = zip(targets.key, pipeline.key, strict=True)
            names = ", ".join(f'"{label}" AS "{own}"' for label, own in both)
            known = f'"{pipeline.prediction.target}" IS NOT NULL'
            connection.register("delivered", targets.rows)
            connection.execute(f"CREATE TABLE labels AS SELECT {names} FROM delivered WHERE {known}")  # noqa: S608 - names of a checked file
            yield Unlabelled(connection, pipeline.key)


@dataclass(frozen=True)
class Unlabelled:
    """Keeps the rows without a label, in their order."""

    connection: duckdb.DuckDBPyConnection | None
    key: Sequence[str]

    def of(self, rows: pa.Table) -> pa.Table:
        import pyarrow as pa

        if self.connection is None or not rows.num_rows:
            return rows
        asked = rows.select(list(self.key)).append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
        self.connection.register("asked", asked)
        names = ", ".join(f'"{name}"' for name in self.key)
        found = self.connection.sql(
            f"SELECT _row FROM asked ANTI JOIN labels USING ({names}) ORDER BY _row"  # noqa: S608 - names of a checked file
        ).to_arrow_table()
        self.connection.unregister("asked")
        return rows.take(found["_row"])


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield batches as tables of at least so many rows; the last has the rest."""
    import pyarrow as pa

    waiting, count = list[pa.RecordBatch](), 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)
