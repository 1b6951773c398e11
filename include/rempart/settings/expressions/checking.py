"""Give each part of an expression its type, and refuse what has none. Pure.

Numbers carry limits, as powers of ten: columns come in with at most 1e30, so what a calculation can reach is known
before any row is. No result is infinite, and PostgreSQL, which stops at a number out of range, never meets one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from typing import Any, Literal, get_args

from rempart.settings.columns import CalendarPart, Column, ColumnType
from rempart.settings.expressions.syntax import ExpressionFault, Node, parse

Type = Literal["number", "integer", "boolean", "string", "date", "timestamp", "null"]

LARGEST_INTEGER = 10**15
"""Largest whole number of a column in an expression: a float holds each up to it."""
_OF_COLUMN: Mapping[ColumnType, Type] = {
    "integer": "integer",
    "number": "number",
    "decimal": "number",
    "boolean": "boolean",
    "string": "string",
    "category": "string",
    "date": "date",
    "timestamp": "timestamp",
}
_COLUMN_LIMITS = (-30, 30)
_INTEGER_LIMITS = (0, 18)
_LAST = 300
"""Power of ten that no calculation may exceed."""
_NUMERIC = ("integer", "number")
_ORDERED = (*_NUMERIC, "date", "timestamp")

FUNCTIONS: Mapping[str, str] = {
    "abs": "abs(x)",
    "round": "round(x) or round(x, digits)",
    "floor": "floor(x)",
    "ceil": "ceil(x)",
    "ln": "ln(x)",
    "log10": "log10(x)",
    "sqrt": "sqrt(x)",
    "least": "least(a, b, ...)",
    "greatest": "greatest(a, b, ...)",
    "coalesce": "coalesce(a, b, ...)",
    "nullif": "nullif(a, b)",
    "days_between": "days_between(later, earlier)",
    "days_since": "days_since(column)",
    "date": "date(timestamp)",
}
"""Functions of the language, and how each is called. `extract(part FROM column)` is the other one."""
_AGGREGATES = ("sum", "avg", "mean", "count", "min", "max", "stddev", "std", "median", "first", "last", "lag", "lead")
_VOLATILE = (
    "now", "random", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp",
    "clock_timestamp", "today", "uuid", "gen_random_uuid", "statement_timestamp", "age",
)  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A checked part of an expression. `kind`, `parts` and `value` are those of its node, and `as number` a conversion.

    `limits`: powers of ten between which a number lies that is not 0, without its sign.
    """

    kind: str
    type: Type
    parts: tuple[Typed, ...] = ()
    value: Any = None
    limits: tuple[int, int] = _INTEGER_LIMITS


def checked(text: str, columns: Mapping[str, Column]) -> Typed:
    """Return the typed tree of an expression over columns. Raises ExpressionFault, with the remedy."""
    made = _typed(parse(text), columns)
    if made.type in ("date", "timestamp"):
        raise ExpressionFault(
            f"it gives a {made.type}, which is no feature; write days_since(...) or extract(... FROM ...)"
        )
    if made.type == "null":
        raise ExpressionFault("it gives NULL in every row; name a column")
    return made


def _typed(node: Node, columns: Mapping[str, Column]) -> Typed:
    if node.kind == "literal":
        return _literal(node.value)
    if node.kind == "column":
        return _column(str(node.value), columns)
    parts = tuple(_typed(part, columns) for part in node.parts)
    if any(part.type == "null" and part.parts for part in parts):  # PostgreSQL takes such a part for a text
        raise ExpressionFault("a part of it is NULL in every row; write NULL alone, or name a column")
    match node.kind:
        case "and" | "or" | "not":
            _need(node.kind.upper(), parts, ("boolean", "null"))
            return Typed(node.kind, "boolean", parts)
        case "is null" | "is not null":
            return Typed(node.kind, "boolean", parts)
        case "=" | "<>" | "<" | "<=" | ">" | ">=" | "between" | "in":
            return _comparison(node.kind, parts, node.parts, columns)
        case "negative" | "+" | "-" | "*" | "/":
            return _arithmetic(node.kind, parts)
        case "case":
            return _case(parts)
        case "extract":
            return _extract(node.value, parts[0])
        case name if name in FUNCTIONS:
            return _called(name, parts)
    raise ExpressionFault(_unknown_function(node.kind))


def _literal(value: object) -> Typed:
    match value:
        case None:
            return Typed("literal", "null")
        case bool():
            return Typed("literal", "boolean", value=value)
        case int():
            return Typed("literal", "integer", value=value)
        case float():
            power = math.floor(math.log10(value)) if value else 0
            return Typed("literal", "number", value=value, limits=(power - 1, power + 1))
        case date():
            return Typed("literal", "date", value=value)
    return Typed("literal", "string", value=value)


