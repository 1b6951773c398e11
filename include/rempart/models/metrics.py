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


def _groups(tables: Sequence[pa.Table], by: Sequence[str]) -> tuple[list[Any], int]:
    """Return the number of each row's baseline group, [rows] of each table, and how many groups there are.

    It is -1 for a row with NaN: that equals nothing.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = [table.num_rows for table in tables]
    numbers, count, odd = np.zeros(sum(rows), np.int64), 1, np.zeros(sum(rows), bool)
    for grouping in by:
        chunks = [chunk for table in tables for chunk in group_column(table, grouping).chunks]
        column = pa.chunked_array(chunks) if chunks else pa.chunked_array([pa.array([], pa.int64())])
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            odd |= pc.fill_null(pc.is_nan(column), fill_value=False).to_numpy()
            column = pc.add(column, pa.scalar(0, column.type))  # -0 is 0
        encoded = column.combine_chunks().dictionary_encode("encode")
        codes = encoded.indices.to_numpy().astype(np.int64)
        found, numbers = np.unique(numbers * max(1, len(encoded.dictionary)) + codes, return_inverse=True)
        count = len(found)
    numbers[odd] = -1
    return np.split(numbers, np.cumsum(rows)[:-1]), count


def naive_predictions(
    task: str, target: Feature, by: Sequence[str], train: pa.Table, holdout: pa.Table
) -> tuple[Any, Any]:
    """Return two naive predictions of the held-out rows, learnt from the training rows.

    The first is the group's mean (a class's share, with one more of each class), or that of all training rows for a new
    group; the second the mean (share) of all training rows. Each is [n], or [n, classes].
    """
    import numpy as np

    learnt = target_values(target, train)
    (known, asked), groups = _groups([train, holdout], by)
    codes, values = known[known >= 0], learnt[known >= 0]
    sums: Any
    rows: Any = np.bincount(codes, minlength=groups)
    if task == "regression":
        sums, overall = np.bincount(codes, values, groups)[:, None], learnt[:, None].sum(axis=0) / len(learnt)
    else:  # of each class one more
        classes = len(target.values)
        of_class = np.bincount(codes * classes + values.astype(np.int64), minlength=groups * classes)
        sums, rows = of_class.reshape(groups, classes) + 1, rows + classes * (rows > 0)
        overall = (np.bincount(learnt.astype(np.int64), minlength=classes) + 1) / (len(learnt) + classes)
    means = np.where(rows[:, None] > 0, sums / np.maximum(rows, 1)[:, None], overall)
    grouped = np.where(asked[:, None] >= 0, means[asked], overall)
    flat = np.tile(overall, (holdout.num_rows, 1))
    return (grouped[:, 0], flat[:, 0]) if task == "regression" else (grouped, flat)


Score = Callable[[Any, Any], Mapping[str, float]]
"""Metrics by name of true values [n] and predictions, [n] or [n, classes]."""


def baselines(truth: Any, naive: tuple[Any, Any], score: Score) -> dict[str, float]:
    """Return scores of two naive predictions: plain names of the groups', `overall_*` of that of all rows."""
    grouped, flat = naive
    return {**score(truth, grouped), **{f"overall_{name}": value for name, value in score(truth, flat).items()}}
