"""Measure a job's model on the held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature

SAMPLE = 1000
"""At most this many held-out rows are used to measure a feature's importance."""


def permutation_importance(
    body: bytes, features: Sequence[Feature], matrix: Any, truth: Any, task: str, classes: int, seed: int
) -> dict[str, float]:
    """Return per feature how much mae (log_loss) rises when the feature's columns are shuffled together.

    matrix: float32 [n, matrix columns] of held-out rows; truth: [n]. The same seed gives the same numbers.
    """
    import numpy as np

    session = onnx_format.open_session(body)
    metric = "mae" if task == "regression" else "log_loss"
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(matrix))[:SAMPLE]
    matrix, truth = matrix[chosen], truth[chosen]
    usual = metrics.score(task, truth, onnx_format.run(session, matrix, task, classes))[metric]
    result, start = {}, 0
    for feature in features:
        stop = start + len(feature.columns())
        shuffled = matrix.copy()
        shuffled[:, start:stop] = matrix[random.permutation(len(matrix)), start:stop]
        result[feature.name] = (
            metrics.score(task, truth, onnx_format.run(session, shuffled, task, classes))[metric] - usual
        )
        start = stop
    return result
