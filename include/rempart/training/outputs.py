"""Produce a job's outputs from its spec: read rows, train, check the model on some of them, name the files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rempart import canonical_json
from rempart.errors import TrainingError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature
from rempart.sites.port import Site
from rempart.sovereignty.job_permission import JobSite
from rempart.training import plots
from rempart.training.attempts.progress import Progress, TrainingRun
from rempart.training.gpus import nvml, usage
from rempart.training.gpus.usage import GpusUse
from rempart.training.gpus.watch import Gpus, GpuWatch
from rempart.training.job import BACKTEST_FILE, DIFFERENCE, LEARNT, JobSpec, Origin, Validated, Work
from rempart.training.protocol import learning, reading
from rempart.training.trainers import trainers


@dataclass(frozen=True)
class Measurements:
    """How a job measured itself besides its metrics."""

    validation: Validated | None = None
    backtest: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """A trained model's files by name, and what metrics.json says of them. `metrics`: on rows it learned from."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    rows: int
    seconds: dict[str, float]
    work: Work = field(default_factory=Work)
    made_with: dict[str, str] = field(default_factory=dict)
    measured: Measurements = Measurements()
    gpus: GpusUse = field(default_factory=GpusUse)


def seen(spec: JobSpec) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """Return the features that the model sees, and the trainer's parameters."""
    return trainers.left_out([feature.feature() for feature in spec.features], spec.trainer.params)


def make(
    spec: JobSpec,
    site: Callable[[JobSite], Site],
    progress: Progress,
    run: TrainingRun,
    gpus: Callable[[], Gpus] = nvml.opened,
) -> Outputs:
    """Train, and check the model. Raises TrainingError, SiteError, IntegrityError; Interrupted when asked to end."""
    began = time.monotonic()
    features, classes = seen(spec)[0], len(spec.target.values)
    rows = _rows(spec, site)
    some = slice(None, None, -(-len(rows.inputs) // learning.CHECKED))
    seconds = {"read": round(time.monotonic() - began, 3)}
    run.group.meet()
    progress("training", trainer=spec.trainer.use, rows=len(rows.inputs), columns=rows.inputs.shape[1])
    with GpuWatch(gpus) as watch:
        began = time.monotonic()
        with run.computing():
            learned = learning.learn(spec, rows, rows.inputs[some], run, progress)
        seconds |= {"train": round(time.monotonic() - began, 3), **run.waited()}
        others = run.group.gather("")[1:]
        began = time.monotonic()
        with run.computing():
            tried, over = learning.backtested(spec, rows, progress)
        if tried:
            seconds["backtest"] = round(time.monotonic() - began, 3)
    used = usage.together(watch.use(), others)
    if used.devices or run.made_with.get("device") == "cuda":
        progress("gpus", **usage.line(used))
    began = time.monotonic()
    trained, inputs, learnt = learned.model, learned.on.inputs, learned.on.target
    some = slice(None, None, -(-len(inputs) // learning.CHECKED))
    predicted = onnx_format.run(onnx_format.open_session(trained.body), inputs[some], spec.task, classes)
    measured = {f"{LEARNT}{name}": value for name, value in metrics.score(spec.task, learnt[some], predicted).items()}
    if trained.largest_difference is not None:
        measured[DIFFERENCE] = trained.largest_difference
    measured = learning.finite(measured | learned.metrics) | over
    files = {
        onnx_format.MODEL_FILE: trained.body,
        "features.json": canonical_json.encode([feature.as_json() for feature in features]),
    }
    if learned.validated is not None:
        files["validation.json"] = canonical_json.encode(learned.validated.model_dump())
    if tried:
        metric = "mae" if spec.task == "regression" else "log_loss"
        files[BACKTEST_FILE] = canonical_json.encode([origin.model_dump() for origin in tried])
        files["backtest.png"] = plots.backtest([(o.begins[:10], o.metrics[metric]) for o in tried], metric)
    seconds["evaluate"] = round(time.monotonic() - began, 3)
    progress("trained", seconds=seconds["train"], **{name: round(value, 4) for name, value in measured.items()})
    facts = {
        "metrics": measured,
        "rows": len(inputs),
        "seconds": seconds,
        "work": run.work().model_dump(),
        "made_with": run.made_with,
        "gpus": used.model_dump(),
        "validation": learned.validated.model_dump() if learned.validated else None,
        "backtest": [origin.model_dump() for origin in tried],
        "files": {name: hashlib.sha256(body).hexdigest() for name, body in files.items()},
    }
    made = {**files, "metrics.json": canonical_json.encode(facts)}
    of = Measurements(learned.validated, tried)
    return Outputs(made, measured, len(inputs), seconds, run.work(), dict(run.made_with), of, used)


def share(
    spec: JobSpec, site: Callable[[JobSite], Site], run: TrainingRun, gpus: Callable[[], Gpus] = nvml.opened
) -> None:
    """Take part in the training on a node other than the first, without files. Raises the errors of `make`."""
    rows = _rows(spec, site)
    run.group.meet()
    with GpuWatch(gpus) as watch, run.computing():
        learning.share(spec, rows, run)
    run.group.gather(watch.use().told())


def _rows(spec: JobSpec, site: Callable[[JobSite], Site]) -> learning.Rows:
    """Return the rows to learn from, after checking their SHA-256."""
    place = spec.dataset
    features, params = seen(spec)
    body = site(place.site).read(place.bucket, place.key, sha256=place.sha256)
    keep = reading.needed(spec.validation, spec.backtest)
    read = reading.read(body, features, spec.target.feature(), keep)
    if len(read.target) != place.rows:
        raise TrainingError(
            f"check the dataset: it has {len(read.target)} instead of {place.rows} rows to learn from",
            "Freeze the training set again, and check the pipeline's `holdout`.",
        )
    return learning.Rows(read.table, read.inputs, read.target, params, features)
