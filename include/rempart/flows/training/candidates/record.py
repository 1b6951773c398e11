"""Write and find the evidence of a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.errors import ModelRefused
from rempart.flows.shared import removals
from rempart.ledger.port import Evidence, Ledger
from rempart.settings.sections import Classification
from rempart.training import datasets, outputs
from rempart.training.gpus.cost import Spent
from rempart.training.job import JobResult, JobSpec


def rows_on_record(spec: JobSpec) -> dict[str, Any]:
    """Return where the training set is, as evidence has it."""
    place, key = spec.dataset, datasets.held_out_key(spec.pipeline, spec.dataset.held_out)
    held_out = {"bucket": place.bucket, "key": key, "sha256": place.held_out, "examples": place.examples}
    return {"bucket": place.bucket, "key": place.key, "sha256": place.sha256, "held_out": held_out}


@dataclass(frozen=True)
class MeasuredVersion:
    """A registered version, and what the platform measured of it on `rows` held-out rows.

    `opening`: how often these rows were opened by then; `kept`: SHA-256 of what explains it at the site, by key.
    """

    metrics: Mapping[str, float]
    rows: int
    version: str
    classification: Classification
    opening: int
    kept: Mapping[str, str]


def write(
    ledger: Ledger,
    spec: JobSpec,
    result: JobResult,
    measured: MeasuredVersion,
    *,
    ran: Mapping[str, Any] | None,
    spent: Spent,
    verdict: int | None,
) -> Evidence | None:
    """Write evidence of the candidate, once per version. Return the record that was there before, or None.

    `ran`, `spent`: where the job ran, and what it cost; `verdict`: what started it.
    """
    if (earlier := _newest(ledger, spec.pipeline, measured.version, result.model_id)) is not None:
        return earlier
    body: dict[str, Any] = {
        "name": spec.pipeline,
        "version": measured.version,
        "job_id": spec.job_id,
        "run_id": result.run_id,
        "model_id": result.model_id,
        "files": dict(result.model_files),
        "outputs": {**{spec.key(name): digest for name, digest in result.files.items()}, **measured.kept},
        "dataset": {
            **rows_on_record(spec),
            "rows_train": result.rows,
            "rows_holdout": measured.rows,
            "opening": measured.opening,
            "definitions": {feature.name: feature.definition for feature in spec.features},
        },
        "snapshot": spec.snapshot,
        "labels": spec.labels.model_dump() if spec.labels else None,
        "used": spec.used,
        "task": spec.task,
        "target": spec.target.feature().as_json(),
        "features": [feature.as_json() for feature in outputs.seen(spec)[0]],
        "inputs": [each.input().as_json() for each in spec.inputs],
        "metrics": dict(measured.metrics),
        "trainer": spec.trainer.model_dump(),
        "code_version": spec.code_version,
        "classification": measured.classification,
        "placement": dict(ran) if ran else None,
        "work": result.work.model_dump(),
        "validation": result.validation.model_dump(exclude={"curve", "stopped_at"}) if result.validation else None,
        "backtest": [origin.model_dump() for origin in result.backtest],
        "made_with": dict(result.made_with),
        "gpus": result.gpus.model_dump(),
        "cost": spent.cost.as_json() if spent.cost else None,
        "carbon": spent.carbon,
        "decision": result.decision,
        "verdict": verdict,
    }
    ledger.append("candidate", spec.pipeline, body)
    return None


def reused(earlier: Evidence) -> str:
    """Return which run trained a version, and when, for a later order or attempt of the same job. Pure."""
    return (
        f"version {earlier.body['version']} was trained already, by the same recipe on the same rows: run "
        f"{earlier.body['run_id']} in MLflow, on {earlier.at:%Y-%m-%d %H:%M} UTC"
    )


def candidate_record(ledger: Ledger, name: str, version: str, model_id: str | None = None) -> Mapping[str, Any] | None:
    """Return the newest candidate evidence of a version (and model), or None."""
    record = _newest(ledger, name, version, model_id)
    return record.body if record else None


def _newest(ledger: Ledger, name: str, version: str, model_id: str | None) -> Evidence | None:
    for record in ledger.find("candidate", name):
        if str(record.body.get("version")) == version and model_id in (None, record.body.get("model_id")):
            return record
    return None


def trained_version(ledger: Ledger, name: str, version: str) -> Evidence:
    """Return the newest record of a version's training. Raises ModelRefused without one since the model's removal."""
    records = ledger.find("candidate", name)
    for record in removals.since(records, removals.removal_of(ledger, name)):
        if str(record.body.get("version")) == version:
            return record
    raise ModelRefused(
        f"The ledger has no evidence that model {name} version {version} was trained here",
        f"Choose a version of `rempart model show {name}`, or train one: `rempart pipeline run {name} --follow`. Other "
        "versions are not opened.",
    )
