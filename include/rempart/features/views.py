"""The SQL of a feature view's table over the rows of a snapshot."""

from __future__ import annotations

import hashlib

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.aggregates import query, spans
from rempart.features.databases import Session
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES, ViewTable, rows_table
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView


def select_view(pipeline: ModelPipeline, table: ViewTable, touched: sql.Composable | None = None) -> sql.Composed:
    """Return the query of a view's table over the snapshot's rows.

    With `touched` (the relation of `select_touched`) only of its entities, and of each what holds from `since` on. An
    entity's rows in the view depend on its own rows of the snapshot, and with versions on other versions of these.
    """
    view, rows = pipeline.features[table.view], sql.SQL("{}").format(tables.name(rows_table(pipeline)))
    if touched is not None:
        key, all_rows = tables.join_key(pipeline, table), rows
        rows = sql.SQL("(SELECT * FROM {} WHERE {} IN (SELECT entity FROM {}))").format(all_rows, key, touched)
        if versions.version_of(pipeline) is not None:
            rows = sql.SQL("(SELECT * FROM {} WHERE ({keys}) IN (SELECT {keys} FROM {} of_entities))").format(
                all_rows, rows, keys=tables.names(pipeline.key)
            )
    if isinstance(view, TrailingView):
        selected = query.select(pipeline, table, view, rows, touched)
    else:
        selected = _select_row(pipeline, table, view, rows)
    if touched is None:
        return selected
    columns = [column for column, _ in tables.view_columns(table)]
    return sql.SQL(
        "SELECT made.* FROM ({}) made({}) JOIN {} t ON t.entity = made.{} AND made.event_timestamp >= t.since"
    ).format(selected, tables.names(columns), touched, tables.name(table.join_key))


def definition(opened: Session, pipeline: ModelPipeline, table: ViewTable) -> str:
    """Return a hash of the query that makes a view."""
    return hashlib.sha256(select_view(pipeline, table).as_bytes(opened)).hexdigest()


def select_touched(pipeline: ModelPipeline, table: ViewTable, changed: sql.Composable) -> sql.Composed:
    """Return the query of the entities of `changed` rows: `entity`, and the first `tick` and instant (`since`) at which
    such a row counts. An entity of a row view has no tick, and is touched as a whole.
    """
    view = pipeline.features[table.view]
    if not isinstance(view, TrailingView):
        return sql.SQL(
            "SELECT DISTINCT {} AS entity, NULL::bigint AS tick, '-infinity'::timestamptz AS since FROM {} given"
        ).format(tables.join_key(pipeline, table), changed)
    begins = spans.begins(spans.Trailing(pipeline, view, table), changed)
    since = spans.instant(sql.SQL("tick"), whole=table.whole_days)
    return sql.SQL("SELECT entity, tick, {} AS since FROM ({}) b").format(since, begins)


def _select_row(pipeline: ModelPipeline, table: ViewTable, view: RowView, rows: sql.Composable) -> sql.Composed:
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
    return sql.SQL("SELECT {} FROM {} r").format(selected, rows)


def _local(pipeline: ModelPipeline, column: str) -> sql.Composable:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    is_instant = pipeline.columns[column].type == "timestamp"
    return rendering.local(pipeline, tables.name(column)) if is_instant else tables.name(column)
