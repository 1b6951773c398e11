"""Measure a model on held-out rows, in the platform's own process: the job that trained it has none of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import TrainingError
from rempart.models import metrics
from rempart.models.encoding import Feature, encode
from rempart.models.gates import measures
from rempart.settings.gates.gate import Gate
from rempart.training import plots
from rempart.training.job import JobSpec

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE = 1000
"""At most this many held-out rows are used to measure a feature's importance."""


@dataclass(frozen=True)
class HeldOutFigures:
    """What a model is worth on held-out rows, `rows` of them. `files`: importance and plots, without a row's values."""

    metrics: dict[str, float]
    rows: int
    files: dict[str, bytes]


def measure(
    spec: JobSpec, features: Sequence[Feature], predict: Callable[[Any], Any], rows: pa.Table, gate: Gate
) -> HeldOutFigures:
    """Return the figures of a job's model: the metrics that are always computed, and those of the gate.

    `features`: those that the model sees; `predict`: from a float32 matrix to figures, as `models.loading` gives it.
    Raises TrainingError, also if a metric is not a finite number; ModelRefused.
    """
    target = spec.target.feature()
    matrix, truth = encode(features, rows), metrics.target_values(target, rows)
    predicted = predict(matrix)
    measured = measures.score(measures.of_gate(gate, spec.task, target.values), gate.metrics(), truth, predicted)
    for name, value in measured.items():
        if name in metrics.ALWAYS[spec.task] and not math.isfinite(value):
            raise TrainingError(
                f"check the model: its {name} on the held-out rows is not a number",
                "Check trainer.params (the learning rate may be too high) and the trainer's code.",
            )
    shares = permutation_importance(predict, features, matrix, truth, spec.task, spec.trainer.seed)
    files = {
        "importance.json": canonical_json.encode(shares),
        "importance.png": plots.importance(shares, "mae" if spec.task == "regression" else "log_loss"),
        "predicted_vs_actual.png": plots.predicted_vs_actual(truth, predicted, target.name)
        if spec.task == "regression"
        else plots.reliability(truth, predicted, target.name, target.values),
    }
    # a metric of the gate that is undefined, such as `roc_auc` without a row of a class, is refused there
    return HeldOutFigures({k: v for k, v in measured.items() if math.isfinite(v)}, rows.num_rows, files)


def permutation_importance(
    predict: Callable[[Any], Any], features: Sequence[Feature], matrix: Any, truth: Any, task: str, seed: int
) -> dict[str, float]:
    """Return per feature how much mae (log_loss) rises when the feature's columns are shuffled together.

    predict: from a matrix to figures; matrix: float32 [n, matrix columns] of held-out rows; truth: [n]. The same seed
    gives the same numbers.
    """
    import numpy as np

    metric = "mae" if task == "regression" else "log_loss"
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(matrix))[:SAMPLE]
    matrix, truth = matrix[chosen], truth[chosen]
    usual = metrics.score(task, truth, predict(matrix))[metric]
    result, start = {}, 0
    for feature in features:
        stop = start + len(feature.columns())
        shuffled = matrix.copy()
        shuffled[:, start:stop] = matrix[random.permutation(len(matrix)), start:stop]
        result[feature.name] = metrics.score(task, truth, predict(shuffled))[metric] - usual
        start = stop
    return result
