"""Convert text cells to typed columns, with a reason for each cell that does not fit its column.

Strict on purpose: ambiguous values (a decimal comma, a day before a month) are refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from rempart.settings.pipeline import Column

if TYPE_CHECKING:
    import pyarrow as pa

INTEGER = r"^-?[0-9]{1,18}$"
NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
DECIMAL_COMMA = r"^-?[0-9][0-9. ]*,[0-9]+$"
NOT_FINITE = r"^(?i:[+-]?(nan|inf|infinity))$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}

Faults = list[tuple[Any, str]]
"""Pairs of a boolean array (true where the fault is) and its reason."""


class TooManyFaults(Exception):
    """Raised when more rows have a fault than are refused row by row; the message names the deciding fault."""


def convert(
    rows: Sequence[Sequence[str]] | pa.Table,
    columns: Mapping[str, Column],
    *,
    required: Collection[str],
    null_values: Sequence[str],
    most: int | None = None,
) -> tuple[pa.Table, dict[int, list[str]]]:
    """Return typed columns of all rows (lists, or a table with these columns as text), and reasons against rows by
    index.

    `required` columns (key, partition) may not be empty even if nullable. A refused cell is null in the table. Raises
    TooManyFaults if more than `most` rows have a fault.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays: dict[str, pa.Array] = {}
    against: dict[int, list[str]] = {}
    for position, (name, column) in enumerate(columns.items()):
        if isinstance(rows, pa.Table):
            text = pa.concat_arrays(rows[name].chunks) if rows.num_rows else pa.array([], pa.string())
        else:
            text = pa.array([row[position] for row in rows], pa.string())
        empty = pc.is_in(text, value_set=pa.array(null_values, pa.string()))
        text = pc.if_else(empty, pa.scalar(None, pa.string()), text)
        arrays[name], faults = _TYPES[column.type](text, column)
        if name in required or not column.nullable:
            rule = (
                "empty, and the column is not nullable"
                if not column.nullable
                else ("empty, but every row needs a value")
            )
            faults.append((empty, rule))
        for mask, reason in faults:
            places = pc.indices_nonzero(pc.fill_null(mask, False))
            if most is not None and len(places) > most:
                raise TooManyFaults(f"{name}: {reason}")
            problem = f"{name}: {reason}"  # one text for all rows: a file may have a million of them
            for index in places.to_pylist():
                against.setdefault(index, []).append(problem)
            if most is not None and len(against) > most:
                raise TooManyFaults(f"{name}: {reason}")
    return pa.table(arrays), against


def _keep(mask: Any, text: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(mask, text, pa.scalar(None, text.type))


def _not_a_number(text: pa.Array, ok: Any, rule: str) -> Faults:
    import pyarrow.compute as pc

    comma, special = (pc.match_substring_regex(text, pattern) for pattern in (DECIMAL_COMMA, NOT_FINITE))
    other = pc.invert(pc.or_(ok, pc.or_(comma, special)))
    return [(comma, "decimal comma; write a decimal point"), (special, "NaN or infinity"), (other, rule)]


def _integer(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ok = pc.match_substring_regex(text, INTEGER)
    return pc.cast(_keep(ok, text), pa.int64()), _not_a_number(text, ok, "not a whole number")


def _number(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ok = pc.match_substring_regex(text, NUMBER)
    value = pc.cast(_keep(ok, text), pa.float64())
    finite = pc.is_finite(value)
    return _keep(finite, value), [*_not_a_number(text, ok, "not a number"), (pc.invert(finite), "number out of range")]


def _date(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    def parse(value: str) -> date | None:
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None

    ok = pc.match_substring_regex(text, DATE)
    encoded = _keep(ok, text).dictionary_encode()
    distinct = pa.array([value and parse(value) for value in encoded.dictionary.to_pylist()], pa.date32())
    value = distinct.take(encoded.indices)
    absent = pc.and_(ok, pc.is_null(value))
    return value, [
        (pc.invert(ok), "not a date written YYYY-MM-DD"),
        (absent, ("this date does not exist in the calendar")),
    ]


def _boolean(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    lower = pc.utf8_lower(text)
    ok = pc.is_in(lower, value_set=pa.array(BOOLEANS))
    known = pc.index_in(lower, value_set=pa.array(BOOLEANS))
    return pa.array(BOOLEANS.values()).take(known), [(pc.and_(pc.is_valid(text), pc.invert(ok)), "not true or false")]


def _string(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow.compute as pc

    return text, [(pc.match_substring(text, "\x00"), "contains a NUL character")]


def _category(text: pa.Array, column: Column) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    outside = pc.invert(pc.is_in(text, value_set=pa.array(column.values, pa.string())))
    return text, [(pc.and_(pc.is_valid(text), outside), "not among the declared values")]


_TYPES: dict[str, Callable[[Any, Column], tuple[Any, Faults]]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "category": _category,
    "date": _date,
}
