"""Write accepted rows as Parquet parts of limited size: one partition each, sorted by key."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import IntegrityError
from rempart.ingestion.engine.database import batches
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema
from rempart.settings.columns import Period
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import duckdb

_GROUP = 131_072
"""Rows of a row group."""
_LETTERS = {"month": len("YYYY-MM"), "day": len("YYYY-MM-DD"), "hour": len("YYYY-MM-DD HH")}


@dataclass(frozen=True)
class WrittenPart:
    """A part on disk. `partition`: the name of its period, such as `YYYY-MM`."""

    partition: str
    file: Path
    rows: int
    bytes: int
    sha256: str


def period(column: str, type_: str, every: Period = "month") -> str:
    """Return the SQL of a row's partition (in UTC) from a date or timestamp column, as `snapshots.partitions` does."""
    name = quote(column)
    if type_ == "timestamp":  # the text of a time with a zone would be in the zone of the session
        name = f"make_timestamp(epoch_us({name}))"
    text = f"left(CAST({name} AS VARCHAR), {_LETTERS[every]})"
    return f"replace({text}, ' ', 'T')" if every == "hour" else text


def period_of(pipeline: Pipeline) -> str:
    """Return the SQL of a row's partition in a pipeline's snapshot."""
    return period(pipeline.partition_by, pipeline.columns[pipeline.partition_by].type, pipeline.partition_every)


def write(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    columns: Mapping[str, SnapshotColumn],
    key: Sequence[str],
    partition: str,
    folder: Path,
    *,
    most: int,
) -> list[WrittenPart]:
    """Write the rows of a relation (SQL) to parts of about `most` bytes at most. `partition`: SQL of a row's partition.

    A part ends at the first row group that exceeds `most`, so one row group is the smallest part.
    """
    names = ", ".join(map(quote, columns))
    ordered = ", ".join(map(quote, key))
    query = f"SELECT {partition} AS _partition, {names} FROM {relation} ORDER BY _partition, {ordered}"  # noqa: S608
    folder.mkdir(exist_ok=True)
    writer = _Writer(folder, arrow_schema(columns), most, key)
    for batch in batches(connection, query, _GROUP):
        for name, rows in _runs(batch):
            writer.add(name, rows)
    return writer.finish()


def _runs(batch: Any) -> Iterator[tuple[str, Any]]:
    """Yield the rows of each partition in a batch that is sorted by partition, without the partition's column."""
    import numpy as np
    import pyarrow as pa

    codes = batch.column(0).dictionary_encode().indices.to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for start, end in itertools.pairwise(bounds):
        if start < end:
            rows = batch.slice(start, end - start)
            yield rows.column(0)[0].as_py(), pa.Table.from_batches([rows]).drop_columns(["_partition"])


def _encoding(schema: Any, key: Sequence[str]) -> dict[str, Any]:
    """Return how Parquet holds the columns: a key of one column never repeats, so a dictionary of it is a waste."""
    import pyarrow as pa

    how: dict[str, Any] = {"compression": "zstd", "version": "2.6"}
    if len(key) == 1:
        how["use_dictionary"] = [name for name in schema.names if name != key[0]]
        if pa.types.is_integer(schema.field(key[0]).type):  # sorted integers take few bytes as differences
            how["column_encoding"] = {key[0]: "DELTA_BINARY_PACKED"}
    return how


class _Writer:
    """Writes parts one after the other; at most one row group is in memory."""

    def __init__(self, folder: Path, schema: Any, most: int, key: Sequence[str]) -> None:
        self._folder, self._schema, self._most = folder, schema, most
        self._how = _encoding(schema, key)
        self._partition: str | None = None
        self._waiting: list[Any] = []
        self._open: tuple[Path, Any, Any] | None = None
        self._rows = 0
        self._done: list[WrittenPart] = []

    def add(self, partition: str, rows: Any) -> None:
        if partition != self._partition:
            if self._partition is not None and partition < self._partition:
                raise IntegrityError("write parts: DuckDB did not sort the rows", "Report this as a bug.")
            self._close()
            self._partition = partition
        self._waiting.append(rows.cast(self._schema))
        if sum(table.num_rows for table in self._waiting) >= _GROUP:
            self._flush()

    def finish(self) -> list[WrittenPart]:
        self._close()
        return self._done

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        if self._open is None:
            file = self._folder / f"part-{len(self._done):06d}.parquet"
            sink = pa.OSFile(str(file), "wb")
            self._open = file, sink, pq.ParquetWriter(sink, self._schema, **self._how)
        _, sink, writer = self._open
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        writer.write_table(table, row_group_size=_GROUP)
        self._rows += table.num_rows
        if sink.tell() >= self._most:
            self._end()

    def _close(self) -> None:
        self._flush()
        self._end()

    def _end(self) -> None:
        if self._open is None or self._partition is None:
            return
        file, sink, writer = self._open
        writer.close()
        sink.close()
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._done.append(WrittenPart(self._partition, file, self._rows, file.stat().st_size, digest))
        self._open, self._rows = None, 0
