"""The built-in trainer: gradient-boosted trees for tables, by scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.settings.evaluation.splits import EARLY_STOPPING
from rempart.training.trainers.built_in import BuiltIn, Validation

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

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
    EARLY_STOPPING: _WHOLE,
}
PARAMS: dict[str, dict[str, tuple[type, ...]]] = {
    "regression": {**_SHARED, "loss": (str,), "quantile": _NUMBER},
    "classification": _SHARED,
}
"""Parameters of each task, as scikit-learn's HistGradientBoosting* names them; and after how many iterations without a
smaller loss on the validation part it stops.
"""
RANGES: dict[str, tuple[float, float]] = {
    "max_iter": (1, 1_000_000),
    "learning_rate": (1e-9, 1_000),
    "max_leaf_nodes": (2, 1_000_000),
    "max_depth": (1, 1_000_000),
    "min_samples_leaf": (1, 1_000_000_000),
    "l2_regularization": (0, 1e12),
    "max_features": (1e-9, 1),
    "max_bins": (2, 255),
    "quantile": (0, 1),
    EARLY_STOPPING: (1, 1_000_000),
}
"""The least and the greatest value of each number, within what scikit-learn takes."""
LOSSES = ("squared_error", "absolute_error", "quantile")


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    known = PARAMS[task]
    for name, value in params.items():
        if name not in known:
            raise TrainingError(
                f"gradient_boosting has no parameter '{name}' for a {task}",
                f"Use a known parameter: {', '.join(sorted(known))}, leave_out.",
            )
        if isinstance(value, bool) or not isinstance(value, known[name]):
            wanted = " or ".join({int: "a whole number", float: "a number", str: "a word"}[t] for t in known[name])
            raise TrainingError(f"gradient_boosting: '{name}' must be {wanted}", "Correct trainer.params.")
        least, most = RANGES.get(name, (0, 0))
        if isinstance(value, int | float) and not least <= value <= most:
            raise TrainingError(
                f"gradient_boosting: '{name}' must be from {least:g} to {most:g}", f"Correct trainer.params.{name}."
            )
    if params.get("loss", LOSSES[0]) not in LOSSES:
        raise TrainingError(
            f"gradient_boosting: 'loss' must be one of {', '.join(LOSSES)}", "Correct trainer.params.loss."
        )
    if (params.get("loss") == "quantile") != ("quantile" in params):
        raise TrainingError(
            "gradient_boosting: 'quantile' and the loss 'quantile' belong together", "Set both, or neither."
        )


def schema(task: str) -> dict[str, Any]:
    """Return the JSON Schema of the parameters, by name."""
    numbers = {
        name: {"type": "integer" if types == _WHOLE else "number", "minimum": least, "maximum": most}
        for name, types in PARAMS[task].items()
        for least, most in [RANGES.get(name, (0, 0))]
    }
    return numbers | ({"loss": {"type": "string", "enum": list(LOSSES)}} if "loss" in numbers else {})


def fit(
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    classes: int,
    run: TrainingRun | None = None,
    validation: Validation | None = None,
) -> Any:
    """Return a fitted estimator. inputs: float32 [n, k], NaN for null; target: [n]. It counts the classes itself.

    It learns only from the given rows: scikit-learn's own early stopping would hold back random ones. With `validation`
    and early_stopping_rounds it has the iterations with the smallest loss on these rows, and chooses their number. With
    `run`, it continues from the job's checkpoint and stores more checkpoints. The estimator is the same after any
    interruption. Raises TrainingError.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    check(params, task)
    made = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    own = {name: value for name, value in params.items() if name != EARLY_STOPPING}
    model = made(**own, early_stopping=False, random_state=seed)
    watched = validation is not None and (EARLY_STOPPING in params or validation.watched)
    patience = _Patience(params.get(EARLY_STOPPING), validation) if validation and watched else None
    try:
        if run is None and patience is None:
            return model.fit(inputs, target)
        return _fit_in_steps(model, inputs, target, run, patience)
    except ValueError as cause:  # scikit-learn's parameter errors name the parameter and its range, never data
        text = str(cause).splitlines()[0][:300] if "parameter of" in str(cause) else type(cause).__name__
        raise TrainingError(f"fit gradient_boosting: {text}", "Correct trainer.params.") from cause


class _Enough(Exception):
    """Ends scikit-learn's loop between two iterations."""