def _column(name: str, columns: Mapping[str, Column]) -> Typed:
    if (spec := columns.get(name)) is None:
        raise ExpressionFault(_unknown_column(name, columns))
    if (type_ := _OF_COLUMN.get(spec.type)) is None:
        raise ExpressionFault(
            f"column '{name}' is an {spec.type}, of which there is no expression; name another column"
        )
    return Typed("column", type_, value=name, limits=_COLUMN_LIMITS if type_ == "number" else _INTEGER_LIMITS)


def _unknown_column(name: str, columns: Mapping[str, Column]) -> str:
    if name.lower() in _VOLATILE:
        return f"{name} differs from run to run; write days_since(column) for the days until the view's moment"
    table, _, column = name.rpartition(".")
    close = get_close_matches(name, columns, n=1)
    if any("." in known for known in columns):  # features of several views
        meant = f"did you mean '{close[0]}'?" if close else f"name one of {', '.join(list(columns)[:5])}"
        return f"'{name}' is no feature that a model gets, as VIEW.FEATURE ({meant})"
    if table:
        return f"'{name}' names a table, and an expression reads its own row alone; write '{column}' for a column of it"
    if close:
        return f"column '{name}' is not in the schema (did you mean '{close[0]}'?)"
    return f"column '{name}' is not in the schema; name a column, or write a text in single quotes"


def _unknown_function(name: str) -> str:
    if name in _AGGREGATES:
        return (
            f"{name}() needs other rows, and an expression reads its own row alone; declare a view of `kind: trailing`"
        )
    if name in _VOLATILE:
        return f"{name}() differs from run to run; write days_since(column) for the days until the view's moment"
    return f"{name[:40]}() is no function of expressions; use {', '.join(sorted(FUNCTIONS))} or extract"


def _need(what: str, parts: Sequence[Typed], types: Sequence[str]) -> None:
    for part in parts:
        if part.type not in types:
            wanted = " or ".join(type_ for type_ in types if type_ != "null")
            raise ExpressionFault(
                f"{what} needs {wanted}, and {_told(part)} is {part.type}; compare or convert it first"
            )


def _told(part: Typed) -> str:
    return (
        f"'{part.value}'" if part.kind == "column" else f"the result of {part.kind}" if part.parts else repr(part.value)
    )


def _as_number(part: Typed) -> Typed:
    return replace(part, kind="as number", type="number", parts=(part,)) if part.type == "integer" else part


def _alike(what: str, parts: Sequence[Typed], types: Sequence[str] = ()) -> tuple[Typed, ...]:
    """Return the parts with one type: whole numbers beside numbers become numbers."""
    found = {part.type for part in parts} - {"null"}
    if found == {"integer", "number"}:
        parts, found = [_as_number(part) for part in parts], {"number"}
    if len(found) > 1:
        hint = "; write date(...) of the timestamp" if found == {"date", "timestamp"} else "; use values of one type"
        raise ExpressionFault(f"{what} has {' and '.join(sorted(found))} together{hint}")
    if types:
        _need(what, parts, (*types, "null"))
    return tuple(parts)


def _type_of(parts: Sequence[Typed]) -> Type:
    return next((part.type for part in parts if part.type != "null"), "null")


def _limits(parts: Sequence[Typed]) -> tuple[int, int]:
    """Return the limits of a number that is one of these."""
    told = [part.limits for part in parts if part.type != "null"] or [_INTEGER_LIMITS]
    return min(low for low, _ in told), max(high for _, high in told)


def _number(kind: str, parts: tuple[Typed, ...], low: int, high: int, value: Any = None) -> Typed:
    if low < -_LAST or high > _LAST:
        raise ExpressionFault(
            "it multiplies or divides so often that the result may leave the range of numbers; split it"
        )
    return Typed(kind, "number", parts, value, (low, high))


def _arithmetic(kind: str, parts: tuple[Typed, ...]) -> Typed:
    if {part.type for part in parts} & {"date", "timestamp"}:
        raise ExpressionFault(f"'{kind}' is not for dates; write days_between(later, earlier) or days_since(column)")
    _need("a calculation", parts, _NUMERIC)
    whole = all(part.type == "integer" for part in parts)
    if kind == "negative":
        return Typed(kind, parts[0].type, parts, limits=parts[0].limits)
    if whole and kind in "+-":
        return Typed(kind, "integer", parts)
    left, right = parts = tuple(map(_as_number, parts))
    (low, high), (other_low, other_high) = left.limits, right.limits
    match kind:
        case "*":
            return _number(kind, parts, low + other_low, high + other_high)
        case "/":
            return _number(kind, parts, low - other_high, high - other_low)
    # two numbers that nearly cancel each other leave their last digits, of about 16; sums leave those of their terms
    digits = (low if left.kind in ("+", "-") else low - 17, other_low if right.kind in ("+", "-") else other_low - 17)
    return _number(kind, parts, min(digits), max(high, other_high) + 1)


