"""The SQL of rows with versions (`on_conflict: history`): what was valid at a moment, and never what came later.

A version is valid from the time in `version_by` until that of the next version of its key. A feature is dated by this
time, and not by the moment of its row, which a version may move: the point-in-time join finds the valid version.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from rempart.features import tables
from rempart.features.plan import rows_table
from rempart.settings.columns import TEMPORAL
from rempart.settings.evaluation.splits import split_columns
from rempart.settings.pipeline import ModelPipeline


def version_of(pipeline: ModelPipeline) -> str | None:
    """Return the column with the time from which a row is valid; None for a pipeline without versions of rows."""
    return pipeline.version_column if pipeline.conflict_rule == "history" else None


def known_by(pipeline: ModelPipeline) -> str | None:
    """Return the column with the time from which other pipelines know a row; None if it is its moment alone.

    So a row that replaced another one (`on_conflict: newest`) says nothing of the time before its own version.
    """
    version = None if pipeline.conflict_rule == "refuse" else pipeline.version_column
    return version if version and pipeline.columns[version].type in TEMPORAL else None


def hides_corrections(pipeline: ModelPipeline) -> bool:
    """Return whether a correction takes the place of a row with nothing that tells when it came."""
    return pipeline.conflict_rule == "newest" and known_by(pipeline) is None


def day_end(pipeline: ModelPipeline, day: sql.Composable) -> sql.Composed:
    """Return the instant at which a day has ended: in UTC, and in the source's time zone if that is later."""
    end = tables.midnight(sql.SQL("({} + 1)").format(day))
    if (zone := pipeline.source.time_zone) is None:
        return end
    return sql.SQL("greatest({}, (({} + 1)::timestamp AT TIME ZONE {}))").format(end, day, sql.Literal(zone))


def examples(pipeline: ModelPipeline, computed: Mapping[str, sql.Composable]) -> sql.Composable:
    """Return the relation of the rows to learn from: one for each key, with its moment as `event_timestamp`.

    Of a key with versions, the newest one gives the key, the target, the columns that split and the moment. All
    other columns are those of the version that was valid at this moment; null if none was. `computed`: expressions over
    the newest version's columns, by the name of the column that each adds.
    """
    rows, version = tables.name(rows_table(pipeline)), version_of(pipeline)
    added = [sql.SQL("{} AS {}").format(made, tables.name(column)) for column, made in computed.items()]
    if version is None:
        return (
            sql.SQL("(SELECT {} FROM {})").format(sql.SQL(", ").join([sql.SQL("*"), *added]), rows) if added else rows
        )
    target = [pipeline.prediction.target] if pipeline.prediction.from_ is None else []
    sides = split_columns(pipeline.holdout, pipeline.validation)
    newest = [*dict.fromkeys([*pipeline.key, *target, *sides, "event_timestamp"])]
    others = [column for column, _ in tables.rows_columns(pipeline) if column not in newest]
    same = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(_of("r", c), _of("n", c)) for c in pipeline.key)
    return sql.SQL(
        "(WITH newest AS (SELECT DISTINCT ON ({key}) {newest_and_added} FROM {rows} ORDER BY {key}, {version} DESC),"
        " seen AS (SELECT DISTINCT ON ({key_of_row}) r.* FROM {rows} r JOIN newest n ON {same}"
        " WHERE {valid_from} <= n.event_timestamp ORDER BY {key_of_row}, {version_of_row} DESC)"
        " SELECT {newest_of_n}, {others} FROM newest n LEFT JOIN seen r ON {same})"
    ).format(
        key=tables.names(pipeline.key),
        newest_and_added=sql.SQL(", ").join([tables.names(newest), *added]),
        rows=rows,
        version=tables.name(version),
        key_of_row=tables.names(pipeline.key, "r"),
        same=same,
        valid_from=_instant(pipeline, version, _of("r", version)),
        version_of_row=_of("r", version),
        newest_of_n=tables.names([*newest, *computed], "n"),
        others=tables.names(others, "r"),
    )


def shown_from(pipeline: ModelPipeline, moment: sql.Composable) -> sql.Composable:
    """Return the instant from which a row shows what it holds: its moment; for a version, the start of its validity.

    So a version takes the place of the one before it, also if it moves the moment of its row.
    """
    version = version_of(pipeline)
    return moment if version is None else _instant(pipeline, version, tables.name(version))


def _of(relation: str, column: str) -> sql.Composable:
    return sql.Identifier(relation, column)


def _instant(pipeline: ModelPipeline, version: str, column: sql.Composable) -> sql.Composable:
    return tables.midnight(column) if pipeline.columns[version].type == "date" else column
