"""Columns that arrive with a type (Parquet, JSON numbers): taken over where the type is right, without a text between.

The result is that of the column's text in ISO form with a decimal point; what is not certain here is left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rempart.ingestion.parsing import arrays
from rempart.ingestion.parsing.instants import NO_ZONE, UNCERTAIN
from rempart.settings.clock import FIRST_DAY, LAST_DAY, resolve
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

Typed = tuple[Any, list[tuple[Any, str]]]
"""A column of its declared type, and pairs of a mask and the reason against these cells."""
DIGITS = 10**18
"""Integers of more than 18 digits are refused."""
_HOUR = 3_600_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local


def iso(dialect: Dialect) -> Dialect:
    """Return how Arrow writes typed values as text; missing values and the time zone stay the source's."""
    return dialect.model_copy(update={"decimal": ".", "thousands": "", "dates": "YYYY-MM-DD"})


def column(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    """Return a typed column as the declared one, or None if its text must decide. Null stays null."""
    if declared.type == "array":
        return arrays.typed(values, declared)
    if any(map(like_a_value, dialect.null_values)):  # such as -999 for a missing number
        return None
    rule = _RULES.get(declared.type)
    return rule(values, declared, dialect) if rule else None


def like_a_value(token: str) -> bool:
    """Return whether a token for missing values could be the text of a number, date or boolean."""
    return token.lower() in ("true", "false") or any(character.isdigit() for character in token)


def _integer(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    import pyarrow as pa

    if not pa.types.is_integer(values.type) or not _within(values, -DIGITS + 1, DIGITS - 1):
        return None
    return values.cast(pa.int64()), []


def _number(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(values.type):
        return pc.cast(values, pa.float64(), safe=False), []  # rounds as the text of the integer does
    if values.type != pa.float64() or (not pc.all(pc.is_finite(values)).as_py() and len(values) > values.null_count):
        return None
    return values, []


def _boolean(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    import pyarrow as pa

    return (values, []) if pa.types.is_boolean(values.type) else None


def _decimal(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    import pyarrow as pa

    assert declared.precision is not None and declared.scale is not None  # noqa: S101 - the pipeline's validation
    if not pa.types.is_decimal(values.type):
        return None
    try:
        return values.cast(pa.decimal128(declared.precision, declared.scale)), []
    except pa.ArrowInvalid:  # the text says which cells, and why
        return None


def _date(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    import pyarrow as pa

    if values.type != pa.date32() or not _within(values.view(pa.int32()), FIRST_DAY, LAST_DAY):
        return None
    return values, []


def _timestamp(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    """Return instants in UTC; timestamps without a zone are local times of the source's zone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(values.type):
        return None
    target = pa.timestamp("us", values.type.tz)
    try:
        exact = values.cast(target)
    except pa.ArrowInvalid:
        return _without_parts(values, declared, dialect)
    ticks = exact.view(pa.int64())
    first, last = (FIRST_DAY + 1) * 24 * _HOUR, LAST_DAY * 24 * _HOUR - 1
    if not _within(ticks, first, last):  # within a day of the calendar's ends, or beyond them
        return None
    if values.type.tz is not None:
        return exact.cast(pa.timestamp("us", "UTC")), []
    if dialect.time_zone is None:
        return pa.nulls(len(values), pa.timestamp("us", "UTC")), [(pc.is_valid(values), NO_ZONE)]
    return _of_zone(ticks, ZoneInfo(dialect.time_zone))


def _without_parts(values: pa.Array, declared: Column, dialect: Dialect) -> Typed | None:
    """Refuse nanoseconds that are no whole microseconds; nothing is rounded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    floor = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    lost = pc.fill_null(pc.not_equal(floor.cast(values.type), values), False)
    whole = pc.if_else(lost, pa.scalar(None, floor.type), floor)
    made = _timestamp(whole, declared, dialect)
    return made and (made[0], [*made[1], (lost, "a fraction of a second with more than six digits")])


def _of_zone(ticks: pa.Array, zone: ZoneInfo) -> Typed:
    """Return the instants of local times (microseconds since 1970). Each hour is looked up once."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    valid = ticks.is_valid()
    local = pc.fill_null(ticks, 0).to_numpy()
    hours, of_hour = np.unique(local // _HOUR, return_inverse=True)
    offsets = [_offset(int(hour), zone) for hour in hours.tolist()]
    certain = np.array([offset is not None for offset in offsets], bool)[of_hour]
    moved = local - np.array([offset or 0 for offset in offsets], np.int64)[of_hour]
    wrong: dict[str, list[int]] = {}
    for place in np.flatnonzero(~certain & valid.to_numpy(zero_copy_only=False)).tolist():
        meant = resolve(_EPOCH + timedelta(microseconds=int(local[place])), zone)
        if isinstance(meant, str):
            wrong.setdefault(UNCERTAIN[meant], []).append(place)
        else:
            moved[place] = (meant.replace(tzinfo=None) - _EPOCH) // timedelta(microseconds=1)
    faults = []
    known = valid
    for reason in sorted(wrong):
        mask = np.zeros(len(local), bool)
        mask[wrong[reason]] = True
        faults.append((pa.array(mask), reason))
        known = pc.and_not(known, pa.array(mask))
    instants = pa.array(moved, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pc.if_else(known, instants, pa.scalar(None, instants.type)), faults


def _offset(hour: int, zone: ZoneInfo) -> int | None:
    """Return the offset from UTC in microseconds that all of a local hour has, or None."""
    begin = _EPOCH + timedelta(hours=hour)
    first, last = resolve(begin, zone), resolve(begin + timedelta(hours=1, microseconds=-1), zone)
    if isinstance(first, str) or isinstance(last, str) or last - first != timedelta(hours=1, microseconds=-1):
        return None
    return (begin.replace(tzinfo=UTC) - first) // timedelta(microseconds=1)


def _within(values: pa.Array, least: int, most: int) -> bool:
    """Return whether all values that are not null lie between two integers."""
    import pyarrow.compute as pc

    found = pc.min_max(values).as_py()
    return found["min"] is None or (found["min"] >= least and found["max"] <= most)


_RULES: dict[str, Callable[[Any, Column, Dialect], Typed | None]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "decimal": _decimal,
    "date": _date,
    "timestamp": _timestamp,
}
