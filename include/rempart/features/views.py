"""The SQL of a feature view's table over the rows of a snapshot, and of one that another pipeline uses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.aggregates import query, spans
from rempart.features.databases import Session
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES, ViewTable, rows_table, source_of, view_table
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView, UsedView

_REPLACED_AT = "replaced at"
"""Column of a query: no column of a pipeline has such a name."""


def select_view(pipeline: ModelPipeline, table: ViewTable, touched: sql.Composable | None = None) -> sql.Composed:
    """Return the query of a view's table over the snapshot's rows.

    With `touched` (the relation of `select_touched`) only of its entities, and of each what holds from `since` on. An
    entity's rows in the view depend on its own rows of the snapshot, and with versions on other versions of these. A
    used view is made of the tables of its source, whatever is touched.
    """
    view, rows = pipeline.features[table.view], sql.SQL("{}").format(tables.name(rows_table(pipeline)))
    if isinstance(view, UsedView):
        return _select_used(source_of(view), view_table(source_of(view), view.view))
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
        shown_from = versions.shown_from(pipeline, tables.instant(pipeline, table.at))
        selected = _select_row(pipeline, table, view, rows, shown_from)
    if touched is None:
        return selected
    columns = [column for column, _ in tables.view_columns(table)]
    return sql.SQL(
        "SELECT made.* FROM ({}) made({}) JOIN {} t ON t.entity = made.{} AND made.event_timestamp >= t.since"
    ).format(selected, tables.names(columns), touched, tables.name(table.join_key))


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


def definition(opened: Session, pipeline: ModelPipeline, table: ViewTable) -> str:
    """Return a hash of the query that makes a view; for a used view also of the query that makes its source's."""
    query, view = select_view(pipeline, table), pipeline.features[table.view]
    if isinstance(view, UsedView):
        query += select_view(source_of(view), view_table(source_of(view), view.view))
    return hashlib.sha256(query.as_bytes(opened)).hexdigest()


def _select_used(source: ModelPipeline, table: ViewTable) -> sql.Composed:
    """Return the query of a view for another pipeline: over its table, or over the rows that a row view is made of.

    A trailing view's values count from the instant after their rows, and from the day after a day, for every reader. So
    its table is copied, but for versions that count earlier there than others know them: a date within its day, and a
    row that replaced another one from its own moment. A day ends where the source is, and not before it ends in UTC.
    """
    view, columns = source.features[table.view], tables.names(column for column, _ in tables.view_columns(table))
    rows, version = sql.SQL("{}").format(tables.name(rows_table(source))), versions.version_of(source)
    if not isinstance(view, RowView):
        made: sql.Composable = sql.SQL("SELECT * FROM {}").format(tables.name(table.table))
        column = versions.known_by(source)
        is_later = column is not None and (version is None or source.columns[column].type == "date")
        if is_later and isinstance(view, TrailingView):
            made = query.select(source, table, view, rows, shared=True)
        moment: sql.Composable = tables.name("event_timestamp")
        if table.whole_days and source.source.time_zone:
            there = sql.SQL("((event_timestamp AT TIME ZONE 'UTC') AT TIME ZONE {})")
            moment = sql.SQL("greatest({}, {})").format(moment, there.format(sql.Literal(source.source.time_zone)))
        values = tables.names(column for column, _ in tables.view_columns(table)[:-1])
        return sql.SQL("SELECT {}, {} FROM ({}) v ({})").format(values, moment, made, columns)
    known = _known_from(source, table.at)
    if version is None:
        return _select_row(source, table, view, rows, known)
    # a version that a later one replaces before it is known, or at that time, is never shown
    replaced_at = sql.SQL(
        "min({}) OVER (PARTITION BY {} ORDER BY {} ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)"
    ).format(known, tables.names(source.key), tables.name(version))
    made = _select_row(source, table, view, rows, sql.SQL("{}, {}").format(known, replaced_at))
    return sql.SQL(
        "SELECT {columns} FROM ({made}) v ({columns}, {replaced}) WHERE {replaced} IS NULL"
        " OR {replaced} > event_timestamp"
    ).format(columns=columns, made=made, replaced=tables.name(_REPLACED_AT))


def _known_from(source: ModelPipeline, moment: str) -> sql.Composable:
    """Return the instant from which other pipelines know what a row says: its moment, and not before its version.

    A date counts from the next day.
    """
    known: sql.Composable = tables.instant(source, moment)
    if source.moments[moment].is_day(source.columns):
        known = versions.day_end(source, tables.day(source, moment))
    if (version := versions.known_by(source)) is None:
        return known
    valid: sql.Composable = tables.name(version)
    if source.columns[version].type == "date":
        valid = versions.day_end(source, valid)
    return sql.SQL("greatest({}, {})").format(known, valid)


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


def _select_row(
    pipeline: ModelPipeline, table: ViewTable, view: RowView, rows: sql.Composable, at: sql.Composable
) -> sql.Composed:
    features = row_features(pipeline, table, view).values()
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {} FROM {} r").format(selected, rows)


def _local(pipeline: ModelPipeline, column: str) -> sql.Composable:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    is_instant = pipeline.columns[column].type == "timestamp"
    return rendering.local(pipeline, tables.name(column)) if is_instant else tables.name(column)
