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


def select_view(pipeline: ModelPipeline, table: ViewTable, entities: sql.Composable | None = None) -> sql.Composed:
    """Return the query of a view's table over the snapshot's rows; with `entities`, a query of keys, of these alone.

    An entity's rows in the view depend on its own rows of the snapshot, and with versions on other versions of these.
    """
    view, rows = pipeline.features[table.view], sql.SQL("{}").format(tables.name(rows_table(pipeline)))
    if entities is not None:
        key, all_rows = tables.join_key(pipeline, table), rows
        rows = sql.SQL("(SELECT * FROM {} WHERE {} IN ({}))").format(all_rows, key, entities)
        if versions.version_of(pipeline) is not None:
            rows = sql.SQL("(SELECT * FROM {} WHERE ({keys}) IN (SELECT {keys} FROM {} of_entities))").format(
                all_rows, rows, keys=tables.names(pipeline.key)
            )
    if isinstance(view, TrailingView):
        selected = query.select(pipeline, table, view, rows)
    else:
        selected = _select_row(pipeline, table, view, rows)
    if entities is None:
        return selected
    columns = [column for column, _ in tables.view_columns(table)]
    return sql.SQL("SELECT * FROM ({}) made({}) WHERE {} IN ({})").format(
        selected, tables.names(columns), tables.name(table.join_key), entities
    )


def _select_row(pipeline: ModelPipeline, table: ViewTable, view: RowView, rows: sql.Composable) -> sql.Composed:
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
    return sql.SQL("SELECT {} FROM {} r").format(selected, rows)


def _local(pipeline: ModelPipeline, column: str) -> sql.Composed:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    if pipeline.columns[column].type != "timestamp":
        return sql.SQL("{}").format(tables.name(column))
    zone = pipeline.source.time_zone or "UTC"
    return sql.SQL("({} AT TIME ZONE {})").format(tables.name(column), sql.Literal(zone))
