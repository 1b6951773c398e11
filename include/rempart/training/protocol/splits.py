"""Split a training set. Pure, and the same in the platform and in a job: equal rows and an equal order, equal parts.

Masks are NumPy arrays of booleans, one for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rempart.errors import TrainingError
from rempart.training.job import Origins, Split

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Mask = np.ndarray[Any, np.dtype[np.bool_]]

_DAY = 86_400
_SEPARATOR, _NULL = "\x1f", "\x00"
_PRIME, _START = 0x100000001B3, 0xCBF29CE484222325


@dataclass(frozen=True)
class Parts:
    """Rows to fit on, and rows to measure on, which `begins` if by time. Rows on neither side are in a gap."""

    fit: Mask
    measured: Mask
    begins: date | None = None


def midnight(day: date, zone: str | None) -> datetime:
    """Return the instant (UTC) at which a day begins in a time zone; where clocks skip midnight, that of the change."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone or "UTC")).astimezone(UTC)


def validation(table: pa.Table, how: Split) -> Parts:
    """Return the rows to fit on and those to validate on. Raises TrainingError if there are none on a side."""
    if how.column is None:
        held = hashed(table, how.by, how.share or 0.0, key="validation", within=how.stratify)
        parts = Parts(~held, held)
    else:
        dates = table.column(how.column)
        if how.last is not None:
            begins = back_from(newest(dates), how.last)
        else:
            begins = _at_share(dates, 1 - (how.share or 0.0))
        fit = _before(dates, back_from(begins, how.gap)) & _known(table, how.known_at, begins, how.zone)
        parts = Parts(fit, ~_before(dates, begins), begins)
    if not parts.fit.any() or not parts.measured.any():
        since = f" from {parts.begins}" if parts.begins is not None else ""
        raise TrainingError(
            f"The validation part{since} leaves {int(parts.fit.sum())} rows to fit on and {int(parts.measured.sum())} "
            "to validate on",
            "Set `validation` in the pipeline file so that both have rows.",
        )
    return parts


def origins(table: pa.Table, how: Origins) -> Iterator[Parts]:
    """Yield what each origin learns from and is measured on, oldest first. The newest ends with the newest row.

    Raises TrainingError at an origin that has no rows on a side.
    """
    dates = table.column(how.column)
    last = newest(dates)
    after = last + (timedelta(microseconds=1) if isinstance(last, datetime) else timedelta(days=1))
    for number in range(how.origins, 0, -1):
        begins = back_from(after, number * how.every)
        until = back_from(begins, how.gap)
        fit = _before(dates, until) & _known(table, how.known_at, begins, how.zone)
        if how.window is not None:
            fit &= ~_before(dates, back_from(until, how.window))
        measured = ~_before(dates, begins) & _before(dates, back_from(after, (number - 1) * how.every))
        if not fit.any() or not measured.any():
            raise TrainingError(
                f"The back-test from {begins} has {int(fit.sum())} rows to learn from and {int(measured.sum())} to be "
                "measured on",
                "Set fewer `backtest.origins`, or a shorter `backtest.every`, so that each has rows.",
            )
        yield Parts(fit, measured, begins)


def newest(dates: Any) -> Any:
    """Return the newest date or instant of a column without nulls."""
    import pyarrow.compute as pc

    return pc.max(dates).as_py()


def back_from(moment: Any, seconds: float) -> Any:
    """Return the moment so many seconds before; of a date whole days, rounded up. Not before the calendar begins."""
    first = datetime.min.replace(tzinfo=moment.tzinfo) if isinstance(moment, datetime) else date.min
    days = -(-seconds // _DAY)
    length = timedelta(seconds=seconds) if isinstance(moment, datetime) else timedelta(days=days)
    return moment - min(length, moment - first)


def hashed(table: pa.Table, by: Sequence[str], share: float, *, key: str, within: str | None = None) -> Mask:
    """Return a `share` of the groups that the columns `by` name, as a mask of their rows.

    A group's place follows from `key` and its values alone, so that it stays on its side when other rows come. `within`
    takes the share of the rows of each value of that column, those with the smallest hash: only rows at the edge move
    when others come. At least one row of each value stays: a class without a row to learn from cannot be trained.
    """
    import numpy as np

    drawn = _hashes(table, by, key)
    if within is None:
        return np.asarray(drawn < np.uint64(min(int(share * 2**64), 2**64 - 1)))
    held = np.zeros(len(drawn), bool)
    classes = _codes(table.column(within))
    for code in np.unique(classes):
        of_class = np.flatnonzero(classes == code)
        order = of_class[np.argsort(drawn[of_class], kind="stable")]
        held[order[: min(int(np.ceil(share * len(order))), len(order) - 1)]] = True
    return held


def _hashes(table: pa.Table, by: Sequence[str], key: str) -> Any:
    """Return a 64-bit hash of the values of the columns `by` in each row: FNV-1a over their text, then mixed.

    It is written out here, since it must never change: libraries' own hashes differ between versions.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [pc.fill_null(table.column(name).cast(pa.large_string()), _NULL) for name in by]
    joined = pc.binary_join_element_wise(
        pa.scalar(key, pa.large_string()), *texts, pa.scalar(_SEPARATOR, pa.large_string())
    )
    whole = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    offsets = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset : whole.offset + len(whole) + 1]
    octets = np.frombuffer(whole.buffers()[2] or b"", np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    found = np.full(len(whole), _START, np.uint64)
    for position in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > position)
        found[longer] = (found[longer] ^ octets[starts[longer] + position]) * np.uint64(_PRIME)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64: FNV's high bits mix badly
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def _codes(column: Any) -> Any:
    """Return the position of each value in the sorted values of a column. [rows], int32"""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = column.cast(pa.string()).combine_chunks()
    values = texts.unique()
    return pc.index_in(texts, value_set=values.take(pc.array_sort_indices(values))).to_numpy(zero_copy_only=False)


def _at_share(dates: Any, share: float) -> Any:
    """Return the date before which at most that share of the rows lies."""
    import numpy as np

    values = dates.to_numpy()
    place = min(int(share * len(values)), len(values) - 1)
    return dates[int(np.argpartition(values, place)[place])].as_py()


def _before(dates: Any, moment: Any) -> Mask:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.less(dates, pa.scalar(moment, dates.type)).to_numpy(), bool)


def _known(table: pa.Table, column: str | None, begins: date, zone: str) -> Mask:
    """Return the rows whose target was known when the measured part began. Of a date: at its first midnight."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if column is None or column not in table.column_names:
        return np.ones(table.num_rows, bool)
    known = table.column(column)
    instant = begins if isinstance(begins, datetime) else midnight(begins, zone)
    in_time = pc.less_equal(known, pa.scalar(instant, known.type))
    return np.asarray(pc.fill_null(in_time, False).to_numpy(), bool)
