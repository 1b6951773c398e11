"""Find trainers by name, run them, and convert their models to ONNX.

A trainer is built in, of another package (`packages`), or a function under include/: `fit(inputs, target, params,
seed)`. inputs is a float32 matrix [rows, columns] with NaN for null, target float64 [rows] (for a classification the
position of the class in the target's values). It returns a fitted scikit-learn estimator, or an ONNX model (a proto or
its bytes) with one float input [n, columns]. With a parameter `run` it gets the job's `progress.TrainingRun`, for
checkpoints and progress; with a parameter `group` it may run on several nodes, and gets their `process_group.Group`;
with a parameter `validation` it gets `built_in.Validation`, the rows on which it may measure itself, or None;
`features`, `task` and `classes` say what the matrix and the target hold.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.canonical_json import LARGEST
from rempart.errors import ModelRefused, RempartError, TrainingError
from rempart.models import onnx_format
from rempart.models.encoding import Feature
from rempart.settings.config import project_root
from rempart.training.attempts.process_group import Group
from rempart.training.trainers import (
    constraints,
    gradient_boosting,
    light_gbm,
    linear,
    packages,
    tabular_network,
    tree_conversion,
    xgboost_trees,
)
from rempart.training.trainers.built_in import Validation

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

TOLERANCE = 1e-3
"""Maximum difference between ONNX and the estimator, as a share of the predictions' spread (float32 against
float64).
"""
_ROUNDING = 2.0**-22
"""Share of a value that float32 may lose when a few of its kind are added."""
BUILT_IN = {
    "gradient_boosting": gradient_boosting.TRAINER,
    "lightgbm": light_gbm.TRAINER,
    "linear": linear.TRAINER,
    "tabular_network": tabular_network.TRAINER,
    "xgboost": xgboost_trees.TRAINER,
}
"""The built-in trainers that a pipeline can name. A new trainer is a module with a `BuiltIn`, and an entry here."""
_CODE = (
    "models/encoding.py",
    "models/gates/thresholds.py",
    "models/intervals/conformal.py",
    "models/intervals/graph.py",
    "models/metrics.py",
    "training/outputs.py",
    "training/protocol/learning.py",
    "training/protocol/splits.py",
    "training/trainers/built_in.py",
    "training/trainers/trainers.py",
)
_MODULES_OF_CUSTOM = ("tree_conversion.py",)
_LIBRARIES_OF_CUSTOM = ("numpy", "scikit-learn", "skl2onnx", "onnx")


@dataclass(frozen=True)
class Trained:
    """A model as ONNX, and the largest difference to the estimator it was made from (None: the trainer gave ONNX)."""

    body: bytes
    largest_difference: float | None


def left_out(features: Sequence[Feature], params: Mapping[str, Any]) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """Return the features that the model sees, and the parameters for its trainer.

    The parameter `leave_out`, known to every trainer, holds patterns of feature references, separated by commas, such
    as `agent_trend__*_mean_*`. Raises TrainingError if a pattern matches nothing, or all features are left out.
    """
    kept, rest = list(features), dict(params)
    for pattern in [part.strip() for part in str(rest.pop("leave_out", "")).split(",") if part.strip()]:
        matched = [feature for feature in features if fnmatch.fnmatchcase(feature.name, pattern)]
        if not matched:
            raise TrainingError(
                f"trainer.params.leave_out: '{pattern[:80]}' matches no feature",
                f"Use names of features: {', '.join(feature.name for feature in features)}.",
            )
        kept = [feature for feature in kept if feature not in matched]
    if not kept:
        raise TrainingError("trainer.params.leave_out leaves no feature", "Leave out fewer features.")
    return tuple(kept), rest


def check(
    use: str,
    params: Mapping[str, Any],
    task: str,
    nodes: int = 1,
    features: Sequence[Feature] | None = None,
    classes: int = 0,
) -> None:
    """Check the parameters of a built-in trainer or a package's, without `leave_out`, or that a custom function's file
    exists; a custom function checks its own when it runs. `features`: those that the model sees, which parameters may
    name.

    Raises TrainingError for a wrong parameter, or if the trainer cannot run on several nodes.
    """
    for name, value in params.items():
        if not isinstance(value, str) and not abs(value) <= LARGEST:  # NaN is refused as well
            raise TrainingError(
                f"trainer.params.{name}: {value} is not a number from -(2^53 - 1) to 2^53 - 1",
                "Use a number that JSON can represent, or a string.",
            )
    packages.check_names(BUILT_IN, use)
    if use in BUILT_IN:
        BUILT_IN[use].check(params, task)
        if features is not None and (checks := BUILT_IN[use].check_features) is not None:
            checks(params, features, classes)
    elif (package := packages.load(use)) is not None:
        packages.checked(package, params, task)
    else:
        custom_file(use)
    if nodes > 1 and not shares_work(use):
        raise TrainingError(
            f"trainer.nodes is {nodes}, but {use} trains on one node",
            "Set trainer.nodes: 1, or give the function a parameter `group` and use it to share the work.",
        )


def package_of(use: str) -> str | None:
    """Return name and version of the package that brings a trainer; None of a built-in one or a custom function."""
    package = None if use in BUILT_IN else packages.load(use)
    return package.told if package else None


def params_schema(use: str, task: str) -> dict[str, Any]:
    """Return the JSON Schema of a run's trainer parameters: by name for a built-in trainer or a package's, any for a
    custom function. Raises TrainingError if a package's trainer cannot be loaded.
    """
    if (trainer := BUILT_IN.get(use) or packages.load(use)) is not None:
        leave_out = {"type": "string", "maxLength": 2000}
        return {"properties": {**trainer.schema(task), "leave_out": leave_out}, "additionalProperties": False}
    return {
        "propertyNames": {"pattern": r"^[a-z][a-z0-9_]{0,39}\Z"},
        "maxProperties": 40,
        "additionalProperties": {"type": ["number", "string", "boolean"], "maxLength": 200},
    }


def shares_work(use: str) -> bool:
    """Return whether a trainer can run on several nodes.

    A custom file is parsed, not run: its libraries may be absent.
    """
    if use in BUILT_IN:
        return BUILT_IN[use].shares_work
    if (package := packages.load(use)) is not None:
        return takes(package.fit, "group")
    file, function = custom_file(use)
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return False
    return any(
        definition.name == function
        and "group" in [argument.arg for argument in (*definition.args.args, *definition.args.kwonlyargs)]
        for definition in tree.body
        if isinstance(definition, ast.FunctionDef)
    )


def code_version(use: str) -> str:
    """Return the package's version, and a hash of the code and libraries that determine this trainer's models.

    For PyTorch, which is not installed where jobs are ordered, the declared range counts: a job refuses a version
    outside it, and its result records the version used.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    trainer = BUILT_IN.get(use)
    modules = trainer.modules if trainer else _MODULES_OF_CUSTOM
    files = [*(package / name for name in _CODE), *(Path(__file__).with_name(name) for name in modules)]
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    if trainer is None:
        offered = packages.load(use)
        digest.update(packages.digest(offered).encode() if offered else custom_file(use)[0].read_bytes())
    for name in trainer.libraries if trainer else _LIBRARIES_OF_CUSTOM:
        digest.update(f"{name}=={_installed(name)}\n".encode())
    return f"{importlib.metadata.version('rempart')}+{digest.hexdigest()[:12]}"


