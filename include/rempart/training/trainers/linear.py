"""The linear trainer: ridge or logistic regression on scaled inputs, by scikit-learn.

A null is replaced by the column's mean and marked by a column of its own, as `tabular_network` does; as ONNX the model
is a network without hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.training.trainers import constraints, parameters
from rempart.training.trainers.built_in import BuiltIn
from rempart.training.trainers.network import conversion
from rempart.training.trainers.parameters import Number, Rule

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

RULES: dict[str, dict[str, Rule]] = {
    "regression": {"alpha": Number(1e-6, 1e12)},
    "classification": {"C": Number(1e-9, 1e9), "max_iter": Number(1, 1_000_000, whole=True), **constraints.WEIGHTS},
}
"""Parameters of each task, as scikit-learn's Ridge and LogisticRegression name them."""
MAX_ITER = 1000


@dataclass(frozen=True)
class Linear:
    """A fitted model. `weights` [outputs, statistics.width] and `bias` [outputs], float64, of standardised inputs."""

    statistics: conversion.Scaling
    weights: Any
    bias: Any
    task: str

    def to_onnx(self) -> bytes:
        import numpy as np

        return conversion.convert(
            self.statistics, [(self.weights.astype(np.float32), self.bias.astype(np.float32))], self.task
        )

    def predict(self, inputs: Any) -> Any:
        """Return predictions in float64: [n] in the target's unit, or probabilities [n, classes]."""
        import numpy as np

        values = conversion.standardised(inputs, self.statistics).astype(np.float64) @ self.weights.T + self.bias
        if self.task == "regression":
            return values[:, 0] * self.statistics.target_scale + self.statistics.target_mean
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    constraints.check_values("linear", RULES, params, task)


def fit(
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    classes: int,
    run: TrainingRun | None = None,
) -> Linear:
    """Return a fitted model. inputs: float32 [n, k], NaN for null; target: [n], class positions for a classification.

    Nothing is drawn at random. Raises TrainingError if a class has no row, a feature is infinite, or the fit does not
    converge.
    """
    import numpy as np

    check(params, task)
    if np.isinf(inputs).any():
        raise TrainingError(
            "fit linear: a feature is infinite, or too large for float32",
            "Add an expectation that quarantines such rows, or leave the feature out.",
        )
    statistics = conversion.scaling(inputs, target, task)
    scaled = conversion.standardised(inputs, statistics).astype(np.float64)
    made = _regression if task == "regression" else _classification
    weights, bias = made(scaled, target, params, statistics, classes)
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise TrainingError(
            "fit linear: its weights are not finite", "Raise trainer.params.alpha, or check the features."
        )
    return Linear(statistics, weights, bias, task)


def _regression(
    scaled: Any, target: Any, params: Mapping[str, Any], statistics: conversion.Scaling, _: int
) -> tuple[Any, Any]:
    import numpy as np
    from sklearn.linear_model import Ridge

    # it solves for as many unknowns as there are columns, so memory does not grow with the rows
    model = Ridge(alpha=float(params.get("alpha", 1.0)), solver="cholesky")
    model.fit(scaled, (target - statistics.target_mean) / statistics.target_scale)
    return model.coef_.reshape(1, -1), np.atleast_1d(model.intercept_)


def _classification(
    scaled: Any, target: Any, params: Mapping[str, Any], _: conversion.Scaling, classes: int
) -> tuple[Any, Any]:
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    constraints.require_classes(target, classes)
    iterations = int(params.get("max_iter", MAX_ITER))
    model = LogisticRegression(C=float(params.get("C", 1.0)), max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(scaled, target, sample_weight=constraints.row_weights(params, target, classes))
        except ConvergenceWarning:
            raise TrainingError(
                f"fit linear: it did not converge in {iterations} iterations",
                "Raise trainer.params.max_iter, or lower C.",
            ) from None
    if classes > 2:
        return model.coef_, model.intercept_
    # two classes have one row of weights, of the second class; the first one's log-odds are 0
    return np.vstack([np.zeros_like(model.coef_), model.coef_]), np.array([0.0, float(model.intercept_[0])])


TRAINER = BuiltIn(
    fit,
    check,
    lambda task: parameters.schema(RULES[task]),
    modules=("constraints.py", "linear.py", "network/conversion.py", "parameters.py"),
    libraries=("numpy", "scipy", "scikit-learn", "onnx"),
    check_features=constraints.check,
)
