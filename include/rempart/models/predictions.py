"""Predictions as a table with named columns.

A regression has the column `prediction`, in the target's unit, and with intervals `prediction_lower` and
`prediction_upper`, the ends of the interval. A classification has `prediction`, the label of the
most probable class (of equal ones the first declared; null if a probability is not a number), or of two classes the one
that the model's operating point chooses, and `probability_LABEL` for each class, in the declared order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from rempart.models.encoding import Feature
from rempart.models.gates.thresholds import OperatingPoint, answered

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PREDICTION = "prediction"
ENDS = ("prediction_lower", "prediction_upper")
"""Columns of the ends of an interval."""


def is_reserved(name: str) -> bool:
    """Return whether a prediction may have a column of that name."""
    return name in (PREDICTION, *ENDS) or name.startswith("probability_")


def columns(task: str, target: Feature | None, *, intervals: bool = False) -> dict[str, Literal["double", "string"]]:
    """Return the names of the columns and their types, in order."""
    if task == "regression" or target is None:
        return dict.fromkeys((PREDICTION, *ENDS) if intervals else (PREDICTION,), "double")
    return {PREDICTION: "string", **{f"probability_{label}": "double" for label in target.values}}


def named(
    task: str,
    target: Feature | None,
    figures: np.ndarray[Any, np.dtype[np.float64]],
    operating: OperatingPoint | None = None,
) -> pa.Table:
    """Return a model's figures as named columns: [rows], [rows, 3] with intervals, or [rows, classes] probabilities.

    `operating`: how one of two classes is chosen.
    """
    import numpy as np
    import pyarrow as pa

    names = list(columns(task, target, intervals=figures.ndim == 2))
    if task == "regression" or target is None:
        parts = figures.T if figures.ndim == 2 else [figures]
        return pa.table([pa.array(part, pa.float64()) for part in parts], names=names)
    unknown = ~np.isfinite(figures).all(axis=1)
    best = pa.array(answered(figures, operating), pa.int64(), mask=unknown)
    labels = pa.array(target.values, pa.string()).take(best)
    return pa.table([labels, *(pa.array(column, pa.float64()) for column in figures.T)], names=names)


def named_rows(
    task: str,
    target: Feature | None,
    figures: np.ndarray[Any, np.dtype[np.float64]],
    operating: OperatingPoint | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of `named` as Python values: faster for a few rows."""
    if task == "regression" or target is None:
        if figures.ndim == 1:
            return [{PREDICTION: figure} for figure in figures.tolist()]
        return [dict(zip((PREDICTION, *ENDS), row, strict=True)) for row in figures.tolist()]
    names, values = list(columns(task, target))[1:], target.values

    def best(row: list[float]) -> str:
        if operating is None:
            return values[row.index(max(row))]
        positive = operating.positive
        return values[positive if row[positive] >= operating.threshold else 1 - positive]

    return [
        {
            PREDICTION: best(row) if all(map(math.isfinite, row)) else None,
            **dict(zip(names, row, strict=True)),
        }
        for row in figures.tolist()
    ]


def figures(predicted: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the predicted figures of named columns, without ends of intervals: [rows], or [rows, classes]."""
    import numpy as np
    import pyarrow as pa

    numbers = [column.to_numpy() for column in predicted.columns if pa.types.is_floating(column.type)]
    is_regression = pa.types.is_floating(predicted.schema.field(PREDICTION).type)
    found: np.ndarray[Any, np.dtype[np.float64]] = numbers[0] if is_regression else np.column_stack(numbers)
    return found


def figures_of(target: Feature, predicted: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return `figures` by the classes of a target: the probability of one that the model does not know is 0."""
    import numpy as np

    if not target.values:
        return figures(predicted)
    none, there = np.zeros(predicted.num_rows), predicted.column_names
    names = [f"probability_{label}" for label in target.values]
    return np.column_stack([predicted[name].to_numpy() if name in there else none for name in names])


def ends(predicted: pa.Table) -> tuple[np.ndarray[Any, np.dtype[np.float64]], ...]:
    """Return the lower and upper ends of the intervals, [rows] each; nothing of a table without intervals."""
    return tuple(predicted[name].to_numpy() for name in ENDS if name in predicted.column_names)
