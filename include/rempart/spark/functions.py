"""Write functions, instants and casts of the features' SQL for Spark, where the same text would mean something else.

A time of a clock is a TIMESTAMP_NTZ there and an instant a TIMESTAMP, and the session is in UTC. `AT TIME ZONE` is a
function of the one or of the other, which the text tells. Decimals stay decimals; a product of `numeric_mul` is one of
floats, as in DuckDB. Importing this module lets `dialect` write them. docs/adr/0145-engine.md
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from rempart.errors import SparkError
from rempart.spark import asof, dialect
from rempart.spark.dialect import function, rewrite

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
_SAME = (
    *("Abs", "Avg", "DPipe", "Greatest", "IgnoreNulls", "Kwarg", "LastValue", "Lead", "Least", "Ln"),
    *(
        "LogicalOr",
        "Mod",
        "Nullif",
        "PropertyEQ",
        "Qualify",
        "Rank",
        "Sqrt",
        "StddevPop",
        "WindowSpec",
    ),
)
"""Kinds of nodes that mean the same in both; names of arguments are only known where their function is."""
_UNITS = ("days", "hours", "mins", "secs")
_A_DAY_AND_AN_HOUR = 25
"""Hours after which clocks that were turned back have been, and are not turned again."""


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
        return made.to.this in (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ)
    return False


@rewrite("AtTimeZone")
def _at_time_zone(node: exp.AtTimeZone) -> exp.Expr:
    when, zone, is_utc = node.this, node.args["zone"], node.args["zone"].name == "UTC"
    if not is_local(when):
        return exp.cast(when if is_utc else call("from_utc_timestamp", when, zone), exp.DType.TIMESTAMPNTZ)
    instant = exp.cast(when, exp.DType.TIMESTAMPTZ)
    return instant if is_utc else _of_clock(instant, zone)


def _of_clock(shown: exp.Expr, zone: exp.Expr) -> exp.Expr:
    """Write the instant at which clocks of a zone show a time: of two, when clocks are turned back, the later one.

    Spark gives the earlier one. The later one has the offset from UTC that is valid a little more than a day after it.
    """

    def moved(made: exp.Expr, turned: int) -> exp.Expr:
        return exp.Paren(
            this=(exp.Add if turned > 0 else exp.Sub)(this=made, expression=_span(0, _A_DAY_AND_AN_HOUR, 0, 0))
        )

    early = call("to_utc_timestamp", shown.copy(), zone.copy())
    after = moved(call("from_utc_timestamp", moved(early.copy(), 1), zone.copy()), -1)
    # in microseconds: `shown` less the offset then, which is `after` less `early`
    ticks = exp.Sub(
        this=exp.Add(this=call("unix_micros", shown.copy()), expression=call("unix_micros", early.copy())),
        expression=call("unix_micros", after),
    )
    late = call("timestamp_micros", ticks)
    is_late = exp.EQ(this=call("from_utc_timestamp", late.copy(), zone.copy()), expression=shown.copy())
    return exp.Case(ifs=[exp.If(this=is_late, true=late)], default=early)


@rewrite("Extract")
def _extract(node: exp.Extract) -> exp.Expr:
    part, when = node.name.upper(), node.expression
    if part == "MICROSECONDS":  # with the seconds of its minute
        return call("pmod", call("unix_micros", when), 60_000_000)
    if part == "ISODOW":
        return exp.Paren(this=exp.Add(this=call("weekday", when), expression=exp.Literal.number(1)))
    if part not in _FIELDS:
        raise _unknown(f"EXTRACT({part})")
    return call(_FIELDS[part], when)


@rewrite("MakeInterval")
@function("make_interval")
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


@rewrite("Interval")
def _interval(node: exp.Interval) -> exp.Expr:
    """Write `interval '1 day'`, and `'05:30:00'::interval`."""
    unit, number = str(node.args.get("unit") or "").upper().rstrip("S"), node.this.name if node.this else ""
    places = {"DAY": 0, "HOUR": 1, "MINUTE": 2, "SECOND": 3, "MICROSECOND": 3}
    if unit not in places or not number.isdigit():
        raise _unknown("an interval of this form")
    parts: list[Any] = [0, 0, 0, 0]
    parts[places[unit]] = f"{int(number) / 1e6:.6f}" if unit == "MICROSECOND" else number
    return _span(*parts)


@rewrite("Cast")
def _cast(node: exp.Cast) -> exp.Expr:
    if node.to.this != exp.DType.INTERVAL:
        return node
    hours, _, rest = node.this.name.partition(":")
    minutes, _, seconds = rest.partition(":")
    if not (hours + minutes + seconds).isdigit():
        raise _unknown("an interval of this form")
    return _span(0, int(hours), int(minutes), int(seconds))


@function("numeric_mul")
def _product(node: Any) -> exp.Expr:
    first, second = (exp.cast(each, "double") for each in node.expressions)
    return exp.Paren(this=exp.Mul(this=first, expression=second))


@rewrite("ToChar")
@function("to_char")
def _iso(node: Any) -> exp.Expr:
    when = node.expressions[0] if isinstance(node, exp.Anonymous) else node.this
    return call("date_format", when, exp.Literal.string("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'"))


@function("to_seconds")
def _seconds(node: Any) -> exp.Expr:
    return _span(0, 0, 0, node.expressions[0])


@function("isfinite")
def _is_finite(node: Any) -> exp.Expr:
    size, infinite = exp.Abs(this=node.expressions[0]), exp.cast(exp.Literal.string("Infinity"), "double")
    return exp.Paren(this=exp.LT(this=size, expression=infinite))  # NaN is the largest number there


@rewrite("Floor", "Ceil")
def _whole(node: Any) -> exp.Expr:
    """Write `floor` and `ceil` of a float, which give a whole number there: a float again, however large."""
    value = node.this
    made = exp.cast(call("floor" if isinstance(node, exp.Floor) else "ceil", value.copy()), "double")
    small = exp.LT(this=call("abs", value.copy()), expression=exp.cast(exp.Literal.number(_LARGEST_PART), "double"))
    return exp.Case(ifs=[exp.If(this=small, true=made)], default=exp.cast(value.copy(), "double"))


@rewrite("Log")
def _log10(node: exp.Log) -> exp.Expr:
    """Write `log10`: Spark's `log` of base 10 is a quotient, which for 1000 is less than 3."""
    if node.expression is None or node.this.name != "10":
        raise _unknown("a logarithm of this base")
    return call("log10", node.expression)


