"""Tell the class and the digits of an expression's type, as DuckDB has them. Pure.

The same text may mean another value for another type, so `queries` judges operands by these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from rempart.errors import IngestError

_WHOLE_WORDS = """
TINYINT SMALLINT INT BIGINT INT128 UTINYINT USMALLINT UINT UBIGINT UINT128 HUGEINT
"""
_WHOLE = frozenset(_WHOLE_WORDS.split())
CLASSES = {
    **dict.fromkeys(_WHOLE, "whole"),
    **dict.fromkeys(("DOUBLE", "FLOAT"), "float"),
    "DECIMAL": "decimal",
    **dict.fromkeys(("VARCHAR", "TEXT", "CHAR", "NVARCHAR"), "text"),
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMPTZ": "instant",
    "NULL": "null",
}
NUMBERS = frozenset({"whole", "float", "decimal"})
TIMES = frozenset({"date", "instant"})
MOST = 38
"""Digits of a decimal."""
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.Neg, exp.Abs, exp.Max, exp.Min, exp.Sum)
CHOICES = (exp.Coalesce, exp.Case, exp.Greatest, exp.Least, exp.Nullif)


def class_of(node: Any) -> str:
    """Return the class of an expression's type. Raises IngestError for a type that is not known."""
    if isinstance(node, (exp.Paren, exp.Filter, exp.Window)):
        return class_of(node.this)
    if isinstance(node, exp.Div):
        return "float"
    if isinstance(node, (exp.Add, exp.Sub)) and isinstance(node.expression, exp.Interval):
        return class_of(node.this)
    if isinstance(node, (*ARITHMETIC, *CHOICES)):
        found = {class_of(each) for each in operands_of(node)} - {"null"}
        widest = next((of for of in ("float", "decimal", "whole") if of in found), "")
        return widest if found <= NUMBERS and widest else min(found, default="null")
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        return "instant"
    if isinstance(node, exp.Null):
        return "null"
    if isinstance(node, (exp.Predicate, exp.Connector, exp.Not)):
        return "boolean"
    if isinstance(node, exp.Literal) and not node.is_string and (digits(node) or (0, 0))[1]:
        return "decimal"
    if (known := CLASSES.get(type_name(node))) is None:
        raise refused(name_of(node), f"the type of {name_of(node)} is not listed")
    return known


def type_name(node: Any) -> str:
    """Return the name of the type that sqlglot found for an expression, or an empty text."""
    type_ = getattr(node, "type", None)
    if type_ is None:
        return ""
    return str(getattr(type_.this, "name", type_.this))


def digits(node: Any) -> tuple[int, int] | None:
    """Return the digits of a decimal or whole number, and how many of them stand behind the point; None if unknown."""
    if isinstance(node, (exp.Paren, exp.Neg, exp.Abs, exp.Max, exp.Min, exp.Alias, exp.Filter, exp.Window)):
        return digits(node.this)
    if isinstance(node, exp.Literal) and not node.is_string:
        whole, _, part = str(node.this).partition(".")
        return (len(whole) + len(part), len(part)) if (whole + part).isdigit() else None
    if isinstance(node, exp.Sum):
        inner = digits(node.this)
        return inner and (MOST, inner[1])
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _of_both(node)
    if isinstance(node, CHOICES):
        some = [digits(each) for each in operands_of(node) if class_of(each) != "null"]
        known = [each for each in some if each]
        scale = max((each[1] for each in known), default=0)
        return (max(each[0] - each[1] for each in known) + scale, scale) if known and len(known) == len(some) else None
    if CLASSES.get(type_name(node)) == "whole":
        return 19, 0
    return sizes_of(node)


def sizes_of(node: Any) -> tuple[int, int] | None:
    """Return the digits in the type of an expression."""
    sizes = [int(each.name) for each in node.type.expressions] if getattr(node, "type", None) else []
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _of_both(node: Any) -> tuple[int, int] | None:
    first, second = digits(node.this), digits(node.expression)
    if first is None or second is None:
        return None
    if isinstance(node, exp.Mul):
        return first[0] + second[0] + 1, first[1] + second[1]
    scale = max(first[1], second[1])
    return max(first[0] - first[1], second[0] - second[1]) + scale + 1, scale


def operands_of(node: Any) -> Iterator[Any]:
    """Yield the expressions whose types decide on that of a node, or must be alike. Raises IngestError."""
    match node:
        case exp.Between():
            yield from (node.this, node.args["low"], node.args["high"])
        case exp.In():
            if node.args.get("unnest") or node.args.get("field"):
                raise refused(name_of(node), "it is not listed")
            yield node.this
            if (found := node.args.get("query")) is not None:
                inner: Any = found.unnest() if isinstance(found, exp.Subquery) else found
                yield from inner.selects
            yield from node.expressions
        case exp.Case():
            if node.this is not None:  # compared with each WHEN
                raise refused("CASE of a value", "write CASE WHEN x = ... instead")
            yield from (each.args["true"] for each in node.args["ifs"])
            if node.args.get("default") is not None:
                yield node.args["default"]
        case exp.Coalesce() | exp.Greatest() | exp.Least():
            yield node.this
            yield from node.expressions
        case exp.Neg() | exp.Abs() | exp.Max() | exp.Min() | exp.Sum() | exp.Nullif():
            yield node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
        case _:
            yield from (node.this, node.expression)


def name_of(node: Any) -> str:
    """Return the name of a node for a message: of a function as it is written, else of its kind."""
    if isinstance(node, exp.Anonymous):
        return f"function {str(node.this)[:40]}"
    if isinstance(node, exp.Func):
        return f"function {node.sql_name().lower()}"
    return type(node).__name__


def refused(what: str, why: str) -> IngestError:
    """Return the error for a query that uses something of which both engines do not make the same."""
    return IngestError(
        f"derive rows on Spark: the query uses {what}, which `engine: spark` does not do as DuckDB does: {why}",
        "Write the query without it, or set `engine: duckdb` in the pipeline file: the snapshots are the same.",
    )
