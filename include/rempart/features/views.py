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
        version = versions.version_of(pipeline)
        if version is not None:
            return _select_trailing_versions(pipeline, table, view, version)
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
    at = versions.shown_from(pipeline, tables.instant(pipeline, table.at))
    selected = sql.SQL(", ").join([tables.join_key(pipeline, table), *features, at])
    return sql.SQL("SELECT {} FROM {}").format(selected, tables.name(rows_table(pipeline)))


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
        sql.SQL("{} AS day").format(tables.day(pipeline, table.at)),
        *_totals(view),
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
        rows=tables.name(rows_table(pipeline)),
        known=_known(table),
        features=sql.SQL(", ").join(features),
        timestamp=tables.midnight(sql.SQL("(day + 1)")),
        windows=sql.SQL(", ").join(windows),
    )


def _select_trailing_versions(
    pipeline: ModelPipeline, table: ViewTable, view: TrailingView, version: str
) -> sql.Composed:
    """Return the query of the same aggregates over rows with versions: a row for each day on which a group changed.

    Day E sees of each row the version that is valid at its start, if that names an earlier day. The aggregates are
    those of (last - days, last], where `last` is the latest day that a version of the group names; null if it has none
    any more, or if that day is older than the view shows.
    """
    oldest = (table.ttl_days or 0) + 1
    spans = [
        sql.SQL("{} AS entity").format(tables.join_key(pipeline, table)),
        *(
            sql.SQL("{} AS {}").format(tables.name(column), sql.SQL(alias))
            for column, alias in ((versions.DAY, "day"), (versions.FIRST, "first_day"), (versions.PAST, "past_day"))
        ),
        *_totals(view),
    ]
    features: list[sql.Composable] = []
    for days in view.days:
        near = sql.SQL("FILTER (WHERE day > last_day - {})").format(sql.Literal(days))
        features += [
            sql.SQL("(sum({total}) {near})::float8 / NULLIF(sum({count}) {near}, 0)::float8").format(
                total=tables.name(f"sum {column}"), count=tables.name(f"count {column}"), near=near
            )
            for column in view.mean
        ]
        features.append(sql.SQL("(sum(rows) {})::bigint").format(near))
    return sql.SQL(
        "WITH spans AS (SELECT {spans} FROM {rows} WHERE {known} AND ({past} IS NULL OR {first} < {past})"
        " GROUP BY 1, 2, 3, 4),"
        " changes AS (SELECT entity, first_day AS changed FROM spans"
        " UNION SELECT entity, past_day FROM spans WHERE past_day IS NOT NULL),"
        " seen AS (SELECT c.changed, s.*, max(s.day) OVER (PARTITION BY s.entity, c.changed) AS last_day"
        " FROM changes c JOIN spans s ON s.entity = c.entity AND s.first_day <= c.changed"
        " AND (s.past_day IS NULL OR c.changed < s.past_day) AND s.day >= c.changed - {reach}),"
        " figures AS (SELECT entity, changed, {features} FROM seen WHERE last_day >= changed - {oldest}"
        " GROUP BY entity, changed)"
        " SELECT entity, {names}, {timestamp} FROM changes LEFT JOIN figures USING (entity, changed)"
    ).format(
        spans=sql.SQL(", ").join(spans),
        rows=versions.counted(pipeline, version, tables.day(pipeline, table.at)),
        known=_known(table),
        first=tables.name(versions.FIRST),
        past=tables.name(versions.PAST),
        reach=sql.Literal(oldest + max(view.days)),
        oldest=sql.Literal(oldest),
        features=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(made, tables.name(field.name))
            for made, field in zip(features, table.fields, strict=True)
        ),
        names=tables.names(field.name for field in table.fields),
        timestamp=tables.midnight(sql.SQL("changed")),
    )


def _totals(view: TrailingView) -> list[sql.Composable]:
    """Return the columns of a group's rows, and of the exact sum and count of each column of which there is a mean."""
    return [
        sql.SQL("count(*) AS rows"),
        *(
            sql.SQL("sum({column}::numeric) AS {total}, count({column}) AS {count}").format(
                column=tables.name(column), total=tables.name(f"sum {column}"), count=tables.name(f"count {column}")
            )
            for column in view.mean
        ),
    ]


def _known(table: ViewTable) -> sql.Composable:
    """Return the condition of rows that belong to a group."""
    return sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(tables.name(column)) for column in table.by)
