"""Facts about the columns of a sample: type, nulls, range, closed lists, and the likeliest key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from rempart.ingestion.parsing import recognise
from rempart.ingestion.parsing.numbers import number, pattern
from rempart.ingestion.sampling.sample import Declared
from rempart.settings.columns import MAX_PRECISION, ColumnType
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CATEGORIES = 20
_EXACT = 15
"""Significant digits that a floating-point number always keeps."""
_FEW_OTHERS = 0.05
"""Share of the cells of a column of numbers that may be something else."""
_SPARE = 3
"""Digits that a drafted decimal has before its mark, beyond those of the sample."""
_KEYS: tuple[ColumnType, ...] = ("integer", "string", "date", "timestamp", "category")
_SEPARATORS = ("|", ";")


@dataclass(frozen=True)
class ColumnFacts:
    """Facts about one column. `low` and `high`: of numbers. `precision` and `scale`: of a decimal."""

    name: str
    type: ColumnType
    nullable: bool
    unique: bool
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    note: str = ""
    precision: int = 0
    scale: int = 0
    items: Literal["number", "string"] | None = None
    separator: str | None = None


def column_facts(name: str, column: pa.ChunkedArray, declared: Declared | None, dialect: Dialect) -> ColumnFacts:
    """Return the facts about a column of text. Empty cells are null; every other value decides about the type."""
    import pyarrow.compute as pc

    present = column.drop_null()
    distinct: list[str] = pc.unique(present).to_pylist()
    nullable, unique = len(present) < len(column), 0 < len(distinct) == len(column)
    stated = re.fullmatch(r"(\w+)(?:\((\d+),(\d+)\)|\((\w+)\))?", declared.type) if declared else None
    if declared and stated and stated[1] != "string":
        type_: ColumnType = stated[1]  # type: ignore[assignment] # a source declares no other type
        numbers = [known for value in distinct if (known := number(value, Dialect())) is not None]
        low, high = (min(numbers), max(numbers)) if numbers and stated[1] in _RANGED else (None, None)
        return ColumnFacts(
            name,
            type_,
            nullable,
            unique,
            declared.values,
            low,
            high,
            precision=int(stated[2] or 0),
            scale=int(stated[3] or 0),
            items=stated[4],  # type: ignore[arg-type] # number or string
        )
    if declared is None and (found := _number(name, distinct, nullable, unique, dialect)):
        return found
    if time := recognise.time_in(distinct, dialect):
        return ColumnFacts(name, time, nullable, unique)
    if declared is None and distinct and all(value.lower() in ("true", "false") for value in distinct):
        return ColumnFacts(name, "boolean", nullable, unique)
    if array := _array(name, distinct, nullable, dialect):
        return array
    if declared is None and (found := _nearly_number(name, present, dialect)):
        return replace(found, nullable=nullable, unique=unique)
    if distinct and len(distinct) <= MOST_CATEGORIES and 2 * len(distinct) <= len(present):
        return ColumnFacts(name, "category", nullable, unique, tuple(sorted(distinct)))
    return ColumnFacts(name, "string", nullable, unique, note="" if distinct else "always empty in these rows")


_RANGED = ("integer", "number", "decimal")


def _number(name: str, distinct: Sequence[str], nullable: bool, unique: bool, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column of numbers, or None. Digits that a float would lose make it a decimal."""
    known = re.compile(pattern(dialect.decimal, dialect.thousands)[1:-1])
    if not distinct or not all(map(known.fullmatch, distinct)):
        return None
    numbers = [value for text in distinct if (value := number(text, dialect)) is not None]
    if len(numbers) < len(distinct):
        return None
    low, high = min(numbers), max(numbers)
    powers = any("e" in text.lower() for text in distinct)
    parts = [_digits(text, dialect.decimal) for text in distinct]
    whole, scale = max(w for w, _ in parts), max(s for _, s in parts)
    if powers or any(dialect.decimal in text for text in distinct):
        if powers or whole + scale > MAX_PRECISION or all(_float_keeps(text, dialect) for text in distinct):
            return ColumnFacts(name, "number", nullable, unique, (), low, high)
    elif whole <= 18:
        return ColumnFacts(name, "integer", nullable, unique, (), low, high)
    elif unique or whole > MAX_PRECISION:
        return ColumnFacts(name, "string", nullable, unique, note="digits without end: an identifier?")
    return ColumnFacts(
        name,
        "decimal",
        nullable,
        unique,
        (),
        low,
        high,
        "more digits than a `number` keeps",
        min(MAX_PRECISION, whole + scale + _SPARE),
        scale,
    )


