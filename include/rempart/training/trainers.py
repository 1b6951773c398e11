"""Trainers by name, and their models as ONNX.

A trainer is `fit(inputs, target, params, seed)`; inputs is a float32 matrix [rows, columns] with NaN for null, target
float64 [rows] (for a classification the position of the class in the target's values). It gives a fitted scikit-learn
estimator, or an ONNX model (a proto or its bytes) with one float input [n, columns].
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.config import project_root
from rempart.errors import ModelRefused, TrainingError
from rempart.models import onnx_format
from rempart.models.encoding import Feature
from rempart.training import gradient_boosting, tree_conversion

TOLERANCE = 1e-3
"""How far ONNX and the estimator may differ, as a share of the predictions' spread. float32 against float64."""
_DETERMINING = ("numpy", "scikit-learn", "skl2onnx", "onnx")


@dataclass(frozen=True)
class Trained:
    """A model as ONNX, and the largest difference to the estimator it was made from (None: the trainer gave ONNX)."""

    body: bytes
    largest_difference: float | None


def left_out(features: Sequence[Feature], params: Mapping[str, Any]) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """The features that the model sees, and the parameters that its trainer gets.

    The parameter `leave_out`, known to every trainer, holds patterns of feature references, separated by commas, such
    as `agent_trend__*_mean_*`. Raises TrainingError when a pattern matches nothing, or all features are left out.
    """
    kept, rest = list(features), dict(params)
    for pattern in [one.strip() for one in str(rest.pop("leave_out", "")).split(",") if one.strip()]:
        matched = [one for one in features if fnmatch.fnmatchcase(one.name, pattern)]
        if not matched:
            raise TrainingError(
                f"trainer.params.leave_out: '{pattern[:80]}' matches no feature",
                f"The features are: {', '.join(one.name for one in features)}.",
            )
        kept = [one for one in kept if one not in matched]
    if not kept:
        raise TrainingError("trainer.params.leave_out leaves no feature", "Leave out fewer.")
    return tuple(kept), rest


def code_version(use: str) -> str:
    """The package's version, and a hash of the code and libraries that determine a model."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in [*sorted(package.glob("*.py")), package.parent / "models" / "encoding.py"]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    if use != "gradient_boosting":
        digest.update(custom_file(use)[0].read_bytes())
    for name in _DETERMINING:
        digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
    return f"{importlib.metadata.version('rempart')}+{digest.hexdigest()[:12]}"


def custom_file(use: str) -> tuple[Path, str]:
    """File and function of `include/trainers/x.py:fit`. Raises TrainingError when there is no such file."""
    path, _, function = use.partition(":")
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
            f"trainer.use: {file.name} has no function '{function}'", "Define fit(inputs, target, params, seed) there."
        )
    made: Callable[..., Any] = found
    return made


def train(
    use: str, inputs: Any, target: Any, params: Mapping[str, Any], seed: int, task: str, check_on: Any, classes: int
) -> Trained:
    """Fit on `inputs` and `target`, convert to ONNX, and compare both on the rows `check_on` [m, columns].

    Raises TrainingError when the trainer fails or its model as ONNX does not predict the same.
    """
    import numpy as np

    if use == "gradient_boosting":
        model = gradient_boosting.fit(inputs, target, params, seed, task)
    else:
        try:
            model = _custom(use)(inputs, target, dict(params), seed)
        except TrainingError:
            raise
        except Exception as cause:  # a stranger's code may raise anything; its message may quote data
            raise TrainingError(
                f"The trainer {use} raised {type(cause).__name__} {place_of(cause)}", "Correct the trainer's code."
            ) from None
    if isinstance(model, bytes) or hasattr(model, "SerializeToString"):
        body = model if isinstance(model, bytes) else bytes(model.SerializeToString())
        _opened(body, use)
        return Trained(body, None)
    if not hasattr(model, "predict"):
        raise TrainingError(
            f"The trainer {use} gave a {type(model).__name__}",
            "Return a fitted scikit-learn estimator, an ONNX model, or its bytes.",
        )
    if task == "classification" and len(model.classes_) != classes:
        raise TrainingError(
            f"{classes - len(model.classes_)} of the target's {classes} declared classes have no training row",
            "Remove them from the target's `values`, or wait for data that has them.",
        )
    body = to_onnx(model, inputs.shape[1])
    ours = onnx_format.run(_opened(body, use), check_on, task, classes)
    theirs = np.asarray(model.predict(check_on) if task == "regression" else model.predict_proba(check_on), float)
    difference = float(np.abs(ours - theirs.reshape(ours.shape)).max())
    spread = float(theirs.max() - theirs.min())
    if not difference <= TOLERANCE * max(spread, 1e-6):
        raise TrainingError(
            f"The model as ONNX predicts up to {difference:.3g} differently, where {TOLERANCE:.0e} of the "
            f"predictions' spread {spread:.3g} is allowed",
            "Use another estimator or parameters: this one does not survive the conversion.",
        )
    return Trained(body, difference)


def to_onnx(model: Any, columns: int) -> bytes:
    """A fitted estimator as ONNX bytes with one float input [n, columns]. Raises TrainingError."""
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
            f"A {type(model).__name__} cannot be converted to ONNX ({type(cause).__name__})",
            "Use an estimator that skl2onnx supports, or return an ONNX model.",
        ) from None
    return bytes(proto.SerializeToString())


def _opened(body: bytes, use: str) -> Any:
    try:
        return onnx_format.open_session(body)
    except ModelRefused as cause:
        raise TrainingError(f"The model of {use} would never be loaded: {cause.what}", cause.hint) from cause


def place_of(cause: BaseException) -> str:
    """`in file.py, line 7`, without the line's text or the message."""
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else ""