@rewrite("Div")
def _divided(node: exp.Div) -> exp.Expr:
    """Write a division, which is one of floats in DuckDB. By zero it is infinite or no number there, an error here.

    A product with infinity gives the same: its sign is that of both, and 0 and NaN make NaN.
    """
    first, second = (exp.cast(exp.Paren(this=each), "double") for each in (node.this, node.expression))
    if is_never_zero(node.expression):
        return exp.Div(this=first, expression=second, typed=False, safe=False)
    zeros = {"0.0": "Infinity", "-0.0": "-Infinity"}
    infinite = exp.Case(
        this=exp.cast(second.copy(), "text"),
        ifs=[
            exp.If(this=exp.Literal.string(zero), true=exp.cast(exp.Literal.string(made), "double"))
            for zero, made in zeros.items()
        ],
    )
    by_zero = exp.Mul(this=first.copy(), expression=infinite)
    return call("coalesce", call("try_divide", first, second), by_zero)


def is_never_zero(divisor: Any) -> bool:
    """Return whether an expression is a number that is not zero, or `nullif(..., 0)`. Types beside it do not count."""
    while isinstance(divisor, (exp.Paren, exp.Cast, exp.Neg)):
        divisor = divisor.this
    if isinstance(divisor, exp.Nullif):
        return _is_number(divisor.expression, zero=True)
    return _is_number(divisor, zero=False)


