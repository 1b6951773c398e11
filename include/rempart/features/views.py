"""The SQL of a feature view's table over the rows of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.aggregates import query
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES, ViewTable, rows_table
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView


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


def row_features(pipeline: ModelPipeline, table: ViewTable, view: RowView) -> Mapping[str, sql.Composable]:
    """Return the SQL of each field of a row view over the columns of a row, by its name."""
    features: list[sql.Composable] = [
        sql.SQL("{}::{}").format(tables.name(f.name), sql.SQL(f.type)) for f in table.fields[: len(view.columns)]
    ]
    features += [
        rendering.calendar(part, _local(pipeline, column)) for column, parts in view.calendar.items() for part in parts
    ]
    features += [
        sql.SQL("({})::{}").format(rendering.select(pipeline, view.at, made), sql.SQL(SQL_TYPES[made.type]))
        for made in view.checked(pipeline.columns).values()
    ]
    return dict(zip((field.name for field in table.fields), features, strict=True))


def _select_row(pipeline: ModelPipeline, table: ViewTable, view: RowView, rows: sql.Composable) -> sql.Composed:
    at = versions.shown_from(pipeline, tables.instant(pipeline, table.at))
    features = row_features(pipeline, table, view).values()
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {} FROM {} r").format(selected, rows)


def _local(pipeline: ModelPipeline, column: str) -> sql.Composable:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    is_instant = pipeline.columns[column].type == "timestamp"
    return rendering.local(pipeline, tables.name(column)) if is_instant else tables.name(column)
