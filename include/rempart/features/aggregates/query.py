"""The query of a trailing view's table: one row for each tick at which something about an entity changes."""

from __future__ import annotations

from psycopg import sql

from rempart.features.aggregates import extremes, spans
from rempart.features.aggregates.sums import Sums
from rempart.features.plan import LAST_ROW_AT, ViewTable
from rempart.settings.pipeline import ModelPipeline, TrailingView


def select(
    pipeline: ModelPipeline,
    table: ViewTable,
    view: TrailingView,
    rows: sql.Composable,
    touched: sql.Composable | None = None,
    *,
    shared: bool = False,
) -> sql.Composed:
    """Return the query of the entity, the features, and the instant from which they hold; `rows` are the snapshot's.

    `shared`: as other pipelines know the rows, see `spans.Trailing`.
    With `touched` (see `spans.select`) what holds from an entity's tick on is right, and what holds before it is not.

    With `windows`, there is a row whenever a value begins or ceases to count. With `days` only when one begins, or when
    a version that counts is replaced: so the windows end with the last such day.
    """
    made = spans.Trailing(pipeline, view, table, shared)
    sums, groups = Sums(made), extremes.groups(made)
    steps = [
        ("spans", spans.select(made, rows, touched)),
        ("changes", sums.changes()),
        ("steps", sums.steps()),
        *extremes.parts(groups),
    ]
    values, joins = extremes.joins(groups)
    values |= {each.feature: sums.result(each) for each in view.aggregates() if each.feature not in values}
    if view.since_last:
        values[LAST_ROW_AT] = spans.microseconds(values[extremes.LAST_ROW], whole=table.whole_days)
    features = [sql.SQL("{}::{}").format(values[field.name], sql.SQL(field.type)) for field in table.fields]
    return sql.SQL("WITH {} SELECT p.entity, {}, {} FROM steps p{} WHERE p.shown").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS MATERIALIZED ({})").format(sql.Identifier(name), query) for name, query in steps
        ),
        sql.SQL(", ").join(features),
        spans.instant(sql.SQL("p.tick"), whole=table.whole_days),
        joins,
    )