class _Patience:
    """Losses of a growing model on the validation part, and when to stop: `rounds` iterations without a smaller one
    (None: not for that), or where the order of a search's trial ends it.

    They follow from the trees alone, so that an attempt which continues sees the same.
    """

    def __init__(self, rounds: int | None, validation: Validation) -> None:
        import numpy as np

        self._rounds, self._validation = rounds, validation
        self._inputs = np.asarray(validation.inputs, np.float64)
        self._losses: list[float] = []
        self._raw: Any = None

    def over(self, model: Any) -> bool:
        """Measure the iterations since the last call; return whether the training ends."""
        import numpy as np
        from sklearn.base import is_classifier
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        truth = self._validation.target
        if is_classifier(model):
            if not np.isin(truth, model.classes_).all():
                raise TrainingError(
                    "stop gradient_boosting early: a class of the validation part has no row to fit on",
                    "Set `validation` so that both parts have each class, such as `stratify: target`.",
                )
            truth = np.searchsorted(model.classes_, truth).astype(np.float64)
        if self._raw is None:
            self._raw = np.zeros((len(truth), model.n_trees_per_iteration_), np.float64, order="F")
            self._raw += model._baseline_prediction
        for trees in model._predictors[len(self._losses) :]:
            model._predict_iterations(self._inputs, [trees], self._raw, False, _openmp_effective_n_threads())
            raw = self._raw[:, 0] if self._raw.shape[1] == 1 else self._raw
            self._losses.append(float(model._loss(truth, raw)))
            done = len(self._losses)
            hopeless = self._validation.hopeless(done, min(self._losses))
            if hopeless or (self._rounds is not None and done - self._best() >= self._rounds):
                return True
        return False

    def _best(self) -> int:
        """Return the first number of iterations with the smallest loss; all of them without early stopping."""
        if self._rounds is None:
            return len(self._losses)
        return self._losses.index(min(self._losses)) + 1

    def keep_best(self, model: Any) -> None:
        """Take the iterations after the best away, and choose the number of those that stay."""
        self.over(model)
        model._predictors = model._predictors[: self._best()]
        if self._rounds is not None:
            self._validation.choose(max_iter=self._best())


def _fit_in_steps(model: Any, inputs: Any, target: Any, run: TrainingRun | None, patience: _Patience | None) -> Any:
    """Fit as scikit-learn does, and look at `run` and `patience` between two iterations."""
    steps, done = model.max_iter, 0
    if run is not None and (arrays := run.resume()) is not None:
        model.set_params(warm_start=True, max_iter=1).fit(inputs, target)
        _restore(model, arrays)
        run.computed_again(1)
        done = int(model.n_iter_)
    model.set_params(max_iter=steps)
    if done < steps and not (done and patience is not None and patience.over(model)):
        _watch(model, steps, done, run, patience)
        try:
            model.fit(inputs, target)
        except _Enough:
            del model._in_fit  # as at the end of `fit`: predictions are then made of rows, not of bins
        del model._get_loss
    if run is not None:
        reached = len(model._predictors)
        run.progress(reached, reached)
        run.checkpoint(reached, partial(_state, model))
    if patience is not None:
        patience.keep_best(model)
    return model.set_params(warm_start=False)


def _watch(model: Any, steps: int, done: int, run: TrainingRun | None, patience: _Patience | None) -> None:
    """Call `run` and `patience` before each iteration except the first of the next fit.

    An iteration begins with the loss's gradients at the current raw predictions, the only uncompiled call: scikit-learn
    has no callback there. At that moment the trees of all earlier iterations are complete.
    """
    made = type(model)._get_loss

    def get_loss(sample_weight: Any) -> Any:
        loss = made(model, sample_weight)

        def watched(gradients: Callable[..., Any]) -> Callable[..., Any]:
            def compute(*, y_true: Any, raw_prediction: Any, **more: Any) -> Any:
                if (step := len(model._predictors)) > done:
                    if run is not None:
                        run.progress(step, steps, lambda: float(loss(y_true, raw_prediction)))
                        run.checkpoint(step, partial(_state, model))
                    if patience is not None and patience.over(model):
                        raise _Enough
                return gradients(y_true=y_true, raw_prediction=raw_prediction, **more)

            return compute

        loss.gradient, loss.gradient_hessian = watched(loss.gradient), watched(loss.gradient_hessian)
        return loss

    model._get_loss = get_loss


def _state(model: Any) -> dict[str, Any]:
    """Return the trees in order, and the state of the generator that draws features."""
    import numpy as np

    trees = [tree.nodes for iteration in model._predictors for tree in iteration]
    drawn = json.dumps(model._feature_subsample_rng.bit_generator.state).encode()
    return {
        "nodes": np.concatenate(trees),
        "lengths": np.array([len(nodes) for nodes in trees], np.int64),
        "trees_per_iteration": np.array(len(model._predictors[0]), np.int64),
        "generator": np.frombuffer(drawn, np.uint8),
    }


def _restore(model: Any, arrays: Mapping[str, Any]) -> None:
    """Replace the trees of a model that was fitted for one iteration on the same rows by stored trees.

    That iteration restored everything else: bins, baseline and seed follow from rows, parameters and seed. Without
    categorical splits a tree consists of its nodes, and without early stopping there are no scores.
    """
    import numpy as np

    template = model._predictors[0][0]
    width = int(arrays["trees_per_iteration"])
    nodes = arrays["nodes"]
    if nodes.dtype != template.nodes.dtype or width != len(model._predictors[0]) or len(arrays["lengths"]) % width:
        raise TrainingError(
            "continue gradient_boosting: the checkpoint's trees are from another version of scikit-learn",
            "Run the job with the package (image) of the version that ordered it.",
        )
    none = (template.binned_left_cat_bitsets[:0], template.raw_left_cat_bitsets[:0])
    trees = [type(template)(part.copy(), *none) for part in np.split(nodes, np.cumsum(arrays["lengths"])[:-1])]
    model._predictors = [trees[start : start + width] for start in range(0, len(trees), width)]
    model._feature_subsample_rng.bit_generator.state = json.loads(arrays["generator"].tobytes())


TRAINER = BuiltIn(
    fit,
    check,
    schema,
    modules=("gradient_boosting.py", "tree_conversion.py"),
    libraries=("numpy", "scikit-learn", "onnx"),
)
