"""The oracle of the engine: rows in memory, judged one after the other as ingestion did before it had an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.ingestion import acceptance, cells, reading, snapshots
from rempart.ingestion.expectations import broken
from rempart.ingestion.reading import Rows
from rempart.settings.pipeline import Pipeline
from tests.unit.ingestion.oracle.first_of_each_key import judge_keys
from tests.unit.ingestion.oracle.refused_rows import Reasons, RefusedRows, shared

if TYPE_CHECKING:
    import pyarrow as pa


_SLICE = 50_000
"""Number of rows that are checked against the expectations together:

Great Expectations creates an object for each failure.
"""


@dataclass(frozen=True)
class JudgedRows:
    """Accepted rows in order of delivery; and for each delivery its rows, refused rows, checked rows, and whether it is
    held back.

    The rows are missing, with a fault, if more are refused than `reading.MAX_REFUSED`. accepted + refused = delivered.
    """

    accepted: pa.Table
    read: Sequence[Rows]
    refused: Sequence[RefusedRows]
    judged: Sequence[int]
    held: frozenset[int] = frozenset()


class _Beyond(Exception):
    """Raised when too many rows of a delivery are refused."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def judge_within_limit(pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]) -> JudgedRows:
    """Judge the rows as `judge` does, and hold back the deliveries at fault if `max_quarantined` is exceeded.

    No row of a held-back delivery is accepted: its good rows wait in quarantine for a person.
    """
    judged_rows = judge(pipeline, current, read)
    counts = [
        (rows.delivered, len(refused)) for rows, refused in zip(judged_rows.read, judged_rows.refused, strict=True)
    ]
    held = acceptance.held_back(counts, pipeline.max_quarantined)
    if not held:
        return judged_rows
    others = [number for number in range(len(read)) if number not in held]
    # judge again: a row may have been refused as the duplicate of a row that is now held back
    left = judge(pipeline, current, [judged_rows.read[number] for number in others])
    read, refused, judged = list(judged_rows.read), list(judged_rows.refused), list(judged_rows.judged)
    for number in held:
        refused[number] = refused[number].with_all_others(acceptance.HELD)
    for number, rows, against, count in zip(others, left.read, left.refused, left.judged, strict=True):
        read[number], refused[number], judged[number] = rows, against, count
    return JudgedRows(left.accepted, read, refused, judged, held)


def judge(pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]) -> JudgedRows:
    """Judge each row by itself: it must be typed, then meet every expectation, then be the first of its key."""
    while True:
        try:
            return _judge(pipeline, current, read)
        except _Beyond as found:
            fault = f"more than {reading.MAX_REFUSED} rows have a fault, for example: {found.reason}"
            read = [Rows(fault=fault) if i == found.number else rows for i, rows in enumerate(read)]


def _judge(pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]) -> JudgedRows:
    import numpy as np
    import pyarrow as pa

    typed: list[pa.Table] = []
    against: list[dict[int, Reasons]] = []
    for number, rows in enumerate(read):
        table, faults = _typed(pipeline, rows, number)
        typed.append(table)
        against.append(faults)
    none, _ = _typed(pipeline, Rows(), -1)
    whole = pa.concat_tables([none, *typed])
    owner = np.repeat(np.arange(len(read)), [table.num_rows for table in typed])
    place = np.concatenate([np.arange(0), *(np.arange(table.num_rows) for table in typed)])
    good = np.ones(whole.num_rows, bool)
    starts = np.cumsum([0, *(table.num_rows for table in typed)])
    for number, faults in enumerate(against):
        good[starts[number] + np.fromiter(faults, int, len(faults))] = False
    judged = np.bincount(owner[good], minlength=len(read)).tolist()

    def refuse(row: int, reasons: Reasons) -> None:
        number = int(owner[row])
        against[number][int(place[row])] = reasons
        good[row] = False
        if len(against[number]) + len(read[number].refused) > reading.MAX_REFUSED:
            raise _Beyond(number, reasons[0])

    for start in range(0, whole.num_rows, _SLICE):
        rows_here = start + np.flatnonzero(good[start : start + _SLICE])
        for i, reasons in broken(pipeline.expectations, whole.take(pa.array(rows_here))).items():
            refuse(int(rows_here[i]), tuple(reasons))
    left = np.flatnonzero(good)
    candidates = whole.take(pa.array(left)).cast(snapshots.arrow_schema(snapshots.snapshot_columns(pipeline)))
    first, repeated = judge_keys(current, candidates, pipeline.key)
    for i, reason in repeated.items():
        refuse(int(left[i]), (reason,))
    for number, (rows, faults) in enumerate(zip(read, against, strict=True)):
        if rows.text(list(faults)) > reading.MAX_REFUSED_TEXT:
            raise _Beyond(number, "the faulty rows are too long to be stored one by one")
    refused = [RefusedRows.of(rows, shared(faults)) for rows, faults in zip(read, against, strict=True)]
    return JudgedRows(candidates.take(pa.array(first, pa.int64())), read, refused, judged)


def _typed(pipeline: Pipeline, rows: Rows, number: int) -> tuple[pa.Table, dict[int, Reasons]]:
    """Return the typed rows of one delivery, and the reasons against rows by index. Raises _Beyond."""
    try:
        table, faults = cells.convert(
            rows.table if rows.table is not None else [],
            pipeline.columns,
            required={*pipeline.key, pipeline.partition_by},
            dialect=pipeline.source,
            most=reading.MAX_REFUSED,
        )
    except cells.TooManyFaults as cause:
        raise _Beyond(number, str(cause)) from None
    keys = table.select(pipeline.key).group_by(pipeline.key).aggregate([]).num_rows if table.num_rows else 0
    if table.num_rows - keys > reading.MAX_REFUSED + len(faults):  # before any object is created for each of them
        raise _Beyond(number, "an earlier row has the same key")
    return table, shared(faults)
