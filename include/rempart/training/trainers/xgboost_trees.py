"""The trainer `xgboost`: gradient-boosted trees by XGBoost, on a CPU or, with a build for CUDA, on a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.settings.evaluation.splits import EARLY_STOPPING
from rempart.training.trainers import constraints, parameters, tree_conversion
from rempart.training.trainers.built_in import BuiltIn, Patience, Validation
from rempart.training.trainers.parameters import Number, Rule, Word
from rempart.training.trainers.tree_conversion import Ensemble, Tree

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

_ROUNDS = "num_boost_round"
_OWN: dict[str, Rule] = {
    _ROUNDS: Number(1, constraints.MOST_ITERATIONS, whole=True),
    "max_depth": Number(1, 64, whole=True),
    "max_leaves": Number(2, 131_072, whole=True),
    "min_child_weight": Number(0, 1e12),
    "gamma": Number(0, 1e12),
    "reg_alpha": Number(0, 1e12),
    "reg_lambda": Number(0, 1e12),
    "subsample": Number(1e-9, 1),
    "colsample_bytree": Number(1e-9, 1),
    "device": Word(("cpu", "cuda")),
}
RULES = constraints.of_trees(_OWN)
"""Parameters of each task, as XGBoost names them; `loss` and `quantile` as gradient_boosting does."""
ROUNDS = 100
_OBJECTIVES = {
    "squared_error": "reg:squarederror",
    "absolute_error": "reg:absoluteerror",
    "quantile": "reg:quantileerror",
}
_OURS = ("loss", "quantile", "class_weight", "increasing", "decreasing", _ROUNDS, EARLY_STOPPING)
"""Parameters that XGBoost does not get as they are."""
_SEEDS = 1 << 31


@dataclass(frozen=True)
class XGBoost:
    """A fitted model: the booster, and the number of the matrix's columns. `classes`: 0 for a regression."""

    booster: Any
    columns: int
    classes: int

    def to_onnx(self) -> bytes:
        learner = json.loads(self.booster.save_raw("json"))["learner"]
        model = learner["gradient_booster"]["model"]
        found = [_tree(tree, target) for tree, target in zip(model["trees"], model["tree_info"], strict=True)]
        base = [float(value) for value in learner["learner_model_param"]["base_score"].strip("[]").split(",")]
        if self.classes == 2:  # it is stored as a probability
            share = min(max(base[0], 1e-7), 1 - 1e-7)
            base = [math.log(share / (1 - share))]
        link = tree_conversion.link_of(self.classes)
        return tree_conversion.to_onnx(Ensemble(found, base, "BRANCH_LT", link), self.columns, self.classes)

    def predict(self, inputs: Any) -> Any:
        """Return XGBoost's own predictions: [n] in the target's unit, or probabilities [n, classes]."""
        import numpy as np

        predicted = self.booster.inplace_predict(inputs)
        return np.column_stack([1 - predicted, predicted]) if self.classes == 2 else predicted


def _tree(nodes: Mapping[str, Any], target: int) -> Tree:
    """Return a tree of XGBoost's JSON: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html.

    A value below the threshold goes left. Both are float32, and the JSON has all digits of them.
    """
    import numpy as np

    left, right = (np.array(nodes[name], np.int64) for name in ("left_children", "right_children"))
    numbers = np.array(nodes["split_conditions"], np.float32)
    leaf = left < 0
    return Tree(
        target,
        np.array(nodes["split_indices"], np.int64),
        numbers,
        left,
        right,
        np.array(nodes["default_left"]),
        leaf,
        np.where(leaf, numbers, np.float32(0)),
    )


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    constraints.check_values("xgboost", RULES, params, task)


