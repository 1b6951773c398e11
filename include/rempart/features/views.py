"""The SQL of a feature view's table over the rows of a snapshot."""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.aggregates import query
from rempart.features.plan import ViewTable, rows_table
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView

_CALENDAR = {
    "year": "YEAR",
    "month": "MONTH",
    "week": "WEEK",
    "day_of_month": "DAY",
    "day_of_week": "ISODOW",
    "day_of_year": "DOY",
    "hour": "HOUR",
}
"""EXTRACT's name of each calendar part; weeks are ISO 8601, Monday is day 1."""


def select_view(pipeline: ModelPipeline, table: ViewTable) -> sql.Composed:
    """Return the query of a view's table over the snapshot's rows."""
    view = pipeline.features[table.view]
    if isinstance(view, TrailingView):
        return query.select(pipeline, table, view)
    return _select_row(pipeline, table, view)


def _select_row(pipeline: ModelPipeline, table: ViewTable, view: RowView) -> sql.Composed:
    features = [
        sql.SQL("{}::{}").format(tables.name(f.name), sql.SQL(f.type)) for f in table.fields[: len(view.columns)]
    ]
    features += [
        sql.SQL("EXTRACT({} FROM {})::bigint").format(sql.SQL(_CALENDAR[part]), _local(pipeline, column))
        for column, parts in view.calendar.items()
        for part in parts
    ]
    at = versions.shown_from(pipeline, tables.instant(pipeline, table.at))
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {} FROM {}").format(selected, tables.name(rows_table(pipeline)))


def _local(pipeline: ModelPipeline, column: str) -> sql.Composed:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    if pipeline.columns[column].type != "timestamp":
        return sql.SQL("{}").format(tables.name(column))
    zone = pipeline.source.time_zone or "UTC"
    return sql.SQL("({} AT TIME ZONE {})").format(tables.name(column), sql.Literal(zone))
