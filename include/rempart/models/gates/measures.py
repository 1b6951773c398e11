"""Compute metrics by name, with scikit-learn where it has them. Pure and deterministic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rempart.models import metrics
from rempart.models.gates.thresholds import OperatingPoint, answered
from rempart.settings.gates.gate import Gate

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

BANDS = 10
"""Bands of about as many rows in which chances are compared with observed shares."""


@dataclass(frozen=True)
class Measures:
    """How predictions are measured.

    `classes`: of a classification, 0 of a regression; `positive`: the class that is looked for, of two. `cost`: of a
    false positive and a false negative, or of a unit too low and too high. `operating`: how rows of two classes are
    answered; None: with the most probable class.
    """

    task: str
    classes: int = 0
    positive: int | None = None
    cost: tuple[float, float] | None = None
    beta: float = 1.0
    quantile: float = 0.5
    operating: OperatingPoint | None = None

    def looked_for(self) -> tuple[int, ...]:
        """Return the classes over which a metric of one class against the rest is averaged."""
        return (self.positive,) if self.positive is not None else tuple(range(self.classes))

    def chosen(self, predicted: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the class of each row, as it is served."""
        return answered(predicted, self.operating)

    def value(self, name: str, truth: Floats, predicted: Floats) -> float:
        """Return a metric; NaN where it is undefined, such as `roc_auc` without a row of a class.

        truth: [n]; predicted: [n], or [n, classes] probabilities.
        """
        import numpy as np

        if name in metrics.ALWAYS[self.task]:
            return metrics.score(self.task, truth, predicted)[name]
        if not len(truth) or not np.isfinite(predicted).all():
            return math.nan
        return float(_VALUES[name](self, truth, predicted))


def of_gate(gate: Gate, task: str, classes: tuple[str, ...], operating: OperatingPoint | None = None) -> Measures:
    """Return how a gate's metrics are computed for a target with these classes (none for a regression).

    `operating`: of the model that is measured.
    """
    positive = None
    if task == "classification" and len(classes) == 2:
        positive = classes.index(gate.positive) if gate.positive in classes else 1
    return Measures(
        task, len(classes), positive, gate.cost.pair if gate.cost else None, gate.beta, gate.quantile, operating
    )


def of_baseline(measures: Measures) -> Measures:
    """Return how a naive baseline is measured beside a model: with an operating point, if the model has one.

    Its chances are shares of classes, so that the threshold follows from the costs alone (Elkan, "The Foundations of
    Cost-Sensitive Learning", IJCAI 2001, equation 2).
    """
    if measures.operating is None or measures.positive is None or not measures.cost or not sum(measures.cost):
        return measures
    threshold = measures.cost[0] / sum(measures.cost)
    return replace(measures, operating=OperatingPoint(positive=measures.positive, threshold=threshold))


def score(measures: Measures, names: Iterable[str], truth: Floats, predicted: Floats) -> dict[str, float]:
    """Return the metrics that are always computed, and those named."""
    found = metrics.score(measures.task, truth, predicted)
    return found | {name: measures.value(name, truth, predicted) for name in names if name not in found}


