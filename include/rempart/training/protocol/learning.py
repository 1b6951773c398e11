"""Train as the order says: measure on the validation part, then on all rows; and again from moments of the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rempart.errors import TrainingError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature
from rempart.models.gates.thresholds import OperatingPoint, choose_threshold
from rempart.models.intervals import conformal
from rempart.models.intervals.conformal import Width
from rempart.models.intervals.figures import covered
from rempart.models.intervals.graph import with_bounds
from rempart.training.attempts.progress import Progress, TrainingRun
from rempart.training.job import (
    BACKTESTED,
    VALIDATED,
    Costs,
    FeatureSpec,
    JobSpec,
    Origin,
    Split,
    TrainerSpec,
    Validated,
)
from rempart.training.protocol import splits
from rempart.training.trainers import trainers
from rempart.training.trainers.built_in import Validation
from rempart.training.trainers.trainers import Trained

if TYPE_CHECKING:
    import pyarrow as pa

CHECKED = 10_000
"""Rows, spread over all, on which a job compares its ONNX model with the trainer's, and measures it."""


class Order(Protocol):
    """What a training needs of a job's order, or of the order of a try."""

    @property
    def task(self) -> Literal["regression", "classification"]: ...
    @property
    def target(self) -> FeatureSpec: ...
    @property
    def trainer(self) -> TrainerSpec: ...
    @property
    def validation(self) -> Split | None: ...
    @property
    def costs(self) -> Costs | None: ...


@dataclass(frozen=True)
class Rows:
    """Rows to learn from: the table, the matrix that the model sees, float32 [n, k], and the target, float64 [n].

    `features`: whose columns the matrix has.
    """

    table: pa.Table
    inputs: Any
    target: Any
    params: Mapping[str, Any]
    features: Sequence[Feature] = ()

    def where(self, mask: Any) -> Rows:
        """Return the rows of a mask."""
        import pyarrow as pa

        return Rows(self.table.filter(pa.array(mask)), self.inputs[mask], self.target[mask], self.params, self.features)


@dataclass(frozen=True)
class Learned:
    """A model, the rows that it learned from, and what was measured on others meanwhile."""

    model: Trained
    on: Rows
    validated: Validated | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def learn(spec: Order, rows: Rows, check_on: Any, run: TrainingRun | None, progress: Progress) -> Learned:
    """Train a model as the order says. `check_on`: rows on which ONNX is compared. Raises TrainingError."""
    if spec.validation is None:
        return Learned(_trained(spec, rows, rows.params, check_on, run), rows)
    carried = run.carried() if run is not None else None
    if carried is None:
        parts = splits.validation(rows.table, spec.validation)
        fit, given = rows.where(parts.fit), Validation(rows.inputs[parts.measured], rows.target[parts.measured])
        model = _trained(spec, fit, rows.params, check_on, run, given)
        predicted = _predicted(spec, model, given.inputs)
        measured = finite(metrics.score(spec.task, given.target, predicted))
        found = {f"{VALIDATED}{name}": value for name, value in measured.items()}
        validated = Validated(
            rows_fit=len(fit.target),
            rows=len(given.target),
            begins=parts.begins.isoformat() if parts.begins is not None else None,
            chosen=given.chosen,
            refit=spec.validation.refit,
            interval=_width(spec, given.target, predicted),
            operating=_operating(spec, given.target, predicted),
        )
        progress("validated", rows=validated.rows, chosen=given.chosen, **_rounded(found))
        if not validated.refit:
            return Learned(_with_interval(model, validated.interval, check_on), fit, validated, found)
        carried = {"validated": validated.model_dump(), "metrics": found}
    if run is not None:
        run.second_phase(carried)
    validated = Validated.model_validate(carried["validated"])
    model = _trained(spec, rows, {**rows.params, **validated.chosen}, check_on, run)
    return Learned(_with_interval(model, validated.interval, check_on), rows, validated, dict(carried["metrics"]))


def share(spec: Order, rows: Rows, run: TrainingRun) -> None:
    """Take part in `learn` on a node other than the first. Raises TrainingError."""
    if spec.validation is None:
        _fitted(spec, rows, rows.params, run)
        return
    carried = run.carried()
    if carried is None:
        parts = splits.validation(rows.table, spec.validation)
        given = Validation(rows.inputs[parts.measured], rows.target[parts.measured])
        _fitted(spec, rows.where(parts.fit), rows.params, run, given)
        if not spec.validation.refit:
            return
        carried = {"validated": {"chosen": given.chosen}}
    run.second_phase(carried)
    _fitted(spec, rows, {**rows.params, **carried["validated"]["chosen"]}, run)


