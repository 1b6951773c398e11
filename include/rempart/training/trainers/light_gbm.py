"""The trainer `lightgbm`: gradient-boosted trees by LightGBM, faster than scikit-learn's, with categories as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.settings.evaluation.splits import EARLY_STOPPING
from rempart.training.trainers import constraints, light_gbm_model, parameters, tree_conversion
from rempart.training.trainers.built_in import BuiltIn, Patience, Validation
from rempart.training.trainers.light_gbm_model import LightGBM
from rempart.training.trainers.parameters import Number, Rule, Word

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

_ITERATIONS = "num_iterations"
_OWN: dict[str, Rule] = {
    _ITERATIONS: Number(1, constraints.MOST_ITERATIONS, whole=True),
    "num_leaves": Number(2, 131_072, whole=True),
    "max_depth": Number(1, 1_000_000, whole=True),
    "min_data_in_leaf": Number(1, 1_000_000_000, whole=True),
    "min_gain_to_split": Number(0, 1e12),
    "lambda_l1": Number(0, 1e12),
    "lambda_l2": Number(0, 1e12),
    "feature_fraction": Number(1e-9, 1),
    "bagging_fraction": Number(1e-9, 1),
    "categories": Word(("native", "columns")),
    "min_data_per_group": Number(1, 1_000_000_000, whole=True),
    "cat_smooth": Number(0, 1e12),
}
RULES = constraints.of_trees(_OWN)
"""Parameters of each task, as LightGBM names them; `loss` and `quantile` as gradient_boosting does."""
ITERATIONS = 100
_OBJECTIVES = {"squared_error": "regression", "absolute_error": "regression_l1", "quantile": "quantile"}
_OURS = ("loss", "quantile", "categories", "class_weight", "increasing", "decreasing", _ITERATIONS, EARLY_STOPPING)
"""Parameters that LightGBM does not get as they are."""
_ONE_THREAD = 1 << 20
"""Cells of a matrix (rows times columns) up to which one thread trains."""
_SEEDS = 1 << 31


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    constraints.check_values("lightgbm", RULES, params, task)


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
) -> LightGBM:
    """Return a fitted model. inputs: float32 [n, k], NaN for null; target: [n], class positions for a classification.

    `features`: whose columns the matrix has. The model is the same with any number of threads. With `run`, the training
    continues from the job's checkpoint, with the same model as without interruption. With `validation` and
    early_stopping_rounds it has the iterations with the smallest loss on these rows, and chooses their number; it
    stores no checkpoint then. Raises TrainingError.
    """
    check(params, task)
    lightgbm = _library()
    classes = classes if task == "classification" else 0
    if classes:
        constraints.require_classes(target, classes)
    native = params.get("categories", "native") == "native"
    seen = light_gbm_model.layout(inputs.shape[1], tree_conversion.spans(features) if native else [])
    settings = _settings(params, seed, classes, inputs.size)
    if signs := constraints.signs(params, features, classes):
        settings["monotone_constraints"] = [*(signs[column] for column in seen.numbers), *(0 for _ in seen.categories)]
    rows = lightgbm.Dataset(
        seen.matrix(inputs),
        target,
        weight=constraints.row_weights(params, target, classes) if classes else None,
        categorical_feature=[len(seen.numbers) + place for place in range(len(seen.categories))],
        params=settings,
    )
    steps = int(params.get(_ITERATIONS, ITERATIONS))
    try:
        if validation is not None and (EARLY_STOPPING in params or validation.watched):
            truth = validation.target
            weights = constraints.row_weights(params, target, classes, truth) if classes else None
            held = rows.create_valid(seen.matrix(validation.inputs), truth, weight=weights)
            patience = Patience(params.get(EARLY_STOPPING), validation)
            booster = _stopped(lightgbm, (rows, held), settings, steps, patience, seed, run)
            if EARLY_STOPPING in params:
                validation.choose(num_iterations=booster.num_trees() // booster.num_model_per_iteration())
        else:
            booster = _train(lightgbm, rows, settings, steps, seed, run)
    except lightgbm.basic.LightGBMError as cause:
        raise TrainingError(
            f"fit lightgbm: {type(cause).__name__}", "Correct trainer.params, and check the features."
        ) from None  # its text may quote data
    return LightGBM(booster, seen, classes)


def _library() -> Any:
    """Return the package. Raises TrainingError if the system lacks the library that it shares."""
    try:
        import lightgbm
    except OSError as cause:
        raise TrainingError(
            "fit lightgbm: the library libgomp is missing on this machine", "Install it: `apt-get install libgomp1`."
        ) from cause
    return lightgbm


def _settings(params: Mapping[str, Any], seed: int, classes: int, cells: int) -> dict[str, Any]:
    """Return LightGBM's own parameters. `cells`: of the matrix."""
    import joblib

    made = {name: value for name, value in params.items() if name not in _OURS}
    if classes:
        made |= {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    else:
        made["objective"] = _OBJECTIVES[str(params.get("loss", "squared_error"))]
        made |= {"alpha": params["quantile"]} if "quantile" in params else {}
    if made.get("bagging_fraction", 1) < 1:
        made["bagging_freq"] = 1
    return made | {
        "seed": seed % _SEEDS,
        "deterministic": True,
        "force_col_wise": True,  # each histogram is summed by one thread: faster than by rows, and never otherwise
        # as scikit-learn counts: a container's share. Threads wait for each other in a loop, so on a busy machine
        # several take far longer than one; a small matrix gains little by them
        "num_threads": joblib.cpu_count(only_physical_cores=True) if cells > _ONE_THREAD else 1,
        "verbosity": -1,
    }


def _train(lightgbm: Any, rows: Any, settings: dict[str, Any], steps: int, seed: int, run: TrainingRun | None) -> Any:
    """Return the booster after `steps` iterations, fewer if no further split helps."""
    before, done = _resumed(lightgbm, settings, run)
    if done >= steps:
        return before
    callbacks = [_draw(seed, done)] if settings.get("feature_fraction", 1) < 1 else []
    if run is not None:
        callbacks.append(_watch(steps, done, _continues(settings), run))
    booster = lightgbm.train(settings, rows, steps - done, init_model=before, callbacks=callbacks)
    if run is not None:
        run.progress(steps, steps)
        if _continues(settings):
            run.checkpoint(steps, lambda: _state(booster, steps))
    return booster


def _stopped(
    lightgbm: Any,
    parts: tuple[Any, Any],
    settings: dict[str, Any],
    steps: int,
    patience: Patience,
    seed: int,
    run: TrainingRun | None,
) -> Any:
    """Return the booster up to the iteration with the smallest loss on the second of two parts.

    After an interruption it starts anew: figures of validation are sums over all iterations, and are not stored.
    """
    rows, held = parts

    def watch(env: Any) -> None:
        loss = float(env.evaluation_result_list[0][2])
        if run is not None:
            run.progress(env.iteration + 1, steps, loss)
        if patience.over(loss):
            raise lightgbm.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    callbacks = [watch, *([_draw(seed, 0)] if settings.get("feature_fraction", 1) < 1 else [])]
    whole = lightgbm.train(settings, rows, steps, valid_sets=[held], callbacks=callbacks, keep_training_booster=True)
    return lightgbm.Booster(model_str=whole.model_to_string(num_iteration=patience.best))


def _continues(settings: Mapping[str, Any]) -> bool:
    """Return whether a training can continue from a checkpoint: the generator that draws rows cannot be stored."""
    return "bagging_freq" not in settings


def _resumed(lightgbm: Any, settings: Mapping[str, Any], run: TrainingRun | None) -> tuple[Any, int]:
    """Return the booster of the job's checkpoint and its iterations, or None and 0."""
    if run is None or not _continues(settings) or (arrays := run.resume()) is None:
        return None, 0
    return lightgbm.Booster(model_str=arrays["model"].tobytes().decode()), int(arrays["step"])


def _draw(seed: int, done: int) -> Callable[[Any], None]:
    """Draw the columns of each iteration from its number, so that they do not depend on where a training continued."""

    def draw(env: Any) -> None:
        step = done + env.iteration - env.begin_iteration
        env.model.reset_parameter({"feature_fraction_seed": (seed + 1 + step) % _SEEDS})

    draw.before_iteration = True  # type: ignore[attr-defined] # LightGBM reads it
    return draw


def _watch(steps: int, done: int, stores: bool, run: TrainingRun) -> Callable[[Any], None]:
    """Call `run` after each iteration."""

    def watch(env: Any) -> None:
        step = done + env.iteration - env.begin_iteration + 1
        if step < steps:  # the last one is told when the trees are complete
            run.progress(step, steps, lambda: float(env.model.eval_train()[0][2]))
            if stores:
                run.checkpoint(step, lambda: _state(env.model, step))

    return watch


def _state(booster: Any, step: int) -> dict[str, Any]:
    import numpy as np

    return {"model": np.frombuffer(booster.model_to_string().encode(), np.uint8), "step": np.array(step, np.int64)}


TRAINER = BuiltIn(
    fit,
    check,
    lambda task: parameters.schema(RULES[task]),
    modules=("constraints.py", "light_gbm.py", "light_gbm_model.py", "parameters.py", "tree_conversion.py"),
    libraries=("numpy", "lightgbm", "onnx"),
    check_features=constraints.check,
)
