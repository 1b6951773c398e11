"""Train a recorded version again: same rows, parameters, seed and code, in a process of its own.

Everything comes from evidence: the order by the id that its content gives, both parts of the training set by their
SHA-256. Nothing is registered. The result is evidence, too.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import IntegrityError, ModelRefused, ObjectMissing, RempartError
from rempart.flows.reproduction.comparison import TOLERANCE, Reproduction, figures
from rempart.flows.shared import erasures, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates import openings
from rempart.flows.training.candidates.record import trained_version
from rempart.models import metrics
from rempart.models.encoding import encode
from rempart.models.gates import measures
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.intervals.figures import covered
from rempart.models.isolated_model import IsolatedModel
from rempart.models.loading import operating_of
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings.gates.metrics import FACTS
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets, outputs, trial
from rempart.training.job import DIFFERENCE, JobSpec, parse_spec
from rempart.training.reproduction import ReproductionOrder
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.sites.port import Site

logger = logging.getLogger(__name__)


def reproduce(platform: Platform, pipeline: ModelPipeline, version: str, tolerance: float = TOLERANCE) -> Reproduction:
    """Train a version again on this machine, and compare its figures with the recorded ones.

    Takes as long as the training did, at most `trainer.timeout`. It opens the held-out rows, which is evidence of its
    own. Raises ModelRefused without evidence, of a retired version, or of one from several nodes, ObjectMissing if
    retention or an erasure took its rows, IntegrityError, TrainingError, PlacementDenied, SiteError.
    """
    retirements.check_kept(platform.ledger, pipeline.name, version, "reproduce")
    evidence = trained_version(platform.ledger, pipeline.name, version)
    record = evidence.body
    active = platform.active_site(pipeline.classification)
    spec = _order(active, platform.config.buckets.artifacts, record)
    code = trainers.code_version(spec.trainer.use)
    if spec.size > 1:
        raise ModelRefused(
            f"reproduce model {pipeline.name} version {version}: it was trained by {spec.size} processes on "
            f"{spec.nodes} nodes, and a reproduction is one process",
            f"Start the training again: `rempart pipeline run {pipeline.name} --follow`.",
        )
    names = (active.name, *sorted(set(platform.config.sites) - {active.name}))
    sites = {name: partial(platform.site_to_read, name, pipeline.classification) for name in names}
    known, ledger = erasures.rewritten(platform.ledger), platform.ledger
    learn = _rows(sites, known, record["dataset"])
    stored = record["dataset"]["held_out"]
    openings.record(ledger, pipeline.name, stored, "reproduction", spec.job_id, (record["version"],))
    held_out = _rows(sites, known, stored)
    began = time.monotonic()
    body, own = _trained(pipeline, spec, learn)
    recorded = {str(name): float(value) for name, value in record["metrics"].items() if name != DIFFERENCE}
    again = {**own, **_scores(pipeline, spec, datasets.decoded(held_out), body, recorded, operating_of(record))}
    again.pop(DIFFERENCE, None)  # it tells of the conversion, and of the processor
    found = Reproduction(
        pipeline.name,
        version,
        evidence.seq,
        figures(recorded, again, tolerance),
        code,
        spec.code_version,
        hashlib.sha256(body).hexdigest(),
        str(record["files"][MODEL_FILE]),
        round(time.monotonic() - began, 3),
    )
    platform.ledger.append("reproduction", pipeline.name, _body(found, tolerance))
    return found


def _order(site: Site, bucket: str, record: Mapping[str, Any]) -> JobSpec:
    """Return the order of the job that made a version. Its id is derived from its content, and is on record."""
    key = f"jobs/{record['job_id']}/spec.json"
    try:
        spec = parse_spec(site.read(bucket, key))
    except ObjectMissing as missing:
        raise ObjectMissing(
            f"reproduce model {record['name']} version {record['version']}: site '{site.name}' no longer has the order "
            f"of its job, {bucket}/{key}",
            "Restore the objects of the site (docs/how-to/survive-a-loss.md), or train again.",
        ) from missing
    if spec.job_id != record["job_id"] or spec.dataset.sha256 != record["dataset"]["sha256"]:
        raise IntegrityError(
            f"reproduce model {record['name']} version {record['version']}: {bucket}/{key} is the order of another job "
            f"than that on record",
            "Compare the object's versions at the site, and those at its replicas: somebody replaced it.",
        )
    return spec


def _rows(sites: Mapping[str, Callable[[], Site]], known: erasures.Rewritten, part: Mapping[str, Any]) -> bytes:
    """Return one part of a training set by its recorded SHA-256, from the first of the sites that gives it."""
    bucket, key, sha256 = str(part["bucket"]), str(part["key"]), str(part["sha256"])
    if (bucket, key) in known:
        raise ObjectMissing(
            f"reproduce a model: rows of its training set, {bucket}/{key}, were erased since",
            "Nobody can train it again, and nobody should: train a new version without these rows.",
        )
    silent = list[str]()
    for opened in sites.values():
        try:
            return opened().read(bucket, key, sha256=sha256)
        except ObjectMissing:
            continue
        except RempartError as error:  # one that does not answer, has no key, or is not allowed
            silent.append(error.what)
    raise ObjectMissing(
        f"reproduce a model: no site gives its training set, {bucket}/{key}" + "".join(f"; {what}" for what in silent),
        "If retention took it, restore a point that has it into a sandbox (docs/how-to/restore-points.md), or train "
        "again.",
    )


def _trained(pipeline: ModelPipeline, spec: JobSpec, rows: bytes) -> tuple[bytes, dict[str, float]]:
    """Return model.onnx and the job's own figures."""
    with tempfile.TemporaryDirectory(prefix="rempart-reproduce-") as folder:
        file, model = Path(folder, "training.parquet"), Path(folder, MODEL_FILE)
        file.write_bytes(rows)
        order = ReproductionOrder(spec=spec, rows=str(file), model=str(model))
        what = f"reproduce job {spec.job_id}"
        answer = trial.ask("rempart.training.reproduction", order, spec.trainer.use, pipeline.trainer.timeout, what)
        return model.read_bytes(), answer.metrics


