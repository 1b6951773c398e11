"""Trace a feature to the columns whose values it is made of, and through derived pipelines to delivered columns. Pure.

Filters, joins, groups and windows decide which rows count, not what a value is made of, so they are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView

Lineage = Mapping[str, tuple[str, ...] | None]
"""`pipeline.column` of each value that a derived column is made of, by column; None where it cannot be told."""


def columns_of(pipeline: ModelPipeline, view: RowView | TrailingView) -> Mapping[str, tuple[str, ...]]:
    """Return the columns of the pipeline's rows of which each feature of a view is made; none for a number of rows."""
    if isinstance(view, TrailingView):
        made = {aggregate.feature: (aggregate.column,) if aggregate.column else () for aggregate in view.aggregates()}
        return made | ({SINCE_LAST: tuple(pipeline.moments[view.at].columns)} if view.since_last else {})
    parts = {f"{column}_{part}": (column,) for column, parts in view.calendar.items() for part in parts}
    own = {column: (column,) for column in view.columns} | parts
    return own | {feature: tuple(read) for feature, read in view.read_by_expressions().items()}


def delivered(columns: Iterable[str], derived: Mapping[str, Lineage]) -> tuple[str, ...] | None:
    """Return the delivered columns from which the values of some columns (`pipeline.column`) come, in order.

    `derived`: lineage of each derived pipeline, as far as it is known. None where a derivation does not tell.
    """
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(columns)
    while waiting:
        if (column := waiting.pop()) in seen:
            continue
        seen.add(column)
        pipeline, _, name = column.partition(".")
        if pipeline not in derived:
            found.add(column)
        elif (sources := derived[pipeline].get(name)) is None:
            return None
        else:
            waiting += sources
    return tuple(sorted(found))