def fit(
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    classes: int,
    run: TrainingRun | None = None,
    validation: Validation | None = None,
    features: Sequence[Feature] = (),
) -> XGBoost:
    """Return a fitted model. inputs: float32 [n, k], NaN for null; target: [n], class positions for a classification.

    `features`: whose columns the matrix has. With `run`, the training continues from the job's checkpoint, with the
    same model as without interruption. With `validation` and early_stopping_rounds it has the rounds with the smallest
    loss on these rows, and chooses their number; it stores no checkpoint then. Raises TrainingError.
    """
    import xgboost

    check(params, task)
    classes = classes if task == "classification" else 0
    if classes:
        constraints.require_classes(target, classes)
    settings = _settings(xgboost, params, seed, classes)
    if run is not None:
        run.made_with |= {"xgboost": xgboost.__version__, "device": settings["device"]}
    if signs := constraints.signs(params, features, classes):
        settings["monotone_constraints"] = tuple(signs)
    weights = constraints.row_weights(params, target, classes) if classes else None
    bins = {"max_bin": params["max_bin"]} if "max_bin" in params else {}
    try:
        rows = xgboost.QuantileDMatrix(inputs, target, weight=weights, nthread=settings["nthread"], **bins)
        steps = int(params.get(_ROUNDS, ROUNDS))
        if validation is not None and (EARLY_STOPPING in params or validation.watched):
            truth = validation.target
            weights = constraints.row_weights(params, target, classes, truth) if classes else None
            held = xgboost.QuantileDMatrix(
                validation.inputs, truth, weight=weights, ref=rows, nthread=settings["nthread"], **bins
            )
            patience = Patience(params.get(EARLY_STOPPING), validation)
            booster = _stopped(xgboost, (rows, held), settings, steps, patience, run)
            if EARLY_STOPPING in params:
                validation.choose(num_boost_round=booster.num_boosted_rounds())
        else:
            booster = _train(xgboost, rows, settings, steps, run)
    except (xgboost.core.XGBoostError, ValueError) as cause:
        raise TrainingError(
            f"fit xgboost: {type(cause).__name__}",
            "Correct trainer.params, and check that no feature is infinite or too large for float32.",
        ) from None  # its text may quote data
    return XGBoost(booster, inputs.shape[1], classes)


def _settings(xgboost: Any, params: Mapping[str, Any], seed: int, classes: int) -> dict[str, Any]:
    """Return XGBoost's own parameters. Raises TrainingError if a GPU is wanted, and the build has none."""
    import joblib

    made = {name: value for name, value in params.items() if name not in _OURS}
    if made.setdefault("device", "cpu") == "cuda" and not xgboost.build_info().get("USE_CUDA"):
        raise TrainingError(
            "fit xgboost: device is cuda, but this build of XGBoost knows no CUDA",
            "Run the job in an image that was built with TRAINER=cuda, or set trainer.params.device: cpu.",
        )
    if classes:
        made |= (
            {"objective": "binary:logistic"} if classes == 2 else {"objective": "multi:softprob", "num_class": classes}
        )
    else:
        made["objective"] = _OBJECTIVES[str(params.get("loss", "squared_error"))]
        made |= {"quantile_alpha": params["quantile"]} if "quantile" in params else {}
    if "max_leaves" in made:
        made |= {"grow_policy": "lossguide", "max_depth": made.get("max_depth", 0)}
    return made | {
        "seed": seed % _SEEDS,
        "tree_method": "hist",
        "nthread": joblib.cpu_count(only_physical_cores=True),  # as scikit-learn counts: a container's share
        "verbosity": 0,
    }


def _train(xgboost: Any, rows: Any, settings: dict[str, Any], steps: int, run: TrainingRun | None) -> Any:
    """Return the booster after `steps` rounds.

    A training that draws rows or columns starts anew after an interruption: the generator cannot be stored.
    """
    stores = settings.get("subsample", 1) == settings.get("colsample_bytree", 1) == 1
    booster, done = xgboost.Booster(settings, [rows]), 0
    if run is not None and stores and (arrays := run.resume()) is not None:
        booster.load_model(bytearray(arrays["model"].tobytes()))
        booster.set_param(settings)
        done = int(arrays["step"])
    for step in range(done + 1, steps + 1):
        booster.update(rows, step - 1)
        if run is not None:
            run.progress(step, steps, lambda: float(booster.eval(rows).rsplit(":", 1)[1]))
            if stores:
                run.checkpoint(step, lambda step=step: _state(booster, step))  # type: ignore[misc]
    return booster


def _stopped(
    xgboost: Any,
    parts: tuple[Any, Any],
    settings: dict[str, Any],
    steps: int,
    patience: Patience,
    run: TrainingRun | None,
) -> Any:
    """Return the booster up to the round with the smallest loss on the second of two parts.

    After an interruption it starts anew: figures of validation are sums over all rounds, and are not stored.
    """
    rows, held = parts
    booster = xgboost.Booster(settings, [rows, held])
    for step in range(1, steps + 1):
        booster.update(rows, step - 1)
        loss = float(booster.eval(held).rsplit(":", 1)[1])
        if run is not None:
            run.progress(step, steps, loss)
        if patience.over(loss):
            break
    return booster[: patience.best]


def _state(booster: Any, step: int) -> dict[str, Any]:
    import numpy as np

    return {"model": np.frombuffer(booster.save_raw("ubj"), np.uint8), "step": np.array(step, np.int64)}


TRAINER = BuiltIn(
    fit,
    check,
    lambda task: parameters.schema(RULES[task]),
    modules=("constraints.py", "parameters.py", "tree_conversion.py", "xgboost_trees.py"),
    libraries=("numpy", "xgboost-cpu", "onnx"),
    check_features=constraints.check,
)