def _scores(
    pipeline: ModelPipeline,
    spec: JobSpec,
    rows: pa.Table,
    body: bytes,
    recorded: Collection[str],
    operating: OperatingPoint | None,
) -> dict[str, float]:
    """Return the platform's own figures of a model on the held-out rows: those always computed, and those on record.

    Costs, quantile and positive class are of the gate as it is now.
    """
    target, classes = spec.target.feature(), len(spec.target.values)
    bounds, truth = spec.trainer.intervals is not None, metrics.target_values(target, rows)
    model = IsolatedModel(body)
    try:
        predicted = model.run(encode(outputs.seen(spec)[0], rows), spec.task, classes, bounds=bounds)
    finally:
        model.close()
    told = {}
    if bounds:
        predicted, lower, upper = predicted.T
        told = covered(truth, lower, upper)
    how = measures.of_gate(pipeline.gate, spec.task, spec.target.values, operating)
    names = [name for name, facts in FACTS.items() if name in recorded and spec.task in facts.tasks]
    found = {**measures.score(how, names, truth, predicted), **told}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _body(found: Reproduction, tolerance: float) -> dict[str, Any]:
    return {
        "version": found.version,
        "candidate": found.record_seq,
        "reproduced": found.reproduced,
        "identical": found.identical,
        "tolerance": tolerance,
        "figures": {figure.name: [figure.recorded, figure.again] for figure in found.figures},
        "code_version": found.code,
        "recorded_code_version": found.recorded_code,
        "sha256": found.sha256,
        "recorded_sha256": found.recorded_sha256,
    }
