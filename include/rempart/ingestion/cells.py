"""Convert text cells to typed columns, with a reason for each cell that does not fit its column.

Strict on purpose: the source declares its dialect. A text in another form (a decimal comma, a day before a month, an
hour that exists twice) is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.ingestion.parsing import arrays, instants, numbers, typed, units
from rempart.ingestion.parsing.numbers import NUMBER
from rempart.settings.columns import NUMERIC, Column
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

INTEGER = r"^-?[0-9]{1,18}$"
DECIMAL_COMMA = r"^-?[0-9][0-9. ]*,[0-9]+$"
NOT_FINITE = r"^(?i:[+-]?(nan|inf|infinity))$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}

ALMOST_EMPTY = "almost only empty cells, as in a line of totals"
_IS_EMPTY = ": empty, "
_SEVERAL = 4
"""Values that a row lacks from which it may rather be a line of totals."""
_FEW = 1024
"""Cells that show whether a column repeats its texts."""

Faults = list[tuple[Any, str]]
"""Pairs of a boolean array (true where the fault is) and its reason."""


class TooManyFaults(Exception):
    """Raised when more rows have a fault than are refused row by row; the message names the deciding fault."""


def convert(
    rows: Sequence[Sequence[str]] | pa.Table,
    columns: Mapping[str, Column],
    *,
    required: Collection[str],
    dialect: Dialect,
    most: int | None = None,
) -> tuple[pa.Table, dict[int, list[str]]]:
    """Return typed columns of all rows, and reasons against rows by index.

    `rows`: lists of text, or a table with these columns as text or with types of their own; null is empty. `dialect` is
    how the source writes numbers, dates, times and missing values.

    `required` columns (key, partition) may not be empty even if nullable. A refused cell is null in the table. Raises
    TooManyFaults if more than `most` rows have a fault.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays: dict[str, pa.Array] = {}
    against: dict[int, list[str]] = {}
    for name, column in columns.items():
        text = _text(rows, columns, name)
        needed = name in required or not column.nullable
        arrays[name], faults = _converted(
            text, column, dialect, needed, dialect.units.get(name) if column.type in NUMERIC else None
        )
        for mask, reason in faults:
            places = pc.indices_nonzero(pc.fill_null(mask, False))
            if most is not None and len(places) > most:
                raise TooManyFaults(f"{name}: {reason}")
            problem = f"{name}: {reason}"  # one text for all rows: a file may have a million of them
            for index in places.to_pylist():
                against.setdefault(index, []).append(problem)
            if most is not None and len(against) > most:
                raise TooManyFaults(f"{name}: {reason}")
    needed_columns = sum(name in required or not column.nullable for name, column in columns.items())
    some = [index for index, reasons in against.items() if _lacks_most(reasons, needed_columns)]
    for index in _almost_empty(rows, columns, dialect, some):
        against[index] = [ALMOST_EMPTY, *(reason for reason in against[index] if _IS_EMPTY not in reason)]
    return pa.table(arrays), against


def _text(rows: Sequence[Sequence[str]] | pa.Table, columns: Mapping[str, Column], name: str) -> pa.Array:
    """Return the cells of one column."""
    import pyarrow as pa

    if not isinstance(rows, pa.Table):
        position = list(columns).index(name)
        return pa.array([row[position] for row in rows], pa.string())
    return pa.concat_arrays(rows[name].chunks) if rows.num_rows else pa.array([], rows[name].type)


def _lacks_most(reasons: Sequence[str], needed: int) -> bool:
    """Return whether a row lacks several values, and three in four of those that it needs. Pure."""
    if len(reasons) < _SEVERAL:
        return False
    empty = sum(_IS_EMPTY in reason for reason in reasons)
    return empty >= _SEVERAL and 4 * empty >= 3 * needed


def _almost_empty(
    rows: Sequence[Sequence[str]] | pa.Table, columns: Mapping[str, Column], dialect: Dialect, some: Sequence[int]
) -> Sequence[int]:
    """Return which of some rows have at most one cell in four filled."""
    import numpy as np
    import pyarrow as pa

    if not some:
        return []
    filled, places = np.zeros(len(some), np.int64), pa.array(some)
    for name in columns:
        filled += ~_is_empty(_text(rows, columns, name).take(places), dialect).to_numpy(zero_copy_only=False)
    return [index for index, count in zip(some, filled.tolist(), strict=True) if 4 * count <= len(columns)]


