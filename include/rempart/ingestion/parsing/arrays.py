"""Arrays in a cell of text: a JSON array, or items between a declared separator. No item may be null."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rempart.ingestion.parsing.numbers import number
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

Items = Literal["number", "string"]
FORM = {"number": "not an array of numbers", "string": "not an array of strings"}


def arrow_type(items: str) -> pa.DataType:
    """Return the Arrow type of an array with such items."""
    import pyarrow as pa

    return pa.list_(pa.float64() if items == "number" else pa.string())


def arrays(text: pa.Array, column: Column, dialect: Dialect) -> tuple[pa.Array, list[tuple[Any, str]]]:
    """Return the arrays, null where the text is none, and the reason against these cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    assert column.items is not None  # noqa: S101 - the pipeline's validation
    encoded = text.dictionary_encode()
    meant = [array(value, column.items, column.separator, dialect) for value in encoded.dictionary.to_pylist()]
    value = pa.array(meant, arrow_type(column.items)).take(encoded.indices)
    return value, [(pc.and_(pc.is_valid(text), pc.is_null(value)), FORM[column.items])]


def array(text: str, items: Items, separator: str | None, dialect: Dialect) -> list[Any] | None:
    """Return the items of one cell, or None if it holds no such array."""
    try:
        found: Any = text.split(separator) if separator else json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    if items == "string":
        return found if all(isinstance(item, str) and _is_text(item) for item in found) else None
    numbers = [number(item, dialect) if separator else _json_number(item) for item in found]
    return None if None in numbers else numbers


def _is_text(item: str) -> bool:
    """Return whether an item can be stored: JSON can spell half of a character, and NUL."""
    return "\x00" not in item and not any("\ud800" <= character <= "\udfff" for character in item)


def _json_number(item: Any) -> float | None:
    if isinstance(item, bool) or not isinstance(item, int | float):
        return None
    try:
        value = float(item)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError("NaN and infinity are no JSON")
