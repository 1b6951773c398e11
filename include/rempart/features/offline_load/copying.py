"""Copy rows into temporary tables of the offline database. No value becomes a Python object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import Session

if TYPE_CHECKING:
    import pyarrow as pa


def receive(
    opened: Session, name: str, columns: tables.Columns, rows: pa.RecordBatchReader, received: Sequence[str]
) -> None:
    """Copy the `received` columns of rows into a temporary table of `columns`, which may be more."""
    create(opened, name, columns)
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(tables.name(name), tables.names(received))
    with opened.cursor() as cursor, cursor.copy(copy) as stream:
        for block in _csv(rows, received):
            stream.write(block)


def create(opened: Session, name: str, columns: tables.Columns) -> None:
    """Create a temporary table that lasts until the transaction ends."""
    typed = (sql.SQL("{} {}").format(tables.name(c), sql.SQL(declared)) for c, declared in columns)
    opened.execute(
        sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(tables.name(name), sql.SQL(", ").join(typed))
    )


def count(opened: Session, table: str) -> int:
    """Return the number of rows of a table."""
    row = opened.execute(sql.SQL("SELECT count(*) FROM {}").format(tables.name(table))).fetchone()
    return int(row[0]) if row else 0


def _csv(rows: pa.RecordBatchReader, columns: Sequence[str]) -> Iterator[Any]:
    """Yield some columns as CSV in COPY's format. Strings are quoted, so that an empty string differs from NULL."""
    import pyarrow as pa
    import pyarrow.csv as csv

    for batch in rows:
        sink = pa.BufferOutputStream()
        csv.write_csv(pa.Table.from_batches([batch]).select(columns), sink, csv.WriteOptions(include_header=False))
        yield sink.getvalue().to_pybytes()