def _nearly_number(name: str, present: pa.ChunkedArray, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column of numbers with a few other cells, which ingestion would refuse; else None."""
    import pyarrow.compute as pc

    known = re.compile(pattern(dialect.decimal, dialect.thousands)[1:-1])
    counted: list[dict[str, Any]] = pc.value_counts(present).to_pylist()
    numbers = [entry["values"] for entry in counted if known.fullmatch(entry["values"])]
    others = sum(entry["counts"] for entry in counted if not known.fullmatch(entry["values"]))
    if not numbers or others > _FEW_OTHERS * len(present):
        return None
    found = _number(name, numbers, False, False, dialect)
    if found is None or found.type == "string":
        return None
    what = "whole number" if found.type == "integer" else "number"
    told = f"{others:,} of {len(present):,} cells are no {what}; such rows go to quarantine"
    return replace(found, note=f"{told}; {found.note}" if found.note else told)


def _digits(text: str, mark: str) -> tuple[int, int]:
    """Return how many digits stand before and behind the decimal mark; zeros at the end do not count."""
    whole, _, places = text.lower().partition("e")[0].partition(mark)
    return len(re.sub(r"[^0-9]", "", whole)), len(places.rstrip("0"))


def _float_keeps(text: str, dialect: Dialect) -> bool:
    """Return whether a floating-point number tells the same digits as a text."""
    if len(text) <= _EXACT:
        return True
    plain = re.sub(r"[^0-9.\-]", "", text if dialect.decimal == "." else text.replace(".", "").replace(",", "."))
    return Decimal(plain) == Decimal(repr(float(plain)))


def _array(name: str, distinct: Collection[str], nullable: bool, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column whose cells are JSON arrays, or numbers between a separator; else None."""
    if not distinct:
        return None
    if all(value.startswith("[") and value.endswith("]") for value in distinct):
        try:
            items = {type(item) for value in distinct for item in json.loads(value)}
        except (ValueError, RecursionError):
            return None
        if items and items <= {int, float}:
            return ColumnFacts(name, "array", nullable, False, items="number")
        return ColumnFacts(name, "array", nullable, False, items="string") if items == {str} else None
    for separator in _SEPARATORS:
        cells = [value.split(separator) for value in distinct]
        numbers = all(number(item, dialect) is not None for cell in cells for item in cell)
        if separator != dialect.delimiter and numbers and any(len(cell) > 1 for cell in cells):
            return ColumnFacts(name, "array", nullable, False, items="number", separator=separator)
    return None


def likeliest_key(columns: Sequence[ColumnFacts], table: pa.Table) -> tuple[tuple[str, ...], bool]:
    """Return the likeliest key (a unique column, else two or three unique together), and whether it is unique here."""
    alone = [c for c in columns if c.unique and c.type in _KEYS]
    if alone:
        return (min(alone, key=lambda c: "id" not in c.name.split("_")).name,), True  # else the leftmost
    parts = [c.name for c in columns if not c.nullable and c.type in (*_KEYS, "boolean")][:12]
    sizes: Mapping[str, int] = {name: len(table[name].unique()) for name in parts}
    for size in (2, 3):
        for group in combinations(parts, size):
            if math.prod(sizes[name] for name in group) < table.num_rows:
                continue
            if table.select(list(group)).group_by(list(group)).aggregate([]).num_rows == table.num_rows:
                return group, True
    usable = [c.name for c in columns if c.type in _KEYS] or [columns[0].name]
    return (usable[0],), False
