"""Write an instant plus or minus a constant span of time in one form, and judge it. Pure.

DuckDB prints `INTERVAL 3 HOUR` as a call of `to_hours`. Spans of months and years have no length of their own, and a
date plus a span is a time without a zone: both are refused.
"""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

from rempart.spark.exact.types import class_of, refused

_UNITS = {"DAY": "DAY", "HOUR": "HOUR", "MINUTE": "MINUTE", "SECOND": "SECOND", "HR": "HOUR", "MIN": "MINUTE"}
_TEXT = re.compile(r"(\d{1,9}) ?([a-z]+?)s?", re.IGNORECASE)

_EXACT = (exp.DType.INT, exp.DType.BIGINT, exp.DType.DOUBLE)
"""Types to which a number of nine digits is cast without another value: 5 as a boolean is 1."""


def written(node: Any) -> Any:
    """Return an instant plus or minus a constant span in the form that `check` judges; any other node as it is."""
    if isinstance(node, (exp.Add, exp.Sub)) and (span := _span(node.expression)) is not None:
        moved = type(node)(this=node.this.copy(), expression=span)
        return exp.cast(exp.paren(moved, copy=False), "timestamptz")
    return node


def is_moved(node: Any) -> bool:
    """Tell whether a node is something plus or minus a span."""
    return isinstance(node, (exp.Add, exp.Sub)) and isinstance(node.expression, exp.Interval)


def check(node: Any) -> None:
    """Raise IngestError unless a span is constant, and moves an instant."""
    if not is_moved(node.parent) or node.arg_key != "expression" or _span(node) is None:
        raise refused("INTERVAL", "only an instant plus or minus days, hours, minutes or seconds is listed")
    if class_of(node.parent.this) != "instant":
        raise refused("INTERVAL", "only an instant moves by a span there; CAST the date to TIMESTAMPTZ")


def _span(node: Any) -> exp.Interval | None:
    number, unit = None, ""
    match node:
        case exp.Paren():
            return _span(node.this)
        case exp.Interval() if node.this is not None:
            number, unit = str(node.this.name), str(node.args.get("unit") or "")
        case exp.Cast() if node.to.this == exp.DType.INTERVAL and (found := _TEXT.fullmatch(node.this.name)):
            number, unit = found[1], found[2]
        case exp.ToDays():
            number, unit = _whole(node.this), "DAY"
        case exp.Anonymous() if str(node.this).lower().startswith("to_") and len(node.expressions) == 1:
            number, unit = _whole(node.expressions[0]), str(node.this)[3:]
    unit = _UNITS.get(unit.upper().removesuffix("S"), "")
    if not unit or number is None or not number.isdigit() or len(number) > 9:
        return None
    return exp.Interval(this=exp.Literal.string(number), unit=exp.Var(this=unit))


def _whole(node: Any) -> str | None:
    """Return the digits of a number, which DuckDB prints within casts and `trunc`; None for anything else."""
    while isinstance(node, (exp.Cast, exp.Trunc, exp.Paren)):
        if isinstance(node, exp.Cast) and node.to.this not in _EXACT:
            return None
        node = node.this
    return node.name if isinstance(node, exp.Literal) else None
