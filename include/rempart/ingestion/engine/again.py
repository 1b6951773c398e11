"""Find the quarantined rows of a delivery in the delivery as it is read now, each once, to judge them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.database import batches, opened, parquet
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.refused import REASONS, RefusedFile, RefusedRows, schema

if TYPE_CHECKING:
    import duckdb

_ROWS = 50_000


def only_quarantined(
    read: StagedDelivery, quarantined: RefusedFile, file: Path, resources: Resources
) -> StagedDelivery:
    """Return the quarantined rows of a delivery as read now, each on its original line; good ones are in `file`.

    Rows are matched by their text; among equal rows the last ones, because later ones are refused as duplicates. Rows
    of a format without text are matched by their line. Quarantined rows that are not found stay refused.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    before, now = quarantined.file, file.with_name(f"{file.name}.now")
    pq.write_table(read.refused.table, now)
    good = 0
    with opened(resources, sorted({file.parent, before.parent, *read.folders})) as connection:
        _match(connection, read.rows, now, before)
        with (
            pq.ParquetFile(read.file) as source,
            pq.ParquetWriter(file, source.schema_arrow, compression="lz4") as out,
        ):
            found = (
                f"SELECT s.* REPLACE (p.now AS {LINE}) FROM {read.rows} s "  # noqa: S608 - our own names
                f"JOIN pairs p ON s.{LINE} = p.was ORDER BY p.now"
            )
            for batch in batches(connection, found, _ROWS):
                good += batch.num_rows
                out.write_table(pa.Table.from_batches([batch]).cast(source.schema_arrow))
        refused = pa.Table.from_batches(_refused(connection, now, before), schema())
    return StagedDelivery(file, good, good, RefusedRows(refused).sorted())


def _match(connection: duckdb.DuckDBPyConnection, good: str, now: Path, before: Path) -> None:
    """Create the table `pairs`: the line of a row in the file, and the line under which it is in quarantine."""
    last = f"row_number() OVER (PARTITION BY {RAW} ORDER BY {LINE} DESC) AS n"
    connection.execute(
        f"CREATE VIEW here AS SELECT {LINE}, {RAW} FROM {good} "  # noqa: S608 - our own names
        f"UNION ALL SELECT {LINE}, {RAW} FROM {parquet([now])}"
    )
    connection.execute(
        f"CREATE TEMP TABLE pairs AS SELECT h.{LINE} AS was, q.{LINE} AS now "  # noqa: S608 - our own names
        f"FROM (SELECT {LINE}, {RAW}, {last} FROM here WHERE {RAW} IS NOT NULL) h "
        f"JOIN (SELECT {LINE}, {RAW}, {last} FROM {parquet([before])}) q ON h.{RAW} = q.{RAW} AND h.n = q.n"
    )
    connection.execute(
        f"INSERT INTO pairs SELECT q.{LINE}, q.{LINE} FROM {parquet([before])} q "  # noqa: S608 - our own names
        f"SEMI JOIN (SELECT {LINE} FROM here WHERE {RAW} IS NULL) h USING ({LINE}) "
        f"ANTI JOIN pairs p ON p.now = q.{LINE}"
    )


def _refused(connection: duckdb.DuckDBPyConnection, now: Path, before: Path) -> Iterator[Any]:
    """Yield the rows that are refused now, and those of the quarantine that were not found."""
    import pyarrow as pa

    query = (
        f"SELECT p.now AS {LINE}, {REASONS}, {RAW} FROM {parquet([now])} r "  # noqa: S608 - our own names
        f"JOIN pairs p ON r.{LINE} = p.was UNION ALL "
        f"SELECT {LINE}, {REASONS}, {RAW} FROM {parquet([before])} q ANTI JOIN pairs p ON p.now = q.{LINE}"
    )
    for batch in batches(connection, query, _ROWS):
        yield from pa.Table.from_batches([batch]).cast(schema()).to_batches()
