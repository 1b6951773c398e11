"""The SQL of a feature view's table over the rows of a snapshot."""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.aggregates import query
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES, ViewTable, rows_table
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView


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
        rendering.calendar(part, _local(pipeline, column)) for column, parts in view.calendar.items() for part in parts
    ]
    features += [
        sql.SQL("({})::{}").format(rendering.select(pipeline, view.at, made), sql.SQL(SQL_TYPES[made.type]))
        for made in view.checked(pipeline.columns).values()
    ]
    at = versions.shown_from(pipeline, tables.instant(pipeline, table.at))
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {} FROM {}").format(selected, tables.name(rows_table(pipeline)))


def _local(pipeline: ModelPipeline, column: str) -> sql.Composable:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    is_instant = pipeline.columns[column].type == "timestamp"
    return rendering.local(pipeline, tables.name(column)) if is_instant else tables.name(column)
