"""Metrics of predictions, and the naive baselines that a model must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.settings.gates.metrics import BY_ROW

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

ALWAYS = BY_ROW
"""Metrics of each task that `score` returns."""
_SMALLEST = 1e-15


def target_values(target: Feature, table: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the target [rows]: the number itself, or the position of the class in `target.values`.

    Raises TrainingError if a row has none, or a class outside the closed list.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(target.name).combine_chunks()
    if target.values:
        column = pc.index_in(class_names(column), value_set=pa.array(target.values, pa.string()))
    values: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(
        column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64
    )
    if missing := int((~np.isfinite(values)).sum()):
        raise TrainingError(
            f"compute metrics: no usable value of the target '{target.name}' in {counted(missing, 'row')}",
            "Add an expectation that quarantines them, or declare the missing class in `values`.",
        )
    return values


def class_names(column: Any) -> Any:
    """Return a class column as strings; booleans as `false` and `true`."""
    import pyarrow as pa

    return column.cast(pa.string())


def score(task: str, truth: Any, predicted: Any) -> dict[str, float]:
    """Return `mae` and `rmse` in the target's unit, or `log_loss` (nats) and `accuracy` (share).

    truth: [n]; predicted: [n], or [n, classes] probabilities. No metric is finite if a prediction is not: the gate
    refuses such a metric.
    """
    import numpy as np

    if task == "regression":
        error = predicted - truth
        return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    if not np.isfinite(predicted).all():  # clipped, an infinite probability would be a sure one
        return {"log_loss": float("nan"), "accuracy": float("nan")}
    classes = truth.astype(int)
    chosen = predicted[np.arange(len(classes)), classes]
    right = (predicted.argmax(axis=1) == classes).mean()
    return {"log_loss": float(-np.log(np.clip(chosen, _SMALLEST, 1.0)).mean()), "accuracy": float(right)}


def group_column(table: pa.Table, grouping: str) -> pa.ChunkedArray:
    """Return a column, or a calendar part of one such as `arrival_date.month`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = {
        "year": pc.year,
        "month": pc.month,
        "week": pc.iso_week,
        "day_of_month": pc.day,
        "day_of_week": pc.day_of_week,
        "day_of_year": pc.day_of_year,
        "hour": pc.hour,
    }
    name, _, part = grouping.partition(".")
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"))  # UTC as it is: calendar functions would look up the zone
    return parts[part](column) if part else column


def group_keys(table: pa.Table, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return each row's baseline group: columns, or calendar parts as `arrival_date.month`."""
    columns = [group_column(table, grouping).to_pylist() for grouping in by]
    return list(zip(*columns, strict=True)) if columns else [()] * table.num_rows


def naive_predictions(
    task: str, target: Feature, by: Sequence[str], train: pa.Table, holdout: pa.Table
) -> tuple[Any, Any]:
    """Return two naive predictions of the held-out rows, learnt from the training rows.

    The first is the group's mean (a class's share, with one more of each class), or that of all training rows for a new
    group; the second the mean (share) of all training rows. Each is [n], or [n, classes].
    """
    import numpy as np

    learnt = target_values(target, train)
    # of a regression the value itself; of a classification one column of 0 and 1 per class
    rows = learnt[:, None] if task == "regression" else np.eye(len(target.values))[learnt.astype(int)]
    extra = 0.0 if task == "regression" else 1.0
    sums: dict[tuple[Any, ...], Any] = {}
    counts: dict[tuple[Any, ...], float] = {}
    for key, row in zip(group_keys(train, by), rows, strict=True):
        sums[key] = sums.get(key, extra * np.ones(rows.shape[1])) + row
        counts[key] = counts.get(key, extra * rows.shape[1]) + 1
    overall = (rows.sum(axis=0) + extra) / (len(rows) + extra * rows.shape[1])
    made = [sums[k] / counts[k] if k in sums else overall for k in group_keys(holdout, by)]
    grouped = np.array(made).reshape(-1, rows.shape[1])
    flat = np.tile(overall, (holdout.num_rows, 1))
    return (grouped[:, 0], flat[:, 0]) if task == "regression" else (grouped, flat)


Score = Callable[[Any, Any], Mapping[str, float]]
"""Metrics by name of true values [n] and predictions, [n] or [n, classes]."""


def baselines(truth: Any, naive: tuple[Any, Any], score: Score) -> dict[str, float]:
    """Return scores of two naive predictions: plain names of the groups', `overall_*` of that of all rows."""
    grouped, flat = naive
    return {**score(truth, grouped), **{f"overall_{name}": value for name, value in score(truth, flat).items()}}
