"""Features that are a column of the row as it is, or a calendar part of a date: made without SQL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from rempart.features import versions
from rempart.settings.pipeline import ModelPipeline, RowView

_PARTS: Mapping[str, Callable[[date], int]] = {
    "year": lambda day: day.year,
    "month": lambda day: day.month,
    "week": lambda day: day.isocalendar().week,
    "day_of_month": lambda day: day.day,
    "day_of_week": date.isoweekday,
    "day_of_year": lambda day: day.timetuple().tm_yday,
}
_AS_IT_IS = ("integer", "number", "decimal", "boolean", "category")


@dataclass(frozen=True)
class DirectFeature:
    """A feature of rows: the values at `place` of their inputs, or a calendar part of them."""

    place: int
    part: Callable[[date], int] | None = None

    def of(self, columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return the feature of each row. `columns`: values by input."""
        values, part = columns[self.place], self.part
        return values if part is None else [None if value is None else part(value) for value in values]


def direct_features(pipeline: ModelPipeline, names: Iterable[str], inputs: Iterable[str]) -> dict[str, DirectFeature]:
    """Return those of the features, by their names in a training set, that need no SQL. `inputs`: a row's columns."""
    places = {name: place for place, name in enumerate(inputs)}
    found: dict[str, DirectFeature] = {}
    wanted = set(names)
    for name, view in pipeline.features.items():
        # a view whose moment is later than the prediction's shows nothing: SQL decides
        if not isinstance(view, RowView) or not (
            view.at == pipeline.prediction.at or versions.version_of(pipeline) is not None
        ):
            continue
        for column in view.columns:
            if pipeline.columns[column].type in _AS_IT_IS and column in places:
                found[f"{name}__{column}"] = DirectFeature(places[column])
        for column, parts in view.calendar.items():
            if pipeline.columns[column].type == "date" and column in places:
                found |= {
                    f"{name}__{column}_{part}": DirectFeature(places[column], _PARTS[part])
                    for part in parts
                    if part in _PARTS
                }
    return {name: feature for name, feature in found.items() if name in wanted}