def bands(chance: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the band of each row, from 0: about as many rows in each, and equal chances in the same one."""
    import numpy as np

    edges = np.unique(np.quantile(chance, np.linspace(0, 1, BANDS + 1)[1:-1])) if len(chance) else chance
    return np.asarray(np.searchsorted(edges, chance, side="left"), np.int64)


def _mape(_: Measures, truth: Floats, predicted: Floats) -> float:
    from sklearn.metrics import mean_absolute_percentage_error

    return float(mean_absolute_percentage_error(truth, predicted)) if truth.all() else math.nan


def _smape(_: Measures, truth: Floats, predicted: Floats) -> float:
    return float(smape_terms(truth, predicted).mean())


def smape_terms(truth: Floats, predicted: Floats) -> Floats:
    """Return twice the error over both amounts for each row; 0 where both are 0."""
    import numpy as np

    both = np.abs(truth) + np.abs(predicted)
    found: Floats = np.divide(2 * np.abs(predicted - truth), both, out=np.zeros(len(both)), where=both > 0)
    return found


def _r2(_: Measures, truth: Floats, predicted: Floats) -> float:
    import numpy as np
    from sklearn.metrics import r2_score

    return float(r2_score(truth, predicted)) if len(truth) > 1 and np.min(truth) < np.max(truth) else math.nan


def _pinball(measures: Measures, truth: Floats, predicted: Floats) -> float:
    from sklearn.metrics import mean_pinball_loss

    return float(mean_pinball_loss(truth, predicted, alpha=measures.quantile))


def _cost(measures: Measures, truth: Floats, predicted: Floats) -> float:
    if measures.cost is None or (measures.task == "classification" and measures.positive is None):
        return math.nan
    return float(cost_terms(measures, truth, predicted).mean())


def cost_terms(measures: Measures, truth: Floats, predicted: Floats) -> Floats:
    """Return the cost of each row."""
    import numpy as np

    first, second = measures.cost or (math.nan, math.nan)
    if measures.task == "regression":
        error = predicted - truth
        return np.where(error < 0, -error * first, error * second)
    is_positive, taken = truth == measures.positive, measures.chosen(predicted) == measures.positive
    return np.asarray(first * (taken & ~is_positive) + second * (is_positive & ~taken), np.float64)


def _balanced(measures: Measures, truth: Floats, predicted: Floats) -> float:
    from sklearn.metrics import recall_score

    found = recall_score(
        truth, measures.chosen(predicted), labels=range(measures.classes), average="macro", zero_division=math.nan
    )
    return float(found) if len(set(truth.tolist())) == measures.classes else math.nan


def _one_against_rest(metric: str) -> Callable[[Measures, Floats, Floats], float]:
    def value(measures: Measures, truth: Floats, predicted: Floats) -> float:
        import numpy as np
        from sklearn import metrics as sklearn_metrics

        found = []
        for each in measures.looked_for():
            is_it = truth == each
            if is_it.all() or not is_it.any():
                return math.nan
            found.append(getattr(sklearn_metrics, metric)(is_it, predicted[:, each]))
        return float(np.mean(found))

    return value


def _f(by_beta: bool) -> Callable[[Measures, Floats, Floats], float]:
    def value(measures: Measures, truth: Floats, predicted: Floats) -> float:
        import numpy as np
        from sklearn.metrics import fbeta_score

        beta = measures.beta if by_beta else 1.0
        labels, chosen = list(measures.looked_for()), measures.chosen(predicted)
        scores = fbeta_score(truth, chosen, beta=beta, labels=labels, average=None, zero_division=math.nan)
        return float(np.mean(scores))

    return value


def _brier(measures: Measures, truth: Floats, predicted: Floats) -> float:
    return float(brier_terms(measures, truth, predicted).mean())


def brier_terms(measures: Measures, truth: Floats, predicted: Floats) -> Floats:
    """Return the squared error of each row: of two classes that of one, otherwise the sum over the classes."""
    import numpy as np

    found: Floats = np.sum([(predicted[:, each] - (truth == each)) ** 2 for each in measures.looked_for()], axis=0)
    return found


def _calibration(measures: Measures, truth: Floats, predicted: Floats) -> float:
    import numpy as np

    errors = []
    for each in measures.looked_for():
        chance, band = predicted[:, each], bands(predicted[:, each])
        gaps = np.bincount(band, weights=chance - (truth == each))
        errors.append(np.abs(gaps).sum() / len(truth))
    return float(np.mean(errors))


_VALUES: Mapping[str, Callable[[Measures, Floats, Floats], float]] = {
    "mape": _mape,
    "smape": _smape,
    "r2": _r2,
    "pinball": _pinball,
    "cost": _cost,
    "balanced_accuracy": _balanced,
    "roc_auc": _one_against_rest("roc_auc_score"),
    "pr_auc": _one_against_rest("average_precision_score"),
    "f1": _f(by_beta=False),
    "f_beta": _f(by_beta=True),
    "brier": _brier,
    "calibration_error": _calibration,
}
"""Metrics that are computed where a gate names them."""
