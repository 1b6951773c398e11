"""Produce a job's outputs from its spec: read rows, train, judge on held-out rows, name the files."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import TrainingError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature, encode
from rempart.sites.port import Site
from rempart.training import evaluation, plots
from rempart.training.attempts.progress import Progress, TrainingRun
from rempart.training.job import JobSite, JobSpec, Work
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Outputs:
    """A trained model's files by name, and what metrics.json says of them."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    rows: dict[str, int]
    seconds: dict[str, float]
    work: Work = field(default_factory=Work)
    made_with: dict[str, str] = field(default_factory=dict)


def seen(spec: JobSpec) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """Return the features that the model sees, and the trainer's parameters."""
    return trainers.left_out([feature.feature() for feature in spec.features], spec.trainer.params)


def make(spec: JobSpec, site: Callable[[JobSite], Site], progress: Progress, run: TrainingRun) -> Outputs:
    """Train and judge. Raises TrainingError, SiteError, IntegrityError; Interrupted when asked to end."""
    began = time.monotonic()
    features, params = seen(spec)
    target = spec.target.feature()
    classes = len(target.values)
    train, holdout = _dataset(spec, site)
    learnt, truth = metrics.target_values(target, train), metrics.target_values(target, holdout)
    inputs, unseen = encode(features, train), encode(features, holdout)
    seconds = {"read": round(time.monotonic() - began, 3)}
    run.group.meet()
    progress("training", trainer=spec.trainer.use, rows=len(inputs), columns=inputs.shape[1])
    began = time.monotonic()
    with run.computing():
        trained = trainers.train(
            spec.trainer.use, inputs, learnt, params, spec.trainer.seed, spec.task, unseen, classes, run
        )
    seconds["train"] = round(time.monotonic() - began, 3)
    began = time.monotonic()
    predicted = onnx_format.run(onnx_format.open_session(trained.body), unseen, spec.task, classes)
    measured = metrics.score(spec.task, truth, predicted)
    if trained.largest_difference is not None:
        measured["onnx_difference"] = trained.largest_difference
    for name, value in measured.items():
        if not -float("inf") < value < float("inf"):
            raise TrainingError(
                f"check the model: its {name} on the held-out rows is not a number",
                "Check trainer.params (the learning rate may be too high) and the trainer's code.",
            )
    shares = evaluation.permutation_importance(
        trained.body, features, unseen, truth, spec.task, classes, spec.trainer.seed
    )
    metric = "mae" if spec.task == "regression" else "log_loss"
    files = {
        onnx_format.MODEL_FILE: trained.body,
        "features.json": canonical_json.encode([feature.as_json() for feature in features]),
        "importance.json": canonical_json.encode(shares),
        "importance.png": plots.importance(shares, metric),
        "predicted_vs_actual.png": plots.predicted_vs_actual(truth, predicted, target.name)
        if spec.task == "regression"
        else plots.reliability(truth, predicted, target.name, target.values),
    }
    seconds["evaluate"] = round(time.monotonic() - began, 3)
    rows = {"train": train.num_rows, "holdout": holdout.num_rows}
    progress("trained", seconds=seconds["train"], **{name: round(value, 4) for name, value in measured.items()})
    facts = {
        "metrics": measured,
        "rows": rows,
        "seconds": seconds,
        "work": run.work().model_dump(),
        "made_with": run.made_with,
        "files": {name: hashlib.sha256(body).hexdigest() for name, body in files.items()},
    }
    made = {**files, "metrics.json": canonical_json.encode(facts)}
    return Outputs(made, measured, rows, seconds, run.work(), dict(run.made_with))


def share(spec: JobSpec, site: Callable[[JobSite], Site], run: TrainingRun) -> None:
    """Take part in the training on a node other than the first, without files. Raises the errors of `make`."""
    features, params = seen(spec)
    target = spec.target.feature()
    train, _ = _dataset(spec, site)
    inputs, learnt = encode(features, train), metrics.target_values(target, train)
    run.group.meet()
    with run.computing():
        trainers.fitted(spec.trainer.use, inputs, learnt, params, spec.trainer.seed, spec.task, len(target.values), run)


def _dataset(spec: JobSpec, site: Callable[[JobSite], Site]) -> tuple[pa.Table, pa.Table]:
    """Return training and held-out rows of the frozen data set, after checking its SHA-256."""
    place = spec.dataset
    body = site(place.site).read(place.bucket, place.key, sha256=place.sha256)
    train, holdout = split_rows(body)
    if train.num_rows + holdout.num_rows != place.rows or not train.num_rows or not holdout.num_rows:
        raise TrainingError(
            f"check the dataset: it has {train.num_rows} training and {holdout.num_rows} held-out rows instead of "
            f"{place.rows}",
            "Freeze the training set again, and check the pipeline's `holdout`.",
        )
    return train, holdout


def split_rows(body: bytes) -> tuple[pa.Table, pa.Table]:
    """Return training and held-out rows from a frozen training set's Parquet bytes."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(body))
    return (table.filter(pc.equal(table["split"], "train")), table.filter(pc.equal(table["split"], "holdout")))
