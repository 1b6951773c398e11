"""Choose the new facts among valid new rows in memory: the first row of each key stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rempart.ingestion.acceptance import CONFLICT, DUPLICATE

if TYPE_CHECKING:
    import pyarrow as pa

_AT_A_TIME = 20_000
"""Rows that are compared at once."""


def judge_keys(current: pa.Table | None, new: pa.Table, key: Sequence[str]) -> tuple[list[int], dict[int, str]]:
    """Return indices of the new rows to accept, in order, and the reason against each other row.

    Both tables have the same schema; `current` holds one row per key.
    """
    import pyarrow as pa

    table = pa.concat_tables([current, new]) if current is not None else new
    offset = table.num_rows - new.num_rows
    first: dict[tuple[object, ...], int] = {}
    accepted: list[int] = []
    repeated: list[int] = []
    earlier: list[int] = []
    for row, values in enumerate(zip(*(table[column].to_pylist() for column in key), strict=True)):
        before = first.setdefault(values, row)
        if before == row:
            if row >= offset:
                accepted.append(row - offset)
        else:
            repeated.append(row)
            earlier.append(before)
    same: list[bool] = []
    for start in range(0, len(repeated), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        same += _equal(table.take(repeated[some]), table.take(earlier[some]))
    return accepted, {row - offset: DUPLICATE if equal else CONFLICT for row, equal in zip(repeated, same, strict=True)}


def _equal(left: pa.Table, right: pa.Table) -> list[bool]:
    """Return row by row whether all columns are equal, including nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    equal = pa.array([True] * left.num_rows)
    for a, b in zip(left.columns, right.columns, strict=True):
        ours, other = a.combine_chunks(), b.combine_chunks()
        if pa.types.is_list(a.type):  # Arrow compares no lists
            ours, other = (pa.array(map(repr, column.to_pylist()), pa.string()) for column in (a, b))
        both_null = pc.and_(pc.is_null(ours), pc.is_null(other))
        equal = pc.and_(equal, pc.or_(both_null, pc.fill_null(pc.equal(ours, other), False)))
    result: list[bool] = equal.to_pylist()
    return result
