"""Read a job's outputs back, measure its model on the held-out rows, and keep what explains it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rempart.errors import IntegrityError
from rempart.flows.shared import erasures
from rempart.flows.training.candidates.record import rows_on_record
from rempart.models.isolated_model import IsolatedModel
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from rempart.sites import once
from rempart.sites.port import Site
from rempart.training import datasets, evaluation, experiment, outputs
from rempart.training.job import JobResult, JobSpec


@dataclass(frozen=True)
class HeldOutResult:
    """Figures of a model on `rows` held-out rows. `kept`: SHA-256 of the explanations at the site, by key."""

    metrics: dict[str, float]
    rows: int
    kept: dict[str, str]


def verify(site: Site, spec: JobSpec, result: JobResult) -> None:
    """Read every output of the job back from the site, and compare what it tells of its rows with its order.

    Raises IntegrityError, ObjectMissing with the object.
    """
    if not _told_as_ordered(spec, result):
        raise IntegrityError(
            f"register job {spec.job_id}: its result tells of other rows, or another way to measure itself, than its "
            "order",
            "Read the job's log and its image: somebody changed the program or its result. Then train again.",
        )
    for name, digest in sorted(result.files.items()):
        site.read(spec.output.bucket, spec.key(name), sha256=digest)


def _told_as_ordered(spec: JobSpec, result: JobResult) -> bool:
    """Return whether numbers of rows, validation and back-test are those that the order allows."""
    told, wanted = result.validation, spec.validation
    if (told is None) != (wanted is None):
        return False
    learned = spec.dataset.rows
    if told is not None and wanted is not None:
        if told.refit != wanted.refit or told.rows_fit + told.rows > spec.dataset.rows:
            return False
        asked = spec.trainer.intervals
        if (told.interval.coverage if told.interval else None) != (asked.coverage if asked else None):
            return False
        if (told.operating.positive if told.operating else None) != (spec.costs.positive if spec.costs else None):
            return False
        learned = spec.dataset.rows if wanted.refit else told.rows_fit
    return result.rows == learned and len(result.backtest) == (spec.backtest.origins if spec.backtest else 0)


def measure(
    known: erasures.Rewritten,
    tracking: Connection,
    site: Site,
    spec: JobSpec,
    result: JobResult,
    pipeline: ModelPipeline,
) -> HeldOutResult:
    """Measure a job's model on the held-out rows, and add the figures and files to its run in MLflow.

    Errors over time are told by the column of `holdout`. The explanations also go to the site, under a key made of
    their content, so that a repetition overwrites nothing. Raises the errors of `evaluation.measure`, SiteError,
    TrackingUnavailable, TrackingRefused.
    """
    rows = datasets.decoded(erasures.read_dataset(known, site, rows_on_record(spec)["held_out"]))
    seen, classes = outputs.seen(spec)[0], len(spec.target.values)
    model = IsolatedModel(site.read(spec.output.bucket, spec.key(MODEL_FILE), sha256=result.files[MODEL_FILE]))
    try:
        found = evaluation.measure(
            spec,
            seen,
            lambda matrix: model.run(matrix, spec.task, classes),
            rows,
            pipeline.gate,
            pipeline.holdout.column,
            (lambda matrix: model.run(matrix, spec.task, classes, bounds=True)) if spec.trainer.intervals else None,
            result.validation.operating if result.validation else None,
        )
    finally:
        model.close()
    experiment.log_held_out(tracking, result.run_id, result.model_id, found.metrics, found.files)
    return HeldOutResult(found.metrics, found.rows, _keep(site, spec, found.files[evaluation.EXPLANATIONS]))


def _keep(site: Site, spec: JobSpec, body: bytes) -> dict[str, str]:
    digest = hashlib.sha256(body).hexdigest()
    stem, _, ending = evaluation.EXPLANATIONS.partition(".")
    key = spec.key(f"{stem}-{digest[:16]}.{ending}")
    once.keep(site, spec.output.bucket, key, body, metadata={}, content_type="application/json")
    return {key: digest}