def backtested(spec: JobSpec, rows: Rows, progress: Progress) -> tuple[tuple[Origin, ...], dict[str, float]]:
    """Train from each moment of the past that the order names, and measure on the time after it.

    Each training is that of the candidate on fewer rows: with validation, it splits these rows and chooses anew. Return
    the origins, oldest first, and mean and spread (standard deviation) of each metric. Raises TrainingError.
    """
    import numpy as np

    if spec.backtest is None:
        return (), {}
    made = []
    for parts in splits.origins(rows.table, spec.backtest):
        inputs, target = rows.inputs[parts.measured], rows.target[parts.measured]
        learned = learn(spec, rows.where(parts.fit), inputs[:CHECKED], None, lambda *_, **__: None)
        figures = _measured(spec, learned.model, inputs, target)
        begins = parts.begins.isoformat() if parts.begins is not None else ""
        made.append(Origin(begins=begins, rows_fit=int(parts.fit.sum()), rows=len(target), metrics=figures))
        progress("back-tested", begins=begins, rows=len(target), **_rounded(figures))
    found = {}
    for name in made[0].metrics:
        values = np.array([origin.metrics[name] for origin in made])
        found[f"{BACKTESTED}{name}_mean"] = float(values.mean())
        found[f"{BACKTESTED}{name}_spread"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return tuple(made), found


def _trained(
    spec: Order,
    rows: Rows,
    params: Mapping[str, Any],
    check_on: Any,
    run: TrainingRun | None,
    given: Validation | None = None,
) -> Trained:
    use, seed, classes = spec.trainer.use, spec.trainer.seed, len(spec.target.values)
    inputs, target, seen = rows.inputs, rows.target, rows.features
    return trainers.train(use, inputs, target, params, seed, spec.task, check_on, classes, run, given, seen)


def _fitted(
    spec: Order, rows: Rows, params: Mapping[str, Any], run: TrainingRun, given: Validation | None = None
) -> None:
    use, seed, classes = spec.trainer.use, spec.trainer.seed, len(spec.target.values)
    trainers.fitted(use, rows.inputs, rows.target, params, seed, spec.task, classes, run, given, rows.features)


def _predicted(spec: Order, model: Trained, inputs: Any, *, bounds: bool = False) -> Any:
    session, classes = onnx_format.open_session(model.body), len(spec.target.values)
    return onnx_format.run(session, inputs, spec.task, classes, bounds=bounds)


def _measured(spec: Order, model: Trained, inputs: Any, target: Any) -> dict[str, float]:
    """Return the metrics of a model on rows; with intervals, also what they cover and how wide they are."""
    if spec.trainer.intervals is None:
        return finite(metrics.score(spec.task, target, _predicted(spec, model, inputs)))
    predicted, lower, upper = _predicted(spec, model, inputs, bounds=True).T
    return finite({**metrics.score(spec.task, target, predicted), **covered(target, lower, upper)})


def _width(spec: Order, target: Any, predicted: Any) -> Width | None:
    if (asked := spec.trainer.intervals) is None:
        return None
    return conformal.measure(target, predicted, asked.coverage, scaled=asked.method == "scaled")


def _operating(spec: Order, target: Any, predicted: Any) -> OperatingPoint | None:
    if (costs := spec.costs) is None:
        return None
    is_positive = (target == costs.positive).astype(float)
    each = costs.false_positive, costs.false_negative
    threshold = choose_threshold(is_positive, predicted[:, costs.positive], each)
    return OperatingPoint(positive=costs.positive, threshold=threshold)


def _with_interval(model: Trained, width: Width | None, check_on: Any) -> Trained:
    return model if width is None else replace(model, body=with_bounds(model.body, width, check_on))


def finite(measured: dict[str, float]) -> dict[str, float]:
    """Return metrics as they are. Raises TrainingError if one is not a finite number."""
    for name, value in measured.items():
        if not -float("inf") < value < float("inf"):
            raise TrainingError(
                f"check the model: its {name} is not a number",
                "Check trainer.params (the learning rate may be too high) and the trainer's code.",
            )
    return measured


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.items()}