def _installed(library: str) -> str:
    """Return a library's version. Where `xgboost` with CUDA is installed instead of `xgboost-cpu`, it has the same."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(library.removesuffix("-cpu"))


def custom_file(use: str) -> tuple[Path, str]:
    """Return file and function of `include/trainers/x.py:fit`. Raises TrainingError if the file does not exist."""
    path, _, function = use.partition(":")
    if not function:
        raise TrainingError(
            f"trainer.use: trainer '{use}' does not exist",
            f"Use one of {', '.join([*BUILT_IN, *packages.offers()])}, or your own function: "
            "include/trainers/my_model.py:fit.",
        )
    file = (project_root() / path).resolve()
    if not file.is_relative_to((project_root() / "include").resolve()) or not file.is_file():
        raise TrainingError(
            f"trainer.use: {path} is not a file under include/", "Create it, or correct trainer.use in the pipeline."
        )
    return file, function


def _custom(use: str) -> Callable[..., Any]:
    file, function = custom_file(use)
    spec = importlib.util.spec_from_file_location(f"rempart_trainer_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # noqa: S101 - a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        raise TrainingError(
            f"trainer.use: {file.name} has no function '{function}'",
            "Define fit(inputs, target, params, seed) in that file.",
        )
    made: Callable[..., Any] = found
    return made


def train(
    use: str,
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    check_on: Any,
    classes: int,
    run: TrainingRun | None = None,
    validation: Validation | None = None,
    features: Sequence[Feature] = (),
) -> Trained:
    """Fit on `inputs` and `target`, convert to ONNX, and compare both on the rows `check_on` [m, columns].

    `features`: whose columns the matrix has.

    Raises TrainingError if the trainer fails, or its ONNX model predicts otherwise.
    """
    model = fitted(use, inputs, target, params, seed, task, classes, run, validation, features)
    if isinstance(model, bytes) or hasattr(model, "SerializeToString"):
        body = model if isinstance(model, bytes) else bytes(model.SerializeToString())
        _opened(body, use)
        return Trained(body, None)
    if hasattr(model, "to_onnx"):
        body, theirs = model.to_onnx(), model.predict(check_on)
    else:
        _check_estimator(model, use, task, classes)
        body = to_onnx(model, inputs.shape[1])
        theirs = model.predict(check_on) if task == "regression" else model.predict_proba(check_on)
    return Trained(body, _difference(_opened(body, use), theirs, check_on, task, classes))


def fitted(
    use: str,
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    classes: int,
    run: TrainingRun | None,
    validation: Validation | None = None,
    features: Sequence[Feature] = (),
) -> Any:
    """Return the trainer's model for `inputs` and `target`. Raises TrainingError if it fails."""
    if use in BUILT_IN:
        fit = BUILT_IN[use].fit
        given = {"validation": validation, "features": features}
        return fit(
            inputs,
            target,
            params,
            seed,
            task,
            classes,
            run,
            **{name: given[name] for name in given if takes(fit, name)},
        )
    try:
        offered = packages.load(use)
        function = offered.fit if offered else _custom(use)
        named = {"run": run, "features": features, "task": task, "classes": classes}
        more: dict[str, Any] = {n: value for n, value in named.items() if value is not None and takes(function, n)}
        if takes(function, "validation"):
            more["validation"] = validation
        if takes(function, "group"):
            more["group"] = run.group if run is not None else Group()
        return function(inputs, target, dict(params), seed, **more)
    except RempartError:
        raise
    except Exception as cause:  # a stranger's code may raise anything; its message may quote data
        raise TrainingError(
            f"run the trainer {use}: it raised {type(cause).__name__} {place_of(cause)}", "Correct the trainer's code."
        ) from None


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a trainer has a parameter of that name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables tell no signature
        return False