def _comparison(kind: str, parts: tuple[Typed, ...], nodes: tuple[Node, ...], columns: Mapping[str, Column]) -> Typed:
    if any(part.type == "null" for part in parts):
        raise ExpressionFault("a comparison with NULL is never true; write IS NULL or IS NOT NULL")
    what = kind.upper()
    parts = _alike(what, parts)
    if kind not in ("=", "<>", "in"):
        if parts[0].type == "string":
            raise ExpressionFault(f"{what} orders texts, which databases order differently; use = or IN")
        _need(what, parts, _ORDERED)
    _closed(nodes, columns)
    return Typed(kind, "boolean", parts)


def _closed(nodes: Sequence[Node], columns: Mapping[str, Column]) -> None:
    """Refuse a text beside a category that is none of its values."""
    for spec in (columns.get(str(node.value)) for node in nodes if node.kind == "column"):
        for text in (node.value for node in nodes if node.kind == "literal"):
            if spec is not None and spec.values is not None and text not in spec.values:
                raise ExpressionFault(
                    f"{text!r} is none of the `values` of the category; use {', '.join(spec.values[:5])}"
                )


def _case(parts: tuple[Typed, ...]) -> Typed:
    *pairs, last = parts
    conditions, values = pairs[::2], [*pairs[1::2], last]
    _need("WHEN", conditions, ("boolean", "null"))
    alike = _alike("CASE", values)
    ordered: list[Typed] = []
    for condition, value in zip(conditions, alike, strict=False):
        ordered += [condition, value]
    return Typed("case", _type_of(alike), (*ordered, alike[-1]), limits=_limits(alike))


def _extract(part: object, when: Typed) -> Typed:
    if part not in get_args(CalendarPart):
        raise ExpressionFault(f"'{part}' is no calendar part; use {', '.join(get_args(CalendarPart))}")
    _need("extract", [when], ("date", "timestamp"))
    if part == "hour" and when.type == "date":
        raise ExpressionFault("a date has no hour; extract it of a timestamp")
    return Typed("extract", "integer", (when,), part)


def _called(name: str, parts: tuple[Typed, ...]) -> Typed:
    counts = {"round": (1, 2), "nullif": (2, 2), "days_between": (2, 2)}
    at_least, at_most = counts.get(name, (2, 100) if name in ("least", "greatest", "coalesce") else (1, 1))
    if not at_least <= len(parts) <= at_most:
        raise ExpressionFault(f"{name}() is called with {len(parts)} values; write {FUNCTIONS[name]}")
    match name:
        case "least" | "greatest" | "coalesce" | "nullif":
            alike = _alike(name, parts, () if name in ("coalesce", "nullif") else _ORDERED)
            return Typed(name, _type_of(alike), alike, limits=_limits(alike))
        case "days_between":
            alike = _alike(name, parts)
            _need(name, alike, ("date", "timestamp"))
            return _days(name, alike)
        case "days_since":
            _need(name, parts, ("date", "timestamp"))
            return _days(name, parts)
        case "date":
            _need(name, parts, ("timestamp",))
            return Typed(name, "date", parts)
    return _of_number(name, parts)


def _days(name: str, parts: tuple[Typed, ...]) -> Typed:
    """Return days: whole ones between dates, with a fraction between timestamps."""
    return Typed(name, "integer", parts) if parts[0].type == "date" else _number(name, parts, -11, 8)


def _of_number(name: str, parts: tuple[Typed, ...]) -> Typed:
    digits = parts[1].value if len(parts) == 2 else 0
    if len(parts) == 2 and (parts[1].kind != "literal" or parts[1].type != "integer" or digits > 9):
        raise ExpressionFault("round() has digits that are no number from 0 to 9; write round(x, 2)")
    _need(f"{name}()", parts[:1], _NUMERIC)
    if name == "abs":
        return Typed(name, parts[0].type, parts, limits=parts[0].limits)
    of = _as_number(parts[0])
    low, high = of.limits
    match name:
        case "round":
            return _number(name, (of,), min(-digits - 1, low), high + digits + 1, digits)
        case "sqrt":
            return _number(name, (of,), low // 2 - 1, high // 2 + 1)
        case "ln" | "log10":
            return _number(name, (of,), -17, 3)
    return _number(name, (of,), min(low, 0), high + 1)  # floor, ceil
