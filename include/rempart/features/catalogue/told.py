"""Say in one line what each feature of a pipeline is made of. Pure. Texts of expressions are left out as `'…'`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rempart.settings.expressions.across import ACROSS
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline, TrailingView, UsedView

_TEXT = re.compile(r"'(?:[^']|'')*'")


def definitions(pipeline: ModelPipeline) -> dict[str, str]:
    """Return the definition of each feature, by its name in a training set."""
    found = {f"{name}__{feature}": told for name in pipeline.features for feature, told in of_view(pipeline, name)}
    across = {f"{ACROSS}__{name}": _without_texts(text) for name, text in pipeline.expressions.items()}
    return found | across


def of_view(pipeline: ModelPipeline, name: str) -> Iterator[tuple[str, str]]:
    """Yield the features of a view with their definitions."""
    view = pipeline.features[name]
    if isinstance(view, UsedView):
        source: ModelPipeline = view.source
        for feature, definition in of_view(source, view.view):
            yield feature, f"{definition}; of view {view.view} of pipeline {view.pipeline}"
        return
    if isinstance(view, TrailingView):
        by = ", ".join(view.by)
        for made in view.aggregates():
            of = "rows" if made.column is None else f"{made.function} of {made.column}"
            yield made.feature, f"{of} with the same {by}, in the {made.window} before the moment '{view.at}'"
        if view.since_last:
            yield SINCE_LAST, f"days since the last row with the same {by} before the moment '{view.at}'"
        return
    own: Mapping[str, str] = {
        **{column: f"column {column}" for column in view.columns},
        **{f"{column}_{part}": f"{part} of {column}" for column, parts in view.calendar.items() for part in parts},
        **{feature: _without_texts(text) for feature, text in view.expressions.items()},
    }
    yield from own.items()


def _without_texts(expression: str) -> str:
    return " ".join(_TEXT.sub("'…'", expression).split())