def _check_estimator(model: Any, use: str, task: str, classes: int) -> None:
    if not hasattr(model, "predict"):
        raise TrainingError(
            f"run the trainer {use}: it returned a {type(model).__name__}",
            "Return a fitted scikit-learn estimator, an ONNX model, or its bytes.",
        )
    if task == "classification":
        constraints.require_classes(model.classes_, classes)


def _difference(session: Any, theirs: Any, check_on: Any, task: str, classes: int) -> float:
    """Return the largest difference between the ONNX model and the estimator.

    Raises TrainingError if it is too large.
    """
    import numpy as np

    ours = onnx_format.run(session, check_on, task, classes)
    wanted = np.asarray(theirs, float)
    difference = float(np.abs(ours - wanted.reshape(ours.shape)).max())
    spread = float(wanted.max() - wanted.min())
    allowed = TOLERANCE * max(spread, 1e-6)
    rounding = float(np.abs(wanted).max()) * _ROUNDING
    if spread <= rounding:  # one value for all rows: ONNX holds it as float32
        allowed = max(allowed, rounding)
    if not difference <= allowed:
        raise TrainingError(
            f"convert the model to ONNX: its predictions differ by up to {difference:.3g}, but only "
            f"{TOLERANCE:.0e} of the predictions' spread {spread:.3g} is allowed",
            "Use another estimator or other parameters: this one cannot be converted.",
        )
    return difference


def to_onnx(model: Any, columns: int) -> bytes:
    """Return a fitted estimator as ONNX bytes with one float input [n, columns]. Raises TrainingError."""
    from sklearn.base import is_classifier
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if isinstance(model, HistGradientBoostingRegressor | HistGradientBoostingClassifier):
        return tree_conversion.convert(model, columns)
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    try:
        proto = convert(
            model,
            initial_types=[("inputs", FloatTensorType([None, columns]))],
            options={id(model): {"zipmap": False}} if is_classifier(model) else None,
            target_opset={"": 18, "ai.onnx.ml": 3},
        )
    except Exception as cause:  # skl2onnx raises many kinds, and quotes the whole model in some
        raise TrainingError(
            f"convert a {type(model).__name__} to ONNX: {type(cause).__name__}",
            "Use an estimator that skl2onnx supports, or return an ONNX model.",
        ) from None
    return bytes(proto.SerializeToString())


def _opened(body: bytes, use: str) -> Any:
    try:
        return onnx_format.open_session(body)
    except ModelRefused as cause:
        raise TrainingError(f"check the model of {use}: it could never be loaded: {cause.what}", cause.hint) from cause


def place_of(cause: BaseException) -> str:
    """Return `in file.py, line 7`, without the line's text or the message."""
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else ""
