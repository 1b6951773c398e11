"""The built-in trainer: gradient-boosted trees for tables, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rempart.errors import TrainingError

_NUMBER, _WHOLE = (int, float), (int,)
_SHARED: dict[str, tuple[type, ...]] = {
    "max_iter": _WHOLE,
    "learning_rate": _NUMBER,
    "max_leaf_nodes": _WHOLE,
    "max_depth": _WHOLE,
    "min_samples_leaf": _WHOLE,
    "l2_regularization": _NUMBER,
    "max_features": _NUMBER,
    "max_bins": _WHOLE,
}
PARAMS: dict[str, dict[str, tuple[type, ...]]] = {
    "regression": {**_SHARED, "loss": (str,), "quantile": _NUMBER},
    "classification": _SHARED,
}
"""Parameters of each task, as scikit-learn's HistGradientBoosting* names them."""
LOSSES = ("squared_error", "absolute_error", "quantile")


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown or of another type."""
    known = PARAMS[task]
    for name, value in params.items():
        if name not in known:
            raise TrainingError(
                f"gradient_boosting has no parameter '{name}' for a {task}",
                f"Use one of: {', '.join(sorted(known))}, leave_out.",
            )
        if isinstance(value, bool) or not isinstance(value, known[name]):
            wanted = " or ".join({int: "a whole number", float: "a number", str: "a word"}[t] for t in known[name])
            raise TrainingError(f"gradient_boosting: '{name}' must be {wanted}", "Correct trainer.params.")
    if params.get("loss", LOSSES[0]) not in LOSSES:
        raise TrainingError(
            f"gradient_boosting: 'loss' is not one of {', '.join(LOSSES)}", "Correct trainer.params.loss."
        )


def fit(inputs: Any, target: Any, params: Mapping[str, Any], seed: int, task: str) -> Any:
    """A fitted estimator. inputs: float32 [n, k], NaN for null; target: [n].

    It learns from the rows it is given alone: no early stopping, so nothing is held back or looked at. Raises
    TrainingError.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    check(params, task)
    made = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    try:
        return made(**params, early_stopping=False, random_state=seed).fit(inputs, target)
    except ValueError as cause:  # scikit-learn's parameter errors name the parameter and its range, never data
        text = str(cause).splitlines()[0][:300] if "parameter of" in str(cause) else type(cause).__name__
        raise TrainingError(f"gradient_boosting could not be fitted: {text}", "Correct trainer.params.") from cause
