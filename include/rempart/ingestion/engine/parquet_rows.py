"""Read a Parquet file in batches; columns keep a type that `parsing.typed` knows, and are text otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine.batches import LINE, RAW, TextRows
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.reading import EMPTY
from rempart.ingestion.unpacking import Unreadable, names_in, wrong_header
from rempart.settings.columns import Column
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 50_000


def read(file: Any, declared: Mapping[str, Column], source: Source, limits: Limits) -> Iterator[TextRows]:
    """Yield the rows of a file (a path or a file that can seek). Raises Unreadable.

    A column may be a list if it is declared as an `array` of such items, without a `separator`.

    `LINE` is the number of the row, from 1. `RAW` is null: a refused row's text is made when it is refused.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = names_in(source, declared)
    given = {name: column for column, name in columns.items()}
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError):
        raise Unreadable("the file is not Parquet, or it is damaged") from None
    if wrong := wrong_header(opened.schema_arrow.names, list(given), ","):
        raise Unreadable(wrong)
    if opened.metadata.num_rows > limits.rows:
        raise Unreadable(f"the file has more than {limits.rows} rows")
    if not opened.metadata.num_rows:
        raise Unreadable(EMPTY)
    for field in opened.schema_arrow:
        if pa.types.is_nested(field.type) and not _listed(field.type, declared[given[field.name]]):
            raise Unreadable(f"column '{field.name}' holds lists or structures that its type does not take")
    first, size = 1, 0
    try:
        for batch in opened.iter_batches(_ROWS, columns=list(given)):
            rows = _rows(batch, columns, first)
            size += rows.drop_columns([LINE, RAW]).nbytes
            if size > limits.bytes:
                raise Unreadable(f"the file is larger than {limits.bytes >> 20} MiB unpacked")
            yield TextRows(rows)
            first += batch.num_rows
    except MemoryError:  # Arrow's own is an ArrowException too
        raise
    except (pa.ArrowException, OSError):
        raise Unreadable("the Parquet file is damaged, or holds values that are no text") from None
    if first - 1 != opened.metadata.num_rows:
        raise Unreadable(f"the file announces {opened.metadata.num_rows} rows and holds {first - 1}")


def _listed(kind: pa.DataType, column: Column) -> bool:
    """Return whether a nested column is a list that its declared type takes."""
    import pyarrow as pa

    if not column.takes_lists or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    if column.items == "string":
        return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _rows(batch: pa.RecordBatch, columns: Mapping[str, str], first: int) -> pa.Table:
    """Return a batch's rows under the names of the schema. `columns`: the file's name of each."""
    import numpy as np
    import pyarrow as pa

    made = {name: column(batch[given]) for name, given in columns.items()}
    lines = pa.array(np.arange(first, first + batch.num_rows), pa.int64())
    return pa.table({**made, LINE: lines, RAW: pa.nulls(batch.num_rows, pa.string())})


def column(values: pa.Array) -> pa.Array:
    """Return a column of a file as the engine judges it: with its own type, or as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = (
        pa.types.is_integer,
        pa.types.is_boolean,
        pa.types.is_float64,
        pa.types.is_date32,
        pa.types.is_timestamp,
        pa.types.is_decimal128,
        pa.types.is_list,
        pa.types.is_large_list,
    )
    if any(is_kind(values.type) for is_kind in kept):
        return values
    text = pc.cast(values, pa.string())
    text.validate(full=True)  # bytes that are no text are found here, not when a row is stored
    return text
