"""Count rows into profiles: a pass over batches of Arrow, each column at once in NumPy, and no row in Python.

Memory is that of a batch and of the counts, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.monitoring.profiles import NO_PERIOD, Column, ColumnProfile, Profile

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, np.dtype[Any]]

EDGES = 20
"""Quantiles of a number that become edges, besides the least and the greatest value."""
SAMPLED = 50_000
"""Rows of which quantiles are taken; of more rows each n-th."""
BATCH = 1 << 16
"""Rows of a batch: a column's values then fit the processor's cache."""


def edges(rows: Iterable[pa.RecordBatch], count: int, columns: Sequence[Column]) -> dict[str, tuple[float, ...]]:
    """Return the edges of the numbers of some rows: their least and greatest value and quantiles, each once.

    `count`: the number of rows. A number without a value has no edges.
    """
    import numpy as np

    numbers = [column for column in columns if column.kind == "number"]
    sampled: dict[str, list[Array]] = {column.name: [] for column in numbers}
    step, first = max(1, count // SAMPLED), 0
    for batch in rows if numbers else ():
        taken = batch.take(np.arange(first, batch.num_rows, step)) if step > 1 else batch
        first = (first - batch.num_rows) % step
        for name, values in sampled.items():
            found = _numbers(taken.column(name))
            values.append(found[np.isfinite(found)])
    return {name: _quantiles(values) for name, values in sampled.items()}


def _quantiles(sampled: Sequence[Array]) -> tuple[float, ...]:
    import numpy as np

    values = np.sort(np.concatenate(sampled)) if sampled else np.empty(0)
    if not len(values):
        return ()
    places = np.ceil(np.arange(EDGES + 1) / EDGES * len(values)).astype(np.int64) - 1
    return tuple(np.unique(values[np.maximum(places, 0)]).tolist())


def profile(
    rows: Iterable[pa.RecordBatch],
    columns: Sequence[Column],
    grid: Mapping[str, tuple[float, ...]],
    time: str | None,
) -> Profile:
    """Return the profile of some rows.

    `grid`: result of `edges` for the reference. `time`: the column with the date or timestamp of a row.
    """
    import numpy as np

    empty = [ColumnProfile(column, grid.get(column.name, ()), (), (), ()) for column in columns]
    found: list[dict[int, Array]] = [{} for _ in columns]
    for batch in rows:
        found_months, month = np.unique(_months(batch, time), return_inverse=True)
        for made, counted in zip(empty, found, strict=True):
            bins = made.bins + 1  # at last the rows without a value
            place = month * bins
            place += _places(batch.column(made.column.name), made)
            counts = np.bincount(place, minlength=len(found_months) * bins).reshape(len(found_months), bins)
            for period, row in zip(found_months.tolist(), counts, strict=True):
                counted[period] = counted[period] + row if period in counted else row
    return {made.column.name: _profile(made, counted) for made, counted in zip(empty, found, strict=True)}


def _profile(empty: ColumnProfile, counted: Mapping[int, Array]) -> ColumnProfile:
    in_order = sorted((_period(month), row.tolist()) for month, row in counted.items())
    return ColumnProfile(
        empty.column,
        empty.edges,
        tuple(period for period, _ in in_order),
        tuple(tuple(row[:-1]) for _, row in in_order),
        tuple(row[-1] for _, row in in_order),
    )


def _places(values: pa.Array, made: ColumnProfile) -> Array:
    """Return the bin of each value; of no value, the number of bins."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if made.column.kind == "category":
        texts = values.cast(pa.string())
        found = pc.fill_null(pc.index_in(texts, value_set=pa.array(made.column.values, pa.string())), made.bins - 1)
        places = found.to_numpy(zero_copy_only=False)
        return (
            np.where(texts.is_null().to_numpy(zero_copy_only=False), made.bins, places) if texts.null_count else places
        )
    numbers = _numbers(values)
    places = _between(numbers, made.edges)
    is_number = np.isfinite(numbers)
    return places if is_number.all() else np.where(is_number, places, made.bins)


def _between(numbers: Array, edges: Sequence[float]) -> Array:
    """Return twice the number of edges below each number, and one more if the number is an edge.

    Two comparisons for each edge take an eighth of the time of `searchsorted`, whose branches the processor cannot
    foresee.
    """
    import numpy as np

    places = np.zeros(len(numbers), np.int8)
    for edge in edges:
        places += numbers > edge
        places += numbers >= edge
    return places


def _numbers(values: pa.Array) -> Array:
    """Return values as floats; NaN where there is none."""
    import pyarrow as pa

    found: Array = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def months(moments: pa.Array | pa.ChunkedArray) -> Array:
    """Return the number of months since year 0 of dates or timestamps; -1 of none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(moments.type):
        moments = moments.cast(pa.timestamp("us"))  # UTC as it is: calendar functions would look up the zone
    found = pc.add(pc.multiply(pc.year(moments), 12), pc.subtract(pc.month(moments), 1))
    filled = pc.fill_null(found, -1)
    made: Array = filled.to_numpy() if isinstance(filled, pa.ChunkedArray) else filled.to_numpy(zero_copy_only=False)
    return made


def _months(batch: pa.RecordBatch, time: str | None) -> Array:
    import numpy as np

    return np.full(batch.num_rows, -1) if time is None else months(batch.column(time))


def _period(month: int) -> str:
    return NO_PERIOD if month < 0 else f"{month // 12:04}-{month % 12 + 1:02}"


def batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in memory."""
    yield from table.to_batches(max_chunksize=BATCH)
