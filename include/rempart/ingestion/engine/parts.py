"""Write accepted rows as Parquet parts of limited size: one partition each, sorted by key."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.engine_connection import EngineConnection
from rempart.errors import IntegrityError
from rempart.ingestion.engine.database import batches
from rempart.ingestion.engine.identity import ascends, quote
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema
from rempart.settings.columns import Period
from rempart.settings.pipeline import Pipeline
from rempart.sites.digests import file_sha256

_GROUP = 131_072
"""Rows of a row group."""
_WAITING = 192 << 20
"""Bytes of rows that wait until their row group is full; beyond them the fullest partition gets a smaller one."""
_MOST_OPEN = 128
"""Partitions that are written at the same time. Rows of more partitions are sorted first."""
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
    connection: EngineConnection,
    relation: str,
    columns: Mapping[str, SnapshotColumn],
    key: Sequence[str],
    partition: str,
    folder: Path,
    *,
    most: int,
) -> list[WrittenPart]:
    """Write the rows of a relation (SQL) to parts of about `most` bytes at most. `partition`: SQL of a row's partition.

    A part ends at the first row group that exceeds `most`, so one row group is the smallest part. Rows that come in
    order of their keys in each partition, as growing ids do, are written as they come; others are sorted by DuckDB.
    """
    names = ", ".join(map(quote, columns))
    ordered = ", ".join(map(quote, key))
    query = f"SELECT {partition} AS _partition, {names} FROM {relation}"  # noqa: S608 - our own names
    folder.mkdir(exist_ok=True)
    writer = PartWriter(folder, arrow_schema(columns), most, key)
    if all(writer.takes(batch) for batch in batches(connection, query, _GROUP)):
        return writer.finish()
    writer.drop()
    writer = PartWriter(folder, arrow_schema(columns), most, key)
    for batch in batches(connection, f"{query} ORDER BY _partition, {ordered}", _GROUP):
        if not writer.takes(batch, sorted_by_partition=True):
            raise IntegrityError("write parts: DuckDB did not sort the rows", "Report this as a bug.")
    return writer.finish()


def _runs(batch: Any) -> Iterator[tuple[str, Any]]:
    """Yield the rows of each partition in a batch, in their order, without the partition's column."""
    import numpy as np
    import pyarrow as pa

    encoded = batch.column(0).dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    table = pa.Table.from_batches([batch]).drop_columns(["_partition"])
    if (codes[1:] < codes[:-1]).any():
        order = np.argsort(codes, kind="stable")
        codes, table = codes[order], table.take(pa.array(order))
    bounds = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for start, end in itertools.pairwise(bounds):
        if start < end:
            yield names[codes[start]], table.slice(start, end - start)


def _encoding(schema: Any, key: Sequence[str]) -> dict[str, Any]:
    """Return how Parquet holds the columns: a key of one column never repeats, so a dictionary of it is a waste."""
    import pyarrow as pa

    how: dict[str, Any] = {"compression": "zstd", "version": "2.6"}
    if len(key) == 1:
        how["use_dictionary"] = [name for name in schema.names if name != key[0]]
        if pa.types.is_integer(schema.field(key[0]).type):  # sorted integers take few bytes as differences
            how["column_encoding"] = {key[0]: "DELTA_BINARY_PACKED"}
    return how


class PartWriter:
    """Writes parts of some partitions at the same time; `_WAITING` bytes of rows and one row group are in memory."""

    def __init__(self, folder: Path, schema: Any, most: int, key: Sequence[str]) -> None:
        self._folder, self._schema, self._most, self._key = folder, schema, most, key
        self._how = _encoding(schema, key)
        self._open: dict[str, _Partition] = {}
        self._done: list[WrittenPart] = []
        self._numbers = itertools.count()

    def takes(self, batch: Any, *, sorted_by_partition: bool = False) -> bool:
        """Add the rows of a batch, whose first column is the partition. False if they are not in order.

        `sorted_by_partition`: a partition ends where the next one begins.
        """
        for name, rows in _runs(batch):
            if sorted_by_partition and name not in self._open:
                if any(part.partition >= name for part in self._done) or any(other > name for other in self._open):
                    return False
                self._close()
            if name not in self._open:
                if len(self._open) >= _MOST_OPEN:
                    return False
                self._open[name] = _Partition(name)
            if not self._open[name].takes(rows.cast(self._schema), self._key):
                return False
            while self._open[name].rows >= _GROUP:
                self._write(self._open[name], _GROUP)
        while sum(partition.bytes for partition in self._open.values()) > _WAITING:
            fullest = max(self._open.values(), key=lambda partition: partition.bytes)
            self._write(fullest, fullest.rows)
        return True

    def ended(self) -> list[WrittenPart]:
        """Return the parts that ended since the last call, and forget them."""
        some, self._done = self._done, []
        return some

    def finish(self) -> list[WrittenPart]:
        """Return the parts, in order of their partitions."""
        self._close()
        return sorted(self._done, key=lambda part: part.partition)

    def drop(self) -> None:
        """Delete what was written."""
        self._close()
        for part in self._done:
            part.file.unlink()

    def _close(self) -> None:
        for partition in self._open.values():
            if partition.rows:
                self._write(partition, partition.rows)
            self._end(partition)
        self._open = {}

    def _write(self, partition: _Partition, rows: int) -> None:
        """Write the first rows of a partition as a row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if partition.file is None:
            file = self._folder / f"part-{next(self._numbers):06d}.parquet"
            sink = pa.OSFile(str(file), "wb")
            partition.file = file, sink, pq.ParquetWriter(sink, self._schema, **self._how)
        _, sink, writer = partition.file
        writer.write_table(partition.taken(rows), row_group_size=_GROUP)
        partition.written += rows
        if sink.tell() >= self._most:
            self._end(partition)

    def _end(self, partition: _Partition) -> None:
        if partition.file is None:
            return
        file, sink, writer = partition.file
        writer.close()
        sink.close()
        self._done.append(WrittenPart(partition.name, file, partition.written, file.stat().st_size, file_sha256(file)))
        partition.file, partition.written = None, 0


class _Partition:
    """Rows of one partition that wait to be written, and the part that is open. `bytes`: of the waiting rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = self.bytes = self.written = 0
        self.file: tuple[Path, Any, Any] | None = None
        self._waiting: list[Any] = []
        self._last: Any = None

    def takes(self, rows: Any, key: Sequence[str]) -> bool:
        """Add rows. False if their keys descend."""
        import pyarrow as pa

        keys = rows.select(list(key))
        if not ascends(keys if self._last is None else pa.concat_tables([self._last, keys])):
            return False
        self._last = keys.slice(keys.num_rows - 1)
        self._waiting.append(rows)
        self.rows, self.bytes = self.rows + rows.num_rows, self.bytes + rows.nbytes
        return True

    def taken(self, rows: int) -> Any:
        """Remove the first rows and return them."""
        import pyarrow as pa

        whole = pa.concat_tables(self._waiting)
        rest = whole.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self.rows, self.bytes = rest.num_rows, rest.nbytes
        return whole.slice(0, rows)
