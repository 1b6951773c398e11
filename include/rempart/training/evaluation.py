"""Measure a model on held-out rows, in the platform's own process: the job that trained it has none of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.models import metrics
from rempart.models.encoding import Feature, encode
from rempart.models.explanations.measure import explain
from rempart.models.gates import measures
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.intervals.figures import covered
from rempart.settings.gates.gate import Gate
from rempart.training import plots
from rempart.training.job import JobSpec

if TYPE_CHECKING:
    import pyarrow as pa

EXPLANATIONS = "explanations.json"
"""File with what explains the model: aggregates of many held-out rows, as `models.explanations.figures` reads them."""


@dataclass(frozen=True)
class HeldOutFigures:
    """Worth of a model on `rows` held-out rows. `files`: EXPLANATIONS and plots, without a row's values."""

    metrics: dict[str, float]
    rows: int
    files: dict[str, bytes]


def measure(
    spec: JobSpec,
    features: Sequence[Feature],
    predict: Callable[[Any], Any],
    rows: pa.Table,
    gate: Gate,
    time: str | None = None,
    bounded: Callable[[Any], Any] | None = None,
    operating: OperatingPoint | None = None,
) -> HeldOutFigures:
    """Return the figures of a job's model: the metrics that are always computed, and those of the gate.

    `features`: those that the model sees; `predict`: from a float32 matrix to figures, as `models.loading` gives it;
    `time`: column of dates or instants by which errors are told; `bounded`: as `predict`, with the ends of intervals,
    [n, 3], None for a model without intervals; `operating`: how it answers with one of two classes. Raises
    TrainingError, also if a metric is not a finite number; ModelRefused.
    """
    target = spec.target.feature()
    matrix, truth = encode(features, rows), metrics.target_values(target, rows)
    predicted = predict(matrix)
    how = measures.of_gate(gate, spec.task, target.values, operating)
    measured = measures.score(how, gate.metrics(), truth, predicted)
    if bounded is not None:
        measured |= covered(truth, *bounded(matrix).T[1:])
    for name, value in measured.items():
        if name in metrics.ALWAYS[spec.task] and not math.isfinite(value):
            raise TrainingError(
                f"check the model: its {name} on the held-out rows is not a number",
                "Check trainer.params (the learning rate may be too high) and the trainer's code.",
            )
    times = rows.column(time) if time in rows.column_names else None
    found = explain(predict, features, target, matrix, truth, predicted, times, spec.trainer.seed)
    files = {
        EXPLANATIONS: found.to_json(),
        "importance.png": plots.importance(found.importance, found.metric),
        "predicted_vs_actual.png": plots.predicted_vs_actual(truth, predicted, target.name)
        if spec.task == "regression"
        else plots.reliability(truth, predicted, target.name, target.values),
    }
    # a metric of the gate that is undefined, such as `roc_auc` without a row of a class, is refused there
    return HeldOutFigures({k: v for k, v in measured.items() if math.isfinite(v)}, rows.num_rows, files)
