"""Write functions, instants and casts of the features' SQL for Spark, where the same text would mean something else.

A timestamp of a clock and an instant are one type of Spark, whose session is in UTC: `AT TIME ZONE` is a function of
the one or of the other, which the text tells. Decimals stay decimals; a product of `numeric_mul` is one of floats, as
in DuckDB. docs/adr/0145-engine.md
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from rempart.errors import SparkError

_LARGEST_PART = float(1 << 52)
"""A float of this size or more is a whole number."""
_FIELDS = {
    "YEAR": "year",
    "MONTH": "month",
    "WEEK": "weekofyear",
    "DAY": "day",
    "DOY": "dayofyear",
    "HOUR": "hour",
    "EPOCH": "unix_seconds",
}
"""Spark's function of each part of a time that EXTRACT names."""
_UNITS = ("days", "hours", "mins", "secs")
MADE = frozenset(
    (
        *_FIELDS.values(),
        *("unix_micros", "pmod", "weekday", "make_dt_interval", "to_utc_timestamp", "from_utc_timestamp"),
        *("date_format", "shiftleft", "shiftright", "range", "floor", "ceil", "abs", "hash", "struct"),
    )
)
"""Functions of Spark that the rewritten tree calls."""


def rewrite(tree: exp.Expr) -> exp.Expr:
    """Return the tree of a statement in which what differs is written for Spark. Raises SparkError. Pure."""
    return _rewritten(tree.copy())


def _rewritten(node: Any) -> Any:
    """Return what stands for a node whose parts were rewritten before it."""
    for name, value in list(node.args.items()):
        if isinstance(value, list):
            node.set(name, [_rewritten(each) if isinstance(each, exp.Expr) else each for each in value])
        elif isinstance(value, exp.Expr):
            node.set(name, _rewritten(value))
    change = _CHANGES.get(type(node).__name__)
    return node if change is None else change(node)


def call(name: str, *arguments: Any) -> exp.Expr:
    """Return a call of one of Spark's functions."""
    return exp.Anonymous(this=name, expressions=[_value(each) for each in arguments])


def _value(argument: Any) -> exp.Expr:
    return argument if isinstance(argument, exp.Expr) else exp.Literal.number(argument)


def is_local(made: exp.Expr) -> bool:
    """Return whether an expression is a time of a clock, and not an instant: it is cast to `timestamp`, or made so."""
    while isinstance(made, (exp.Paren, exp.Add, exp.Sub)):
        made = made.this
    if isinstance(made, exp.Cast):
        return bool(made.to.this == exp.DType.TIMESTAMP)
    return isinstance(made, exp.Anonymous) and made.name.lower() == "from_utc_timestamp"


def _at_time_zone(node: exp.AtTimeZone) -> exp.Expr:
    when, zone, is_utc = node.this, node.args["zone"], node.args["zone"].name == "UTC"
    if not is_local(when):
        return exp.cast(when, "timestamp") if is_utc else call("from_utc_timestamp", when, zone)
    if is_utc:
        return exp.cast(when, "timestamptz")
    return call("to_utc_timestamp", when, zone)


def _extract(node: exp.Extract) -> exp.Expr:
    part, when = node.name.upper(), node.expression
    if part == "MICROSECONDS":  # with the seconds of its minute
        return call("pmod", call("unix_micros", when), 60_000_000)
    if part == "ISODOW":
        return exp.Paren(this=exp.Add(this=call("weekday", when), expression=exp.Literal.number(1)))
    if part not in _FIELDS:
        raise _unknown(f"EXTRACT({part})")
    return call(_FIELDS[part], when)


def _interval_of(node: Any) -> exp.Expr:
    """Write `make_interval(hours => 2)`: an exact span of time."""
    given: dict[str, Any] = {}
    for each in node.find_all(exp.Kwarg, exp.PropertyEQ):
        given.setdefault(each.this.name.lower(), each.expression)
    if not given or set(given) - set(_UNITS):
        raise _unknown("make_interval with other parts")
    return _span(*(given.get(unit, exp.Literal.number(0)) for unit in _UNITS))


def _span(days: Any, hours: Any, minutes: Any, seconds: Any) -> exp.Expr:
    whole = (exp.cast(_value(each), "int") for each in (days, hours, minutes))
    return call("make_dt_interval", *whole, exp.cast(_value(seconds), "decimal(18, 6)"))


def _interval(node: exp.Interval) -> exp.Expr:
    """Write `interval '1 day'`, and `'05:30:00'::interval`."""
    unit, number = str(node.args.get("unit") or "").upper().rstrip("S"), node.this.name if node.this else ""
    places = {"DAY": 0, "HOUR": 1, "MINUTE": 2, "SECOND": 3, "MICROSECOND": 3}
    if unit not in places or not number.isdigit():
        raise _unknown("an interval of this form")
    parts: list[Any] = [0, 0, 0, 0]
    parts[places[unit]] = f"{int(number) / 1e6:.6f}" if unit == "MICROSECOND" else number
    return _span(*parts)


