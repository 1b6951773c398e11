"""Execute a bound query over the parts of its inputs' snapshots, into one Parquet file in a stable order.

One thread and sorted parts: the same parts give the same file, byte for byte, also where numbers are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import IngestError
from rempart.ingestion.derived.binding import Columns, Query, sql_type
from rempart.ingestion.engine.database import batches, opened, parquet
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.snapshots import arrow_schema

if TYPE_CHECKING:
    import duckdb

_ROWS = 131_072
"""Rows of a batch, and of a row group of the file."""


def execute(
    name: str,
    query: Query,
    inputs: Mapping[str, tuple[Columns, Sequence[Path]]],
    order: Sequence[str],
    out: Path,
    resources: Resources,
) -> int:
    """Write the rows of the query to `out`, sorted by `order` and then by all columns. Return their number.

    `inputs`: columns and part files of each input. Memory stays within `resources`; the rest spills to its folder.
    Raises IngestError if the query fails on these rows; the error holds no value of a row.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = arrow_schema(query.columns), 0
    folders = sorted({file.parent for _, files in inputs.values() for file in files})
    with opened(replace(resources, threads=1), folders) as connection:
        for table, (columns, files) in inputs.items():
            _define(connection, table, columns, files)
        fields = ", ".join(
            f"{_settled(f'CAST({quote(column)} AS {sql_type(spec.type)})', spec.type)} AS {quote(column)}"
            for column, spec in query.columns.items()
        )
        keys = dict.fromkeys([*order, *query.columns])
        ordered = ", ".join(f"{quote(column)} NULLS FIRST" for column in keys)
        try:
            with pq.ParquetWriter(str(out), schema, compression="zstd", version="2.6") as writer:
                wrapped = f"SELECT {fields} FROM ({query.text}) ORDER BY {ordered}"  # noqa: S608 # bound before
                for batch in batches(connection, wrapped, _ROWS):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=_ROWS)
                    count += batch.num_rows
        except (duckdb.Error, pa.ArrowException) as cause:
            raise IngestError(
                f"{name}: the query failed on the current rows of {', '.join(inputs)} ({type(cause).__name__})",
                "The message is left out because it may quote a row. Common causes: a CAST of a text that is no "
                "number (use TRY_CAST), a number out of its type's range, or too little memory.",
            ) from None
    return count


def _settled(value: str, declared: str) -> str:
    """Return a value whose float has one form of zero and one of NaN: which one a query gives depends on the engine."""
    if declared != "number":
        return value
    return f"CASE WHEN isnan({value}) THEN 'NaN'::DOUBLE WHEN {value} = 0 THEN 0::DOUBLE ELSE {value} END"


def _define(connection: duckdb.DuckDBPyConnection, table: str, columns: Columns, files: Sequence[Path]) -> None:
    """Define a view of an input's parts, with the types at which the query was bound."""
    fields = ", ".join(
        f"CAST({quote(column)} AS {sql_type(spec.type)}) AS {quote(column)}" for column, spec in columns.items()
    )
    empty = f"(SELECT {', '.join(f'NULL AS {quote(column)}' for column in columns)} WHERE false)"
    source = parquet(files) if files else empty
    connection.execute(f"CREATE VIEW {quote(table)} AS SELECT {fields} FROM {source}")  # noqa: S608 # names are quoted
