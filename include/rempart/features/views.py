"""The SQL of a feature view's table over the rows of a snapshot."""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables, versions
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
        return _select_trailing(pipeline, table, view)
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
    at = versions.visible(pipeline, tables.instant(pipeline, table.at))
    distinct, order = versions.newest_first(pipeline, tables.join_key(pipeline, table), at)
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {}{} FROM {}{}").format(distinct, selected, tables.name(rows_table(pipeline)), order)


def _local(pipeline: ModelPipeline, column: str) -> sql.Composed:
    """Return a date, or a timestamp as clocks in the source's time zone showed it."""
    if pipeline.columns[column].type != "timestamp":
        return sql.SQL("{}").format(tables.name(column))
    zone = pipeline.source.time_zone or "UTC"
    return sql.SQL("({} AT TIME ZONE {})").format(tables.name(column), sql.Literal(zone))


def _select_trailing(pipeline: ModelPipeline, table: ViewTable, view: TrailingView) -> sql.Composed:
    """Return the query of aggregates over (day - days, day], dated the day after: day E sees only rows before E.

    Sums are `numeric`, so exact: neither the order of rows nor rows that left the window affect the result.
    """
    daily = [
        sql.SQL("{} AS entity").format(tables.join_key(pipeline, table)),
        sql.SQL("{} AS day").format(tables.name(versions.DAY)),
        sql.SQL("count(*) AS rows"),
        *(
            sql.SQL("sum({column}::numeric) AS {total}, count({column}) AS {count}").format(
                column=tables.name(column), total=tables.name(f"sum {column}"), count=tables.name(f"count {column}")
            )
            for column in view.mean
        ),
    ]
    features: list[sql.Composable] = []
    for days in view.days:
        window = sql.Identifier(f"{days} days")
        features += [
            sql.SQL("(sum({total}) OVER {w})::float8 / NULLIF(sum({count}) OVER {w}, 0)::float8").format(
                total=tables.name(f"sum {column}"), count=tables.name(f"count {column}"), w=window
            )
            for column in view.mean
        ]
        features.append(sql.SQL("(sum(rows) OVER {})::bigint").format(window))
    windows = [
        sql.SQL("{} AS (PARTITION BY entity ORDER BY day RANGE BETWEEN {} PRECEDING AND CURRENT ROW)").format(
            sql.Identifier(f"{days} days"), sql.SQL("interval {}").format(sql.Literal(f"{days - 1} days"))
        )
        for days in view.days
    ]
    return sql.SQL(
        "WITH daily AS (SELECT {daily} FROM {rows} WHERE {known} GROUP BY 1, 2)"
        " SELECT entity, {features}, {timestamp} FROM daily WINDOW {windows}"
    ).format(
        daily=sql.SQL(", ").join(daily),
        rows=versions.of_days(pipeline, tables.day(pipeline, table.at)),
        known=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(tables.name(column)) for column in table.by),
        features=sql.SQL(", ").join(features),
        timestamp=tables.midnight(sql.SQL("(day + 1)")),
        windows=sql.SQL(", ").join(windows),
    )