def _is_number(made: Any, *, zero: bool) -> bool:
    while isinstance(made, (exp.Paren, exp.Cast)):
        made = made.this
    if not isinstance(made, exp.Literal) or made.is_string:
        return False
    return (float(made.this) == 0) is zero


@rewrite("GenerateSeries")
def _series(node: Any) -> exp.Expr:
    first, last = node.args["start"], node.args["end"]
    if node.args.get("step") is not None and node.args["step"].name != "1":
        raise _unknown("generate_series with a step")
    return call("range", first, exp.Add(this=last, expression=exp.Literal.number(1)))


@rewrite("BitwiseLeftShift", "BitwiseRightShift")
def _shifted(node: Any) -> exp.Expr:
    name = "shiftleft" if isinstance(node, exp.BitwiseLeftShift) else "shiftright"
    places = node.expression if isinstance(node.expression, exp.Literal) else exp.cast(node.expression, "int")
    return call(name, node.this.unnest(), places)


@rewrite("Collate")
def _by_code_points(node: Any) -> exp.Expr:
    if node.expression.name != "C":
        raise _unknown("a collation of words")
    value: exp.Expr = node.this
    return value


@rewrite("Exists")
def _exists(node: exp.Exists) -> exp.Expr:
    """Leave EXISTS in a condition of rows, where it may name outer columns. Elsewhere count: Spark takes no EXISTS."""
    if isinstance(node.find_ancestor(exp.Where, exp.Select), exp.Where):
        return node
    limited = exp.select("*").from_(node.this.copy().subquery("_any")).limit(1)
    counted = exp.select("count(*)").from_(limited.subquery("_one")).subquery()
    return exp.paren(exp.GT(this=counted, expression=exp.Literal.number(0)))


@rewrite("TimestampTrunc")
def _truncated(node: exp.TimestampTrunc) -> exp.Expr:
    """Leave `date_trunc` to the second; to a month or a week of dates it gives other types there."""
    if str(node.args["unit"].name).upper() != "SECOND":
        raise _unknown("date_trunc to other parts")
    return node


@rewrite(*_SAME)
def _same(node: Any) -> Any:
    return node


@rewrite("ByteString")
def _plain_text(node: Any) -> exp.Expr:
    """Write `E'...'` as the text that it means."""
    return exp.Literal.string(node.name)


@rewrite("Select")
def _distinct_on(select: exp.Select) -> exp.Expr:
    """Write `SELECT DISTINCT ON (keys) ... ORDER BY`: the first row of each key by a number in that order."""
    distinct, order = select.args.get("distinct"), select.args.get("order")
    if distinct is None or not distinct.args.get("on"):
        return select
    if order is None:
        raise _unknown("DISTINCT ON without an order")
    keys = distinct.args["on"].expressions
    number = exp.Window(
        this=exp.RowNumber(), partition_by=[key.copy() for key in keys], order=order.copy(), over="OVER"
    )
    numbered = select.copy()  # `select` keeps its place in the tree, where another node replaces it
    numbered.set("distinct", None)
    numbered.set("order", None)
    numbered.append("expressions", exp.Alias(this=number, alias=exp.to_identifier("_nth", quoted=True)))
    inner = exp.Subquery(this=numbered, alias=exp.TableAlias(this=exp.to_identifier("_numbered", quoted=True)))
    nth = exp.column("_nth", quoted=True)
    star = exp.Star(except_=[exp.to_identifier("_nth", quoted=True)])
    return exp.select(star).from_(inner).where(exp.EQ(this=nth, expression=exp.Literal.number(1)))


def _unknown(what: str) -> SparkError:
    return SparkError(
        f"write SQL for Spark: {what} has no translation",
        "Report this as a bug, and set `engine: duckdb` in the pipeline file until then.",
    )


dialect.forms.append(asof.rewrite)
dialect.name_in_spark(asof.HASH, "hash")
dialect.name_in_spark(asof.STRUCT, "struct")
