"""Produce a job's outputs from its spec: read rows, train, check the model on some of them, name the files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import TrainingError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature, encode
from rempart.sites.port import Site
from rempart.training import datasets
from rempart.training.attempts.progress import Progress, TrainingRun
from rempart.training.job import DIFFERENCE, LEARNT, JobSite, JobSpec, Work
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa


CHECKED = 10_000
"""Rows, spread over all, on which a job compares its ONNX model with the trainer's, and measures it."""


@dataclass(frozen=True)
class Outputs:
    """A trained model's files by name, and what metrics.json says of them. `metrics`: on rows it learned from."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    rows: int
    seconds: dict[str, float]
    work: Work = field(default_factory=Work)
    made_with: dict[str, str] = field(default_factory=dict)


def seen(spec: JobSpec) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """Return the features that the model sees, and the trainer's parameters."""
    return trainers.left_out([feature.feature() for feature in spec.features], spec.trainer.params)


def make(spec: JobSpec, site: Callable[[JobSite], Site], progress: Progress, run: TrainingRun) -> Outputs:
    """Train, and check the model. Raises TrainingError, SiteError, IntegrityError; Interrupted when asked to end."""
    began = time.monotonic()
    features, params = seen(spec)
    target = spec.target.feature()
    classes = len(target.values)
    rows = _rows(spec, site)
    inputs, learnt = encode(features, rows), metrics.target_values(target, rows)
    some = slice(None, None, -(-len(inputs) // CHECKED))
    seconds = {"read": round(time.monotonic() - began, 3)}
    run.group.meet()
    progress("training", trainer=spec.trainer.use, rows=len(inputs), columns=inputs.shape[1])
    began = time.monotonic()
    with run.computing():
        trained = trainers.train(
            spec.trainer.use, inputs, learnt, params, spec.trainer.seed, spec.task, inputs[some], classes, run, features
        )
    seconds["train"] = round(time.monotonic() - began, 3)
    began = time.monotonic()
    predicted = onnx_format.run(onnx_format.open_session(trained.body), inputs[some], spec.task, classes)
    measured = {f"{LEARNT}{name}": value for name, value in metrics.score(spec.task, learnt[some], predicted).items()}
    if trained.largest_difference is not None:
        measured[DIFFERENCE] = trained.largest_difference
    for name, value in measured.items():
        if not -float("inf") < value < float("inf"):
            raise TrainingError(
                f"check the model: its {name} is not a number",
                "Check trainer.params (the learning rate may be too high) and the trainer's code.",
            )
    files = {
        onnx_format.MODEL_FILE: trained.body,
        "features.json": canonical_json.encode([feature.as_json() for feature in features]),
    }
    seconds["evaluate"] = round(time.monotonic() - began, 3)
    progress("trained", seconds=seconds["train"], **{name: round(value, 4) for name, value in measured.items()})
    facts = {
        "metrics": measured,
        "rows": rows.num_rows,
        "seconds": seconds,
        "work": run.work().model_dump(),
        "made_with": run.made_with,
        "files": {name: hashlib.sha256(body).hexdigest() for name, body in files.items()},
    }
    made = {**files, "metrics.json": canonical_json.encode(facts)}
    return Outputs(made, measured, rows.num_rows, seconds, run.work(), dict(run.made_with))


def share(spec: JobSpec, site: Callable[[JobSite], Site], run: TrainingRun) -> None:
    """Take part in the training on a node other than the first, without files. Raises the errors of `make`."""
    features, params = seen(spec)
    target = spec.target.feature()
    rows = _rows(spec, site)
    inputs, learnt = encode(features, rows), metrics.target_values(target, rows)
    run.group.meet()
    with run.computing():
        trainers.fitted(
            spec.trainer.use, inputs, learnt, params, spec.trainer.seed, spec.task, len(target.values), run, features
        )


def _rows(spec: JobSpec, site: Callable[[JobSite], Site]) -> pa.Table:
    """Return the rows to learn from, after checking their SHA-256."""
    place = spec.dataset
    table = datasets.decoded(site(place.site).read(place.bucket, place.key, sha256=place.sha256))
    if table.num_rows != place.rows:
        raise TrainingError(
            f"check the dataset: it has {table.num_rows} instead of {place.rows} rows to learn from",
            "Freeze the training set again, and check the pipeline's `holdout`.",
        )
    return table
