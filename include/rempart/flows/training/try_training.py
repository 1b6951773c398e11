"""Score a pipeline's baseline and its model on the training set of a try, without a stack or a site."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import RempartError
from rempart.flows.training.candidates import leaks, orders
from rempart.flows.training.check_pipeline import check_trainer
from rempart.flows.training.labelled import held_out_from, split
from rempart.flows.training.train import target_feature
from rempart.models import metrics
from rempart.models.encoding import encode, features_of
from rempart.models.gates import measures
from rempart.models.gates.measures import Measures
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.gates.verdict import baseline_bound
from rempart.models.intervals.figures import covered
from rempart.models.isolated_model import IsolatedModel
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings.gates.metrics import LOWER_IS_BETTER
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets, trial
from rempart.training.job import FeatureSpec, TrainerSpec
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Baseline:
    """The naive baseline on the held-out rows: the figure that a model must beat.

    `bound`: what the gate's rule `beats_baseline` asks of a model. `told_alone`: features that alone tell more of the
    target than the gate allows, with the share.
    """

    metric: str
    value: float
    overall: float
    limit: float
    bound: float
    train_rows: int
    holdout_rows: int
    told_alone: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class TriedModel:
    """Scores of a model that was trained in a try, on the held-out rows, and how long the training took.

    `validation`: metrics on the validation part, if the pipeline has one.
    """

    metrics: Mapping[str, float]
    seconds: float
    validation: Mapping[str, float]


def train(pipeline: ModelPipeline, rows: datasets.TrainingRows) -> TriedModel:
    """Train once, at most as long as `trainer.timeout`, and score. Raises TrainingError, ModelRefused."""
    params = check_trainer(pipeline)
    trainer, how = TrainerSpec.of(pipeline.trainer, params), orders.measuring(pipeline, params)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rempart-try-") as folder:
        file, model = Path(folder, "training.parquet"), Path(folder, MODEL_FILE)
        file.write_bytes(datasets.encoded(rows.learn))
        order = trial.TrialOrder(
            file=str(file),
            model=str(model),
            task=pipeline.prediction.task,
            target=FeatureSpec.of(target_feature(pipeline)),
            features=tuple(FeatureSpec.of(feature) for feature in features_of(pipeline)),
            trainer=trainer,
            validation=how.validation,
            costs=how.costs,
        )
        what = f"try to train {pipeline.name}"
        found = trial.ask("rempart.training.trial", order, trainer.use, pipeline.trainer.timeout, what)
        seconds = time.monotonic() - began
        scores = _scores(pipeline, rows.held_out, model.read_bytes(), found.operating)
        return TriedModel(scores, seconds, found.metrics)


def _scores(pipeline: ModelPipeline, rows: pa.Table, body: bytes, operating: OperatingPoint | None) -> dict[str, float]:
    target, task = target_feature(pipeline), pipeline.prediction.task
    features, _ = trainers.left_out(features_of(pipeline), pipeline.trainer.params)
    bounds, truth = pipeline.trainer.intervals is not None, metrics.target_values(target, rows)
    model = IsolatedModel(body)
    try:
        found = model.run(encode(features, rows), task, len(target.values), bounds=bounds)
    finally:
        model.close()
    score = partial(measures.score, _measures(pipeline, operating), [pipeline.gate.metric])
    if not bounds:
        return score(truth, found)
    predicted, lower, upper = found.T
    return {**score(truth, predicted), **covered(truth, lower, upper)}


def _measures(pipeline: ModelPipeline, operating: OperatingPoint | None = None) -> Measures:
    return measures.of_gate(pipeline.gate, pipeline.prediction.task, target_feature(pipeline).values, operating)


def _naively(pipeline: ModelPipeline) -> Measures:
    """Return how the baseline is measured beside a model of this pipeline."""
    costs = orders.measuring(pipeline, pipeline.trainer.params).costs
    any_point = OperatingPoint(positive=costs.positive, threshold=0.5) if costs else None
    return measures.of_baseline(_measures(pipeline, any_point))


def baseline(pipeline: ModelPipeline, training: pa.Table, *, whole: bool) -> tuple[Baseline | None, Sequence[str]]:
    """Return the baseline's figure on the held-out rows, and why there is none, or of `whole` files can be no model."""
    try:
        rows = split(pipeline, training)
        train, holdout = rows.learn, rows.held_out
        task, target = pipeline.prediction.task, target_feature(pipeline)
        naive = metrics.naive_predictions(task, target, pipeline.gate.baseline_by, train, holdout)
        score = partial(measures.score, _naively(pipeline), [pipeline.gate.metric])
        scores = metrics.baselines(metrics.target_values(target, holdout), naive, score)
        alone = leaks.suspects(pipeline, target, pipeline.trainer.params, train)
    except RempartError as error:  # a sample may be too small to be split: the file itself was checked
        return None, (f"No baseline: {error.what}.", error.hint)
    metric = pipeline.gate.metric
    value, overall = scores[metric], scores[f"overall_{metric}"]
    lower = LOWER_IS_BETTER[metric]
    best = min(value, overall) if lower else max(value, overall)
    return Baseline(
        metric,
        value,
        overall,
        pipeline.gate.limit,
        float(baseline_bound(best, pipeline.gate.baseline_margin, lower=lower)),
        train.num_rows,
        holdout.num_rows,
        alone,
    ), _unseen(pipeline, train) if whole else ()


def too_short(pipeline: ModelPipeline, training: pa.Table, learnable: pa.Table) -> str:
    """Return why rows cover too short a time to be split at the hold-out; empty if they do not. Pure.

    `learnable`: those of the rows that are not left out because their target became known after the hold-out began.
    """
    import pyarrow.compute as pc

    holdout = pipeline.holdout
    if holdout.column is None or not training.num_rows or (dates := training.column(holdout.column)).null_count:
        return ""
    first, newest = pc.min(dates).as_py(), pc.max(dates).as_py()
    start = held_out_from(pipeline, newest)
    late = first < start <= newest
    if late and learnable.num_rows and pc.min(learnable.column(holdout.column)).as_py() < start:
        return ""
    days = (newest - first).days + 1
    what = f"The rows of these files are judged. They cover {days} day{'' if days == 1 else 's'} of {holdout.column}"
    if start > newest:
        return f"{what}, all before the hold-out from {holdout.start}: pass files with newer rows to try a model."
    last = holdout.last and (f"{holdout.last.days} days" if holdout.last.days else str(holdout.last))
    span = f"takes the last {last}" if last else f"takes all from {holdout.start} on"
    why = f"{span}. No row before it had its {pipeline.prediction.target} by then" if late else span
    return f"{what}, and the hold-out {why}: pass files with more history to try a model."


def _unseen(pipeline: ModelPipeline, train: pa.Table) -> Sequence[str]:
    """Return which declared classes no training row has, and the remedy; nothing if each has one."""
    target = target_feature(pipeline)
    if target.type != "category":
        return ()
    seen = set(metrics.class_names(train.column(target.name)).unique().to_pylist())
    if not (unseen := [value for value in target.values if value not in seen]):
        return ()
    return (
        f"No model: no row to learn from has the {target.name} {', '.join(unseen)}.",
        f"Take it out of the `values` of {target.name}, so that rows with it go to quarantine, or add such rows.",
    )
