"""Metrics by name: the task of each, which direction is better, and its unit. `models.gates.measures` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["regression", "classification"]
Metric = Literal[
    "mae",
    "rmse",
    "mape",
    "smape",
    "r2",
    "pinball",
    "log_loss",
    "accuracy",
    "balanced_accuracy",
    "roc_auc",
    "pr_auc",
    "f1",
    "f_beta",
    "brier",
    "calibration_error",
    "cost",
]


@dataclass(frozen=True)
class MetricFacts:
    """What a metric is. A metric of which higher is better is 1 at best; its error is what is left to 1."""

    tasks: tuple[Task, ...]
    lower_is_better: bool
    meaning: str


_REGRESSION: tuple[Task, ...] = ("regression",)
_CLASSIFICATION: tuple[Task, ...] = ("classification",)
FACTS: dict[Metric, MetricFacts] = {
    "mae": MetricFacts(_REGRESSION, True, "mean absolute error, in the target's unit"),
    "rmse": MetricFacts(_REGRESSION, True, "root of the mean squared error, in the target's unit"),
    "mape": MetricFacts(_REGRESSION, True, "mean absolute error as a share of the target; unknown if a target is 0"),
    "smape": MetricFacts(_REGRESSION, True, "mean of twice the error over the sum of both amounts, between 0 and 2"),
    "r2": MetricFacts(_REGRESSION, False, "share of the target's variance that is predicted"),
    "pinball": MetricFacts(_REGRESSION, True, "pinball loss at `gate.quantile`, in the target's unit"),
    "log_loss": MetricFacts(_CLASSIFICATION, True, "mean of minus the logarithm of the true class's probability, nats"),
    "accuracy": MetricFacts(_CLASSIFICATION, False, "share of rows whose most probable class is the true one"),
    "balanced_accuracy": MetricFacts(_CLASSIFICATION, False, "mean over the classes of the share that is found"),
    "roc_auc": MetricFacts(
        _CLASSIFICATION, False, "area under the ROC curve; of several classes the mean of one against the rest"
    ),
    "pr_auc": MetricFacts(
        _CLASSIFICATION, False, "average precision; of several classes the mean of one against the rest"
    ),
    "f1": MetricFacts(_CLASSIFICATION, False, "harmonic mean of precision and recall; of several classes the mean"),
    "f_beta": MetricFacts(_CLASSIFICATION, False, "as `f1`, with recall weighted by `gate.beta`"),
    "brier": MetricFacts(
        _CLASSIFICATION, True, "mean squared error of the probability; of several classes their sum for each row"
    ),
    "calibration_error": MetricFacts(
        _CLASSIFICATION, True, "mean distance of chance and observed share, in ten bands of about as many rows"
    ),
    "cost": MetricFacts((*_REGRESSION, *_CLASSIFICATION), True, "mean cost of a row by `gate.cost`, in its unit"),
}
LOWER_IS_BETTER: dict[str, bool] = {name: facts.lower_is_better for name, facts in FACTS.items()}
METRICS: dict[str, tuple[Metric, ...]] = {
    task: tuple(name for name, facts in FACTS.items() if task in facts.tasks)
    for task in ("regression", "classification")
}
"""Metrics of each task; the gate names those that decide."""
BY_ROW: dict[str, tuple[Metric, ...]] = {"regression": ("mae", "rmse"), "classification": ("log_loss", "accuracy")}
"""Metrics that are always computed: each is made of the mean of a loss by row."""


def by_row(metric: str, task: str) -> Metric:
    """Return a metric if it is made of losses by row, or else the first of its task that is."""
    return next((name for name in BY_ROW[task] if name == metric), BY_ROW[task][0])
