"""Arrays: a list of JSON or Parquet, or a text with a JSON array or items between a separator. No item is null."""

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


def typed(values: pa.Array, column: Column) -> tuple[pa.Array, list[tuple[Any, str]]] | None:
    """Return lists as the column declares them, and the reason against these cells; None for a column of no lists."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    assert column.items is not None  # noqa: S101 - the pipeline's validation
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return None
    kind = arrow_type(column.items)
    items = pc.list_flatten(values).cast(kind.value_type, safe=False)  # an integer is rounded as its text would be
    good = pc.is_finite(items) if column.items == "number" else pc.invert(pc.match_substring(items, "\x00"))
    bad = pc.invert(pc.fill_null(good, False))
    wrong = np.zeros(len(values), bool)
    wrong[pc.list_parent_indices(values).filter(bad).to_numpy()] = True
    mask = pa.array(wrong)
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, items, mask=pc.or_(mask, pc.is_null(values)))
    return lists.cast(kind), [(mask, FORM[column.items])]


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