def _cast(node: exp.Cast) -> exp.Expr:
    if node.to.this != exp.DType.INTERVAL:
        return node
    hours, _, rest = node.this.name.partition(":")
    minutes, _, seconds = rest.partition(":")
    if not (hours + minutes + seconds).isdigit():
        raise _unknown("an interval of this form")
    return _span(0, int(hours), int(minutes), int(seconds))


def _function(node: exp.Anonymous) -> exp.Expr:
    """Write a function that sqlglot does not know."""
    name, given = node.name.lower(), node.expressions
    match name, len(given):
        case "numeric_mul", 2:
            first, second = (exp.cast(each, "double") for each in given)
            return exp.Paren(this=exp.Mul(this=first, expression=second))
        case "to_char", 2:
            return _iso(given[0])
        case "to_seconds", 1:
            return _span(0, 0, 0, given[0])
        case "isfinite", 1:
            return _is_finite(given[0])
        case "make_interval", _:
            return _interval_of(node)
    return node


def _iso(when: exp.Expr) -> exp.Expr:
    return call("date_format", when, exp.Literal.string("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'"))


def _is_finite(value: exp.Expr) -> exp.Expr:
    # NaN is the largest number there
    return exp.Paren(this=exp.LT(this=exp.Abs(this=value), expression=exp.cast(exp.Literal.string("Infinity"), "double")))


def _whole(node: Any) -> exp.Expr:
    """Write `floor` and `ceil` of a float, which give a whole number there: a float again, however large."""
    value = node.this
    made = exp.cast(call("floor" if isinstance(node, exp.Floor) else "ceil", value.copy()), "double")
    small = exp.LT(this=call("abs", value.copy()), expression=exp.cast(exp.Literal.number(_LARGEST_PART), "double"))
    return exp.Case(ifs=[exp.If(this=small, true=made)], default=exp.cast(value.copy(), "double"))


def _divided(node: exp.Div) -> exp.Expr:
    """Write a division, which is one of floats in DuckDB."""
    first, second = (exp.cast(exp.Paren(this=each), "double") for each in (node.this, node.expression))
    return exp.Div(this=first, expression=second, typed=False, safe=False)


def _series(node: Any) -> exp.Expr:
    first, last = node.args["start"], node.args["end"]
    if node.args.get("step") is not None and node.args["step"].name != "1":
        raise _unknown("generate_series with a step")
    return call("range", first, exp.Add(this=last, expression=exp.Literal.number(1)))


def _shift(name: str) -> Callable[[Any], exp.Expr]:
    def shifted(node: Any) -> exp.Expr:
        return call(name, node.this.unnest(), exp.cast(node.expression, "int"))

    return shifted


def _plain_text(node: Any) -> exp.Expr:
    """Write `E'...'` as the text that it means."""
    return exp.Literal.string(node.name)


def _distinct_on(select: exp.Select) -> exp.Expr:
    """Write `SELECT DISTINCT ON (keys) ... ORDER BY`: the first row of each key by a number in that order."""
    distinct, order = select.args.get("distinct"), select.args.get("order")
    if distinct is None or not distinct.args.get("on"):
        return select
    keys = distinct.args["on"].expressions
    number = exp.Window(this=exp.RowNumber(), partition_by=[key.copy() for key in keys], order=order, over="OVER")
    select.set("distinct", None)
    select.set("order", None)
    select.append("expressions", exp.Alias(this=number, alias=exp.to_identifier("_nth", quoted=True)))
    inner = exp.Subquery(this=select, alias=exp.TableAlias(this=exp.to_identifier("_numbered", quoted=True)))
    nth = exp.column("_nth", quoted=True)
    star = exp.Star(**{"except_": [exp.to_identifier("_nth", quoted=True)]})
    return exp.select(star).from_(inner).where(exp.EQ(this=nth, expression=exp.Literal.number(1)))


_CHANGES: dict[str, Callable[[Any], exp.Expr]] = {
    "AtTimeZone": _at_time_zone,
    "Extract": _extract,
    "MakeInterval": _interval_of,
    "Interval": _interval,
    "Cast": _cast,
    "Anonymous": _function,
    "Floor": _whole,
    "Ceil": _whole,
    "Div": _divided,
    "GenerateSeries": _series,
    "BitwiseLeftShift": _shift("shiftleft"),
    "BitwiseRightShift": _shift("shiftright"),
    "ByteString": _plain_text,
    "Collate": lambda node: node.this,
    "Select": _distinct_on,
}


def _unknown(what: str) -> SparkError:
    return SparkError(
        f"write SQL for Spark: {what} has no translation",
        "Report this as a bug, and set `engine: duckdb` in the pipeline file until then.",
    )
