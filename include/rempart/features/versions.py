"""The SQL of rows with versions (`on_conflict: history`): what was valid at a moment, and never what came later.

A version is valid from the time in `version_by` until that of the next version of its key. Whatever a feature shows of
it is dated no earlier than that time, so the point-in-time join finds the version that was valid.
"""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables
from rempart.features.plan import rows_table
from rempart.settings.pipeline import ModelPipeline

DAY = "_day"
"""Column of `of_days`: the day to which a row belongs. No column of a pipeline begins with _."""


def version_of(pipeline: ModelPipeline) -> str | None:
    """Return the column with the time from which a row is valid; None for a pipeline without versions of rows."""
    return pipeline.version_column if pipeline.conflict_rule == "history" else None


def examples(pipeline: ModelPipeline) -> sql.Composable:
    """Return the relation of the rows to learn from: one for each key, with its moment as `event_timestamp`.

    Of a key with versions, the newest one gives the key, the target, the column of the hold-out and the moment. All
    other columns are those of the version that was valid at this moment; null if none was.
    """
    rows, version = tables.name(rows_table(pipeline)), version_of(pipeline)
    if version is None:
        return rows
    target = [pipeline.prediction.target] if pipeline.prediction.from_ is None else []
    newest = [*dict.fromkeys([*pipeline.key, *target, pipeline.holdout.column, "event_timestamp"])]
    others = [column for column, _ in tables.rows_columns(pipeline) if column not in newest]
    same = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(_of("r", c), _of("n", c)) for c in pipeline.key)
    return sql.SQL(
        "(WITH newest AS (SELECT DISTINCT ON ({key}) {newest} FROM {rows} ORDER BY {key}, {version} DESC),"
        " seen AS (SELECT DISTINCT ON ({key_of_row}) r.* FROM {rows} r JOIN newest n ON {same}"
        " WHERE {valid_from} <= n.event_timestamp ORDER BY {key_of_row}, {version_of_row} DESC)"
        " SELECT {newest_of_n}, {others} FROM newest n LEFT JOIN seen r ON {same})"
    ).format(
        key=tables.names(pipeline.key),
        newest=tables.names(newest),
        rows=rows,
        version=tables.name(version),
        key_of_row=tables.names(pipeline.key, "r"),
        same=same,
        valid_from=_instant(pipeline, version, _of("r", version)),
        version_of_row=_of("r", version),
        newest_of_n=tables.names(newest, "n"),
        others=tables.names(others, "r"),
    )


def visible(pipeline: ModelPipeline, moment: sql.Composable) -> sql.Composable:
    """Return the instant from which a row shows what it holds: its moment, and not before its version is valid."""
    version = version_of(pipeline)
    if version is None:
        return moment
    return sql.SQL("greatest({}, {})").format(moment, _instant(pipeline, version, tables.name(version)))


def newest_first(
    pipeline: ModelPipeline, entity: sql.Composable, at: sql.Composable
) -> tuple[sql.Composable, sql.Composable]:
    """Return what stands after SELECT and at the end of a query, so that one row is left for an entity and instant."""
    version = version_of(pipeline)
    if version is None:
        return sql.SQL(""), sql.SQL("")
    return (
        sql.SQL("DISTINCT ON ({}, {}) ").format(entity, at),
        sql.SQL(" ORDER BY {}, {}, {} DESC").format(entity, at, tables.name(version)),
    )


def of_days(pipeline: ModelPipeline, day: sql.Composable) -> sql.Composable:
    """Return the relation of rows to sum up by day: one for each key, and the day to which it belongs as `DAY`.

    Of several versions it is the one that was valid on the day; a version that became valid later, if it is the first,
    belongs to the day on which it did.
    """
    rows, version = tables.name(rows_table(pipeline)), version_of(pipeline)
    if version is None:
        return sql.SQL("(SELECT *, {} AS {} FROM {}) r").format(day, tables.name(DAY), rows)
    valid_from = sql.SQL("({} AT TIME ZONE 'UTC')::date").format(_instant(pipeline, version, tables.name(version)))
    at = sql.SQL("greatest({}, {})").format(day, valid_from)
    key = tables.names(pipeline.key)
    return sql.SQL(
        "(SELECT DISTINCT ON ({key}) *, {at} AS {day} FROM {rows} ORDER BY {key}, {at}, {version} DESC) r"
    ).format(key=key, at=at, day=tables.name(DAY), rows=rows, version=tables.name(version))


def _of(relation: str, column: str) -> sql.Composable:
    return sql.Identifier(relation, column)


def _instant(pipeline: ModelPipeline, version: str, column: sql.Composable) -> sql.Composable:
    return tables.midnight(column) if pipeline.columns[version].type == "date" else column
