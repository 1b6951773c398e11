"""The time in which a value counts in a window, in ticks: days or microseconds since 1970, in UTC.

A row of tick `a` counts at the ticks `a + 1` to `a + window`. A value that is known later, at tick `k`, counts from
`k + 1` on; a version of a row only while it is valid. So each value has a first tick, and a tick from which it counts
no longer. Whole numbers have no time zone, no calendar and no rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.plan import DAY, ViewTable
from rempart.settings.learning import window_length
from rempart.settings.pipeline import ModelPipeline, TrailingView


@dataclass(frozen=True)
class Trailing:
    """A trailing view of a pipeline, and its table.

    `shared`: a row counts from when other pipelines know its version, a date from the next day.
    """

    pipeline: ModelPipeline
    view: TrailingView
    table: ViewTable
    shared: bool = False

    @property
    def columns(self) -> list[str]:
        """Return the aggregated columns."""
        return list(dict.fromkeys(made.column for made in self.view.aggregates() if made.column))

    def delay(self, column: str | None) -> str:
        """Return the moment from which a column's values count; "" for their row's own, and for rows."""
        return (self.pipeline.delayed_until(self.view, column) if column else None) or ""

    @property
    def delays(self) -> list[str]:
        """Return the moments of all columns; "" comes first."""
        return list(dict.fromkeys(["", *map(self.delay, self.columns)]))

    @property
    def longest(self) -> str:
        return max(self.view.spans, key=window_length)

    def ticks(self, window: str) -> int:
        unit = timedelta(days=1) if self.table.whole_days else timedelta(microseconds=1)
        return window_length(window) // unit


def first(delay: str) -> sql.Identifier:
    """Return the column of `select` with the first tick at which values count that are known at the moment `delay`."""
    return sql.Identifier(f"first {delay}")


def end(window: str) -> sql.Identifier:
    """Return the column of `select` with the tick from which a row no longer counts in a window."""
    return sql.Identifier(f"end {window}")


def value(column: str) -> sql.Identifier:
    """Return the column of `select` with the value of a column of the pipeline."""
    return sql.Identifier(f"value {column}")


def select(made: Trailing, rows: sql.Composable, touched: sql.Composable | None = None) -> sql.Composed:
    """Return the query of all `rows` that belong to a group: `entity`, `moment`, `place`, `past`, values, ticks.

    `place` numbers the rows of a group in order of their ticks, and of their keys in one tick. With `touched`, a
    relation of `entity` and `tick`: only of these groups, and without the rows that count no longer before the tick.
    Sums, extremes and latest values from that tick on are the same without them.
    """
    pipeline, whole = made.pipeline, made.table.whole_days
    version = versions.known_by(pipeline) if made.shared else versions.version_of(pipeline)
    inner = [
        sql.SQL("{} AS entity").format(tables.join_key(pipeline, made.table)),
        sql.SQL("{} AS moment").format(_tick(pipeline, made.view.at, whole=whole)),
        *(sql.SQL("{} AS {}").format(tables.name(c), value(c)) for c in made.columns),
        *(sql.SQL("{} AS {}").format(_tick(pipeline, d, whole=whole), first(d)) for d in made.delays if d),
        *(sql.SQL("{} AS {}").format(_ordered(pipeline, c), sql.Identifier(f"key {c}")) for c in pipeline.row_key),
        *_validity(made, version),
    ]
    begun = sql.SQL("moment + 1") if version is None else sql.SQL("greatest(moment + 1, valid)")
    outer = [
        sql.SQL("entity, moment, past"),
        sql.SQL("row_number() OVER (PARTITION BY entity ORDER BY moment, {}) AS place").format(
            tables.names(f"key {column}" for column in pipeline.row_key)
        ),
        *(sql.SQL("{}").format(value(column)) for column in made.columns),
        sql.SQL("{} AS {}").format(begun, first("")),
        *(
            sql.SQL("CASE WHEN {f} IS NOT NULL THEN greatest({begun}, {f} + 1) END AS {f}").format(
                f=first(delay), begun=begun
            )
            for delay in made.delays
            if delay
        ),
        *(sql.SQL("{} AS {}").format(_end(made, window), end(window)) for window in made.view.spans),
    ]
    selected = sql.SQL("SELECT {} FROM (SELECT {} FROM {} given) r").format(
        sql.SQL(", ").join(outer), sql.SQL(", ").join(inner), rows
    )
    if touched is None:
        return selected + sql.SQL(" WHERE entity IS NOT NULL")
    return selected + sql.SQL(" JOIN {} t USING (entity) WHERE {} >= t.tick").format(touched, _end(made, made.longest))


def begins(made: Trailing, rows: sql.Composable) -> sql.Composed:
    """Return the query of the groups of `rows`: `entity`, and the first `tick` at which a row of it counts."""
    return sql.SQL("SELECT entity, min({}) AS tick FROM ({}) s GROUP BY entity").format(first(""), select(made, rows))


def _end(made: Trailing, window: str) -> sql.Composed:
    return sql.SQL("least(moment + {} + 1, past)").format(sql.Literal(made.ticks(window)))


def _validity(made: Trailing, version: str | None) -> list[sql.Composable]:
    """Return the ticks from which and until which a row is valid (null: for ever); of whole days, their starts."""
    forever, pipeline = sql.SQL("NULL::bigint AS past"), made.pipeline
    if version is None:
        return [forever]
    tick = _valid_from(made, version)
    past = sql.SQL("lead({}) OVER (PARTITION BY {} ORDER BY {}) AS past").format(
        tick, tables.names(pipeline.key), tables.name(version)
    )
    return [sql.SQL("{} AS valid").format(tick), forever if versions.version_of(pipeline) is None else past]


def _valid_from(made: Trailing, version: str) -> sql.Composable:
    """Return the tick from which a row is valid by its version, or known to others if the view is `shared`."""
    column: sql.Composable = tables.name(version)
    if made.pipeline.columns[version].type != "date":
        if not made.table.whole_days:
            return microseconds_since_1970(column)
        day = sql.SQL("(({} AT TIME ZONE 'UTC') + interval '1 day' - interval '1 microsecond')::date").format(column)
        return _days(day)
    if made.table.whole_days:
        return _days(sql.SQL("({} + 1)").format(column) if made.shared else column)
    return microseconds_since_1970(versions.day_end(made.pipeline, column) if made.shared else tables.midnight(column))


def _ordered(pipeline: ModelPipeline, column: str) -> sql.Composable:
    """Return a column of the key, so that both engines order it by code points."""
    is_text = pipeline.columns[column].type in ("string", "category")
    return sql.SQL('{} COLLATE "C"' if is_text else "{}").format(tables.name(column))


def _tick(pipeline: ModelPipeline, moment: str, *, whole: bool) -> sql.Composable:
    """Return the tick of a moment; of a day in microseconds, its last one."""
    if whole:
        return _days(tables.day(pipeline, moment))
    if pipeline.moments[moment].is_day(pipeline.columns):
        return sql.SQL("(({} + 1) * {} - 1)").format(_days(tables.day(pipeline, moment)), sql.Literal(DAY))
    return microseconds_since_1970(tables.instant(pipeline, moment))


def _days(date: sql.Composable) -> sql.Composable:
    return sql.SQL("({} - date '1970-01-01')::bigint").format(date)


def microseconds_since_1970(instant: sql.Composable) -> sql.Composable:
    """Return the tick of an instant in microseconds."""
    # seconds and their parts apart: DuckDB's seconds are floats, which hold no microseconds of far times
    return sql.SQL(
        "(EXTRACT(EPOCH FROM date_trunc('second', {i}))::bigint * 1000000 + EXTRACT(MICROSECONDS FROM {i})::bigint"
        " % 1000000)"
    ).format(i=instant)


def instant(tick: sql.Composable, *, whole: bool) -> sql.Composed:
    """Return the instant of a tick; of a day its midnight in UTC."""
    if whole:
        return tables.midnight(sql.SQL("(date '1970-01-01' + {}::integer)").format(tick))
    # in two parts: an interval is multiplied by a small whole number, and a fraction would be rounded
    return sql.SQL(
        "(timestamptz '1970-01-01 00:00:00+00' + make_interval(secs => ({t} - {t} % 1000000) / 1000000)"
        " + ({t} % 1000000)::integer * interval '1 microsecond')"
    ).format(t=tick)


def microseconds(tick: sql.Composable, *, whole: bool) -> sql.Composable:
    """Return the microseconds since 1970 of a tick."""
    return sql.SQL("({} * {})").format(tick, sql.Literal(DAY)) if whole else tick