def _converted(
    cells: pa.Array, column: Column, dialect: Dialect, needed: bool, unit: str | None
) -> tuple[pa.Array, Faults]:
    """Return one column of its type, and the faults of its cells. `needed`: no cell may be empty. `unit`: beside each
    number of a text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(cells.type):
        if made := typed.column(cells, column, dialect):
            values, faults = made
            return values, [*faults, (pc.is_null(cells), _empty(column))] if needed else faults
        cells, dialect, unit = pc.cast(cells, pa.string()), typed.iso(dialect), None
    encoded = _encoded(cells)
    if encoded is None:
        return _column(cells, column, dialect, needed, unit)
    values, found = _column(encoded.dictionary, column, dialect, needed, unit)  # each distinct text is converted once
    faults = [(mask.take(encoded.indices), why) for mask, why in found if _any(mask)]
    same = pa.types.is_string(values.type) and not values.null_count
    return cells if same else values.take(encoded.indices), faults


def _empty(column: Column) -> str:
    return "empty, but every row needs a value" if column.nullable else "empty, and the column is not nullable"


def _encoded(text: pa.Array) -> pa.DictionaryArray | None:
    """Return the distinct texts and the code of each cell; None where the first cells are mostly different."""
    if len(text) < _FEW or len(text.slice(0, _FEW).unique()) > _FEW // 2:
        return None
    return text.dictionary_encode(null_encoding="encode")


def _column(
    text: pa.Array, column: Column, dialect: Dialect, needed: bool, unit: str | None
) -> tuple[pa.Array, Faults]:
    import pyarrow.compute as pc

    empty = _is_empty(text, dialect)
    given, without = _keep(pc.invert(empty), text), Faults()
    if unit is not None:
        given, fits = units.bare(given, unit)
        without.append((pc.invert(fits), f"not a number with the unit {unit}"))
    values, faults = _TYPES[column.type](given, column, dialect)
    faults += without
    if needed:
        faults.append((empty, _empty(column)))
    return values, faults


def _is_empty(cells: pa.Array, dialect: Dialect) -> Any:
    """Return where a cell is null or a text for a missing value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(cells.type):
        return pc.is_null(cells)
    return pc.or_(pc.is_null(cells), pc.is_in(cells, value_set=pa.array(dialect.null_values, pa.string())))


def _any(mask: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.any(mask).as_py())


def _keep(mask: Any, text: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(mask, text, pa.scalar(None, text.type))


def _not_a_number(text: pa.Array, ok: Any, rule: str, dialect: Dialect) -> Faults:
    import pyarrow.compute as pc

    if not _any(pc.invert(ok)):
        return []
    text = _keep(pc.invert(ok), text)  # a text that is a number has none of these faults
    if dialect.decimal == "." and not dialect.thousands:
        marks, reason = pc.match_substring_regex(text, DECIMAL_COMMA), "decimal comma; write a decimal point"
    else:
        marks = pc.and_(numbers.is_marked(text), pc.invert(ok))
        reason = "another decimal mark or thousands separator than the source declares"
    special = pc.match_substring_regex(text, NOT_FINITE)
    other = pc.invert(pc.or_(ok, pc.or_(marks, special)))
    return [(marks, reason), (special, "NaN or infinity"), (other, rule)]


def _normal(text: pa.Array, dialect: Dialect, pattern: str) -> tuple[pa.Array, Any]:
    """Return numbers with a decimal point, and where they match a pattern."""
    import pyarrow.compute as pc

    if numbers.is_plain(dialect):
        return text, pc.match_substring_regex(text, pattern)
    plain, fits = numbers.normal(text, dialect)
    return plain, pc.and_kleene(fits, pc.match_substring_regex(plain, pattern))


def _integer(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    plain, ok = _normal(text, dialect, INTEGER)
    return pc.cast(_keep(ok, plain), pa.int64()), _not_a_number(text, ok, "not a whole number", dialect)


def _number(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    plain, ok = _normal(text, dialect, NUMBER)
    value = pc.cast(_keep(ok, plain), pa.float64())
    finite = pc.is_finite(value)
    faults = _not_a_number(text, ok, "not a number", dialect)
    return _keep(finite, value), [*faults, (pc.invert(finite), "number out of range")]


def _decimal(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow.compute as pc

    assert column.precision is not None and column.scale is not None  # noqa: S101 - the pipeline's validation
    plain, fits = _normal(text, dialect, NUMBER)
    plain = _keep(fits, plain)
    value, ok, places, digits = numbers.decimals(plain, column.precision, column.scale)
    ok = pc.and_kleene(fits, ok)
    return value, [
        *_not_a_number(text, ok, "not a decimal", dialect),
        (places, f"more than {column.scale} decimal places"),
        (digits, f"more than {column.precision - column.scale} digits before the decimal mark"),
    ]


def _date(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow.compute as pc

    value, ok, absent = instants.dates(text, dialect)
    return value, [(pc.invert(ok), f"not a date written {dialect.dates}"), (absent, instants.ABSENT)]


def _timestamp(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    return instants.instants(text, dialect)


def _array(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    return arrays.arrays(text, column, dialect)


def _boolean(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    lower = pc.utf8_lower(text)
    ok = pc.is_in(lower, value_set=pa.array(BOOLEANS))
    known = pc.index_in(lower, value_set=pa.array(BOOLEANS))
    return pa.array(BOOLEANS.values()).take(known), [(pc.and_(pc.is_valid(text), pc.invert(ok)), "not true or false")]


def _string(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow.compute as pc

    return text, [(pc.match_substring(text, "\x00"), "contains a NUL character")]


def _category(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, Faults]:
    import pyarrow as pa
    import pyarrow.compute as pc

    outside = pc.invert(pc.is_in(text, value_set=pa.array(column.values, pa.string())))
    return text, [(pc.and_(pc.is_valid(text), outside), "not among the declared values")]


_TYPES: dict[str, Callable[[Any, Column, Dialect], tuple[Any, Faults]]] = {
    "integer": _integer,
    "number": _number,
    "decimal": _decimal,
    "boolean": _boolean,
    "string": _string,
    "category": _category,
    "date": _date,
    "timestamp": _timestamp,
    "array": _array,
}
