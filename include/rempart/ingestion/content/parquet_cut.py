"""Find and remove rows of a Parquet delivery, batch by batch. It runs in the process that reads foreign files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine import parquet_rows
from rempart.ingestion.reading import LINE
from rempart.ingestion.unpacking import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

REMOVED = b"rempart.removed"
"""Metadata of a Parquet delivery that lost rows: their numbers, so that the others keep theirs."""
_ROWS = 20_000


def write_keys(file: Path, key: Mapping[str, str], out: Path) -> None:
    """Write the key columns as ingestion judges them, and the number of each row in the delivery as received.

    `key`: the name of each column in the delivery. Raises Unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = _keys(_opened(file).schema_arrow.empty_table(), key).append_column(LINE, pa.array([], pa.int64()))
    with pq.ParquetWriter(out, empty.schema, compression="lz4") as writer:
        for batch, lines in _batches(file, list(key.values())):
            writer.write_table(_keys(pa.Table.from_batches([batch]), key).append_column(LINE, lines))


def _keys(table: pa.Table, key: Mapping[str, str]) -> pa.Table:
    """Return the key columns of some rows under the names of the schema. Raises Unreadable."""
    import pyarrow as pa

    if not set(key.values()) <= set(table.column_names):
        raise Unreadable("the file lacks key columns")
    try:
        return pa.table({column: parquet_rows.column(table[name].combine_chunks()) for column, name in key.items()})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise Unreadable("the key columns hold values that are no text") from None


def write_without(file: Path, gone: Collection[int], out: Path) -> None:
    """Write a delivery without the rows with these numbers. Raises Unreadable."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    opened = _opened(file)
    metadata = dict(opened.schema_arrow.metadata or {})
    removed = sorted({*_removed(opened), *gone})
    schema = opened.schema_arrow.with_metadata(metadata | {REMOVED: b",".join(b"%d" % line for line in removed)})
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch, lines in _batches(file, None):
            kept = pc.invert(pc.is_in(lines, value_set=pa.array(sorted(gone), pa.int64())))
            writer.write_table(pa.Table.from_batches([batch.filter(kept)]).replace_schema_metadata(schema.metadata))


def names(file: Path) -> list[str]:
    """Return the columns of a file. Raises Unreadable."""
    return list(_opened(file).schema_arrow.names)


def numbers(first: int, rows: int, removed: Sequence[int]) -> pa.Array:
    """Return the numbers in the delivery as received of `rows` rows from the `first` on (from 1).

    The numbers in `removed` (sorted) are nobody's.
    """
    import numpy as np
    import pyarrow as pa

    gone = np.asarray(removed, np.int64)
    here = np.arange(first, first + rows, dtype=np.int64)
    return pa.array(here + np.searchsorted(gone - np.arange(len(gone)), here, side="right"))


def removed_from(file: Path) -> list[int]:
    """Return the numbers of rows that were removed from a delivery before. Raises Unreadable."""
    return _removed(_opened(file))


def _opened(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError):
        raise Unreadable("the file is not Parquet, or it is damaged") from None


def _removed(opened: Any) -> list[int]:
    noted = (opened.schema_arrow.metadata or {}).get(REMOVED, b"")
    try:
        return sorted({int(number) for number in noted.split(b",") if number})
    except ValueError:
        raise Unreadable("its metadata name removed rows that are no numbers") from None


def _batches(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    import pyarrow as pa

    opened = _opened(file)
    removed, first = _removed(opened), 1
    try:
        for batch in opened.iter_batches(_ROWS, columns=None if columns is None else list(columns)):
            yield batch, numbers(first, batch.num_rows, removed)
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError):
        raise Unreadable("the Parquet file is damaged, or holds values that are no text") from None
