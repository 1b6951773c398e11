"""Write the SQL of a checked expression. Each operator is written so that both engines give the same value.

A division by zero is an error in PostgreSQL, and so is a number out of range: divisors of 0 become NULL, and columns
come in within limits that `settings.expressions.checking` follows through the calculation. PostgreSQL rounds halves to
even, and DuckDB away from zero: `round` is made of `floor`. LEAST and GREATEST pass over NULL in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import LiteralString

from psycopg import sql

from rempart.features import tables
from rempart.features.aggregates import spans
from rempart.features.plan import DAY
from rempart.settings.expressions.checking import LARGEST_INTEGER, Typed
from rempart.settings.pipeline import ModelPipeline

_CALENDAR: Mapping[str, LiteralString] = {
    "year": "YEAR",
    "month": "MONTH",
    "week": "WEEK",
    "day_of_month": "DAY",
    "day_of_week": "ISODOW",
    "day_of_year": "DOY",
    "hour": "HOUR",
}
"""EXTRACT's name of each calendar part; weeks are ISO 8601, Monday is day 1."""

_FORMS: Mapping[str, LiteralString] = {
    "and": "({} AND {})",
    "or": "({} OR {})",
    "not": "(NOT {})",
    "is null": "({} IS NULL)",
    "is not null": "({} IS NOT NULL)",
    "=": "({} = {})",
    "<>": "({} <> {})",
    "<": "({} < {})",
    "<=": "({} <= {})",
    ">": "({} > {})",
    ">=": "({} >= {})",
    "between": "({} BETWEEN {} AND {})",
    "negative": "(- {})",
    "+": "({} + {})",
    "-": "({} - {})",
    "*": "({} * {})",
    "/": "({} / NULLIF({}, {zero}))",
    "as number": "({})::double precision",
    "abs": "abs({})",
    "floor": "floor({})",
    "ceil": "ceil({})",
    "ln": "ln(NULLIF(GREATEST({}, {zero}), {zero}))",
    "log10": "log10(NULLIF(GREATEST({}, {zero}), {zero}))",
    "sqrt": "CASE WHEN {0} >= {zero} THEN sqrt({0}) END",
    "nullif": "NULLIF({}, {})",
}
"""The SQL of operators and functions with a fixed number of parts."""
_LISTS: Mapping[str, LiteralString] = {"least": "LEAST", "greatest": "GREATEST", "coalesce": "COALESCE"}


def select(pipeline: ModelPipeline, at: str, made: Typed) -> sql.Composable:
    """Return the SQL of an expression over the rows of a snapshot. `at` is the moment of its view."""
    parts = [select(pipeline, at, part) for part in made.parts]
    if made.kind in _FORMS:
        return sql.SQL(_FORMS[made.kind]).format(*parts, zero=_number(0.0))
    if made.kind in _LISTS:
        return sql.SQL("{}({})").format(sql.SQL(_LISTS[made.kind]), sql.SQL(", ").join(parts))
    match made.kind:
        case "literal":
            return _literal(made.value)
        case "column":
            return _column(made)
        case "in":
            return sql.SQL("({} IN ({}))").format(parts[0], sql.SQL(", ").join(parts[1:]))
        case "case":
            return _case(parts)
        case "round":
            step = _number(10.0**made.value)
            return sql.SQL("(floor({} * {step} + {half}) / {step})").format(parts[0], step=step, half=_number(0.5))
        case "extract":
            return calendar(made.value, local(pipeline, parts[0]) if made.parts[0].type == "timestamp" else parts[0])
        case "date":
            return sql.SQL("{}::date").format(local(pipeline, parts[0]))
        case "days_between":
            return _days(made, parts[0], parts[1])
    if made.parts[0].type == "timestamp":  # days_since
        return _days(made, tables.instant(pipeline, at), parts[0])
    return _days(made, _day(pipeline, at), parts[0])


def columns(made: Typed) -> Iterator[str]:
    """Yield the columns that an expression reads, as they are named in the database."""
    if made.kind == "column":
        yield str(made.value).replace(".", "__")
    for part in made.parts:
        yield from columns(part)


def calendar(part: str, when: sql.Composable) -> sql.Composed:
    """Return a calendar part of a date or of a local time."""
    return sql.SQL("EXTRACT({} FROM {})::bigint").format(sql.SQL(_CALENDAR[part]), when)


def local(pipeline: ModelPipeline, instant: sql.Composable) -> sql.Composed:
    """Return a timestamp as clocks in the source's time zone showed it."""
    return sql.SQL("({} AT TIME ZONE {})").format(instant, sql.Literal(pipeline.source.time_zone or "UTC"))


def _day(pipeline: ModelPipeline, at: str) -> sql.Composable:
    """Return the date of a moment: its own if it is a day, else the date in the source's time zone."""
    if pipeline.moments[at].is_day(pipeline.columns):
        return tables.day(pipeline, at)
    return sql.SQL("{}::date").format(local(pipeline, tables.instant(pipeline, at)))


def _days(made: Typed, later: sql.Composable, earlier: sql.Composable) -> sql.Composable:
    if made.type == "integer":
        return sql.SQL("({} - {})::bigint").format(later, earlier)
    ticks = (spans.microseconds_since_1970(instant) for instant in (later, earlier))
    return sql.SQL("(({} - {})::double precision / {})").format(*ticks, _number(float(DAY)))


def _number(value: float) -> sql.Composable:
    # in quotes: both engines read such a text to the nearest float, and a bare one as a decimal
    return sql.SQL("{}::double precision").format(sql.Literal(repr(value)))


def _literal(value: object) -> sql.Composable:
    match value:
        case None:
            return sql.SQL("NULL")
        case bool():
            return sql.SQL("true" if value else "false")
        case int():
            return sql.SQL("{}::bigint").format(sql.Literal(str(value)))
        case float():
            return _number(value)
        case date():
            return sql.SQL("{}::date").format(sql.Literal(value.isoformat()))
    return sql.SQL("{}::text").format(sql.Literal(str(value)))


def _column(made: Typed) -> sql.Composable:
    """Return a column; a number beyond the limits, or one that is none, is NULL, and one next to 0 is 0."""
    column = tables.name(next(columns(made)))
    if made.type == "integer":
        limit = sql.Literal(str(LARGEST_INTEGER))
        return sql.SQL("CASE WHEN {c} BETWEEN -({l}::bigint) AND {l}::bigint THEN {c} END").format(c=column, l=limit)
    if made.type != "number":
        return column
    (least, most), form = (
        made.limits,
        "CASE WHEN {c} BETWEEN {a} AND {b} THEN {z} WHEN {c} BETWEEN {d} AND {e} THEN {c} END",
    )
    near, far = 10.0**least, 10.0**most
    return sql.SQL(form).format(
        c=column, a=_number(-near), b=_number(near), z=_number(0.0), d=_number(-far), e=_number(far)
    )


def _case(parts: list[sql.Composable]) -> sql.Composable:
    *pairs, last = parts
    whens = [sql.SQL("WHEN {} THEN {}").format(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
    return sql.SQL("CASE {} ELSE {} END").format(sql.SQL(" ").join(whens), last)
