"""Refuse rows with a moment outside the calendar: no database or prediction could tell when they were."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rempart.settings.clock import FIRST_DAY, LAST_DAY
from rempart.settings.columns import TEMPORAL, Moment
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = 24 * 3600 * 1_000_000
_FIRST, _END = FIRST_DAY * _DAY, (LAST_DAY + 1) * _DAY
"""Microseconds since 1970 of the year 1, and of the year 10000."""
_UNITS = {"days": (_DAY, 4_000_000), "hours": (_DAY // 24, 100_000_000), "minutes": (_DAY // 1440, 2**31 - 1)}
"""Microseconds of a unit of an offset, and the largest number of it that the calendar, or SQL's `integer`, has."""


def beyond(table: pa.Table, pipeline: Pipeline) -> dict[int, list[str]]:
    """Return the reasons against typed rows whose moments lie before the year 1 or after 9999, by position.

    A moment counts if all columns that it is made of are there, with the types of a moment. An empty one is no fault.
    """
    import numpy as np

    found: dict[int, list[str]] = {}
    for name, moment in pipeline.moments.items():
        offsets = [column for column in moment.offsets if column]
        if not (offsets or moment.earlier) or not all(column in table.column_names for column in moment.columns):
            continue
        if pipeline.columns[moment.column].type not in TEMPORAL or any(
            pipeline.columns[column].type != "integer" for column in offsets
        ):
            continue
        for place in np.flatnonzero(_outside(table, moment)).tolist():
            found.setdefault(place, []).append(f"moment '{name}': it lies before the year 1 or after the year 9999")
    return found


def _outside(table: pa.Table, moment: Moment) -> Any:
    """Return for each row whether its moment is outside the calendar, as an array."""
    import numpy as np
    import pyarrow as pa

    at, outside = _numbers(table[moment.column].cast(pa.timestamp("us"))), np.zeros(table.num_rows, bool)
    fixed = moment.earlier // timedelta(microseconds=1)
    at = at - max(-2 * _END, min(fixed, 2 * _END))
    for (unit, most), column in zip(_UNITS.values(), moment.offsets, strict=True):
        if column:
            given = _numbers(table[column])
            outside = outside | (abs(given) > most)
            at = at - given.clip(-most, most) * unit
    outside = outside | (at < _FIRST) | (at >= _END)
    for column in moment.columns:
        outside = outside & table[column].is_valid().to_numpy()
    return outside


def _numbers(column: pa.ChunkedArray) -> Any:
    """Return whole numbers as an array, 0 for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
