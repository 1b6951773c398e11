"""Have a model tell the rows of a watch from the training data, on a bounded sample of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rempart.flows.monitoring.answered import row_time
from rempart.models.encoding import Feature
from rempart.monitoring import counting, domain
from rempart.monitoring.domain import Separation, WindowRows
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.models.loading import LoadedModel


def separate(pipeline: ModelPipeline, model: LoadedModel, train: pa.Table, window: pa.Table) -> Separation | None:
    """Return how well the window is told from the training data; None if it is switched off, or has too few rows.

    Features that the model reads count, without parts of the calendar: these tell only what time it is.
    """
    if pipeline.monitoring.domain_classifier == "off":
        return None
    features = [feature for feature in model.features if feature.name not in _calendar(pipeline)]
    learned, seen = (_rows(features, table, row_time(pipeline)) for table in (train, window))
    return domain.separate(learned, seen, [feature.name for feature in features], pipeline.monitoring.least_rows)


def _calendar(pipeline: ModelPipeline) -> frozenset[str]:
    return frozenset(
        f"{name}__{part}"
        for name, view in pipeline.features.items()
        if view.kind == "row"
        for part in view.calendar_features()
    )


def _rows(features: list[Feature], table: pa.Table, time: str) -> WindowRows:
    read = table.select([feature.name for feature in features])
    return WindowRows(counting.months(table[time]), lambda places: matrix(features, read.take(places)))


def matrix(features: list[Feature], rows: pa.Table) -> domain.Floats:
    """Return the features of rows, [rows, features]: a category as the place of its value, NaN without a value."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = list[Any]()
    for feature in features:
        values = rows[feature.name]
        if feature.type == "category":
            places = pc.index_in(values.cast(pa.string()), value_set=pa.array(feature.values, pa.string()))
            values = pc.if_else(pc.is_valid(values), pc.fill_null(places, len(feature.values)), None)
        columns.append(values.cast(pa.float32(), safe=False).to_numpy())
    return np.column_stack(columns) if columns else np.zeros((rows.num_rows, 0), np.float32)
