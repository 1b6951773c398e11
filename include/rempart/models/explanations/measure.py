"""Measure everything that explains a model on held-out rows, in bounded time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.models.explanations import dependence, segments
from rempart.models.explanations.figures import Explanations
from rempart.models.explanations.importance import importance, shuffled_losses
from rempart.models.explanations.losses import Predict

if TYPE_CHECKING:
    import pyarrow as pa


def explain(
    predict: Predict,
    features: Sequence[Feature],
    target: Feature,
    matrix: Any,
    truth: Any,
    predicted: Any,
    times: pa.ChunkedArray | None,
    seed: int,
) -> Explanations:
    """Return the explanations of a model.

    matrix: float32 [n, matrix columns], truth: [n] and predicted: [n] or [n, classes], of held-out rows; times: their
    dates or instants. The same seed gives the same numbers. Predicts at most about 100,000 rows with up to 250
    features. Raises TrainingError if the model predicts no finite number for a combination of their values.
    """
    task = "classification" if target.values else "regression"
    predict = partial(_finite, predict)
    shuffled = shuffled_losses(predict, features, matrix, truth, task, seed)
    found = importance(features, shuffled)
    order = [each.feature for each in found]
    rows = segments.Predicted(features, task, truth, predicted, shuffled, order)
    return Explanations(
        "mae" if task == "regression" else "log_loss",
        len(matrix),
        len(shuffled.chosen),
        shuffled.shuffled.shape[1],
        target.values,
        found,
        dependence.dependence(predict, features, order[: dependence.SHOWN], matrix, seed),
        None if times is None else segments.over_time(rows, times),
        segments.of_features(rows, matrix),
    )


def _finite(predict: Predict, matrix: Any) -> Any:
    import numpy as np

    found = predict(matrix)
    if not np.isfinite(found).all():
        raise TrainingError(
            "explain the model: it predicts no finite number for a combination of values of the held-out rows",
            "Check trainer.params (the learning rate may be too high) and the trainer's code.",
        )
    return found
