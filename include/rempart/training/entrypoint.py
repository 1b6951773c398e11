"""The training job: `python -m rempart.training.entrypoint --spec FILE` (`-` reads the spec from standard input).

It runs the same in a process beside Airflow and in a pod, and needs one site, MLflow, and their connections in the
environment; no database. Its files go to the site first, then the run to MLflow, then result.json: whatever ends it in
between, nothing trained is lost, and the same spec again goes on from there. Progress is one JSON object a line on
standard output. Exit status: 0 done, 75 a service did not answer (run again), 1 anything else.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rempart import config
from rempart.config import Connections, environment_connections
from rempart.errors import IntegrityError, ObjectMissing, RempartError, TrackingUnavailable, TrainingError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import Feature, encode
from rempart.sites.port import Site
from rempart.sovereignty.places import decide_site
from rempart.training import evaluation, experiment, plots, trainers
from rempart.training.job import JobResult, JobSpec, Place, canonical, parse_result, parse_spec

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
Progress = Callable[..., None]
"""`progress(stage, **facts)`: facts are numbers, ids and names of columns, never a value of the data."""
TRY_AGAIN = 75
ATTEMPTS, PAUSE_SECONDS = 3, 2.0


@dataclass(frozen=True)
class World:
    """What a job reaches."""

    site: Callable[[Place], Site]
    connections: Connections
    progress: Progress
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Outputs:
    """A trained model's files by name, and what metrics.json says of them."""

    files: dict[str, bytes]
    metrics: dict[str, float]
    rows: dict[str, int]
    seconds: dict[str, float]


def run_job(spec: JobSpec, world: World) -> JobResult:
    """Do a job, or what is left of it, and return its result.

    Raises TrainingError, TrackingUnavailable, TrackingRefused, SiteError, IntegrityError.
    """
    if (code := trainers.code_version(spec.trainer.use)) != spec.code_version:
        raise TrainingError(
            f"The job was ordered for code {spec.code_version}, here is {code}",
            "Run the job with the package (image) of the version that ordered it.",
        )
    site, bucket = world.site(spec.output.site), spec.output.bucket
    if (found := _read(site, bucket, spec.key("result.json"))) is not None:
        world.progress("adopted", job_id=spec.job_id)
        return parse_result(found, spec.job_id)
    outputs = _trained_before(spec, site)
    if outputs is None:
        outputs = _train(spec, world)
        site.write(bucket, spec.key("spec.json"), spec.to_json(), content_type="application/json")
        # metrics.json names the others and their hashes: with it, the outputs are complete
        for name, body in sorted(outputs.files.items(), key=lambda item: item[0] == "metrics.json"):
            site.write(bucket, spec.key(name), body)
        world.progress("stored", files=len(outputs.files), bytes=sum(map(len, outputs.files.values())))
    else:
        world.progress("trained before", job_id=spec.job_id)
    began = time.monotonic()
    features = _seen(spec)[0]
    logged_files = {name: body for name, body in outputs.files.items() if name != "metrics.json"}
    connection = world.connections(spec.tracking.connection)
    logged = _retried(lambda: experiment.log(connection, spec, features, outputs.metrics, logged_files), world)
    seconds = {**outputs.seconds, "log": round(time.monotonic() - began, 3)}
    world.progress("logged", run_id=logged.run_id, seconds=seconds["log"])
    result = JobResult(
        job_id=spec.job_id,
        status="succeeded",
        metrics=outputs.metrics,
        files={name: hashlib.sha256(body).hexdigest() for name, body in outputs.files.items()},
        model_files=logged.model_files,
        run_id=logged.run_id,
        model_id=logged.model_id,
        seconds=seconds,
        rows=outputs.rows,
    )
    site.write(bucket, spec.key("result.json"), result.to_json(), content_type="application/json")
    world.progress("done", job_id=spec.job_id)
    return result


def _retried(action: Callable[[], T], world: World) -> T:
    for attempt in range(1, ATTEMPTS):
        try:
            return action()
        except TrackingUnavailable as error:
            world.progress("waiting for MLflow", attempt=attempt, error=error.what)
            world.sleep(PAUSE_SECONDS * 2**attempt)
    return action()


def _read(site: Site, bucket: str, key: str) -> bytes | None:
    try:
        return site.read(bucket, key)
    except ObjectMissing:
        return None


def _trained_before(spec: JobSpec, site: Site) -> Outputs | None:
    """Complete outputs of an earlier attempt; None when there are none, or one is not as its metrics.json says."""
    if (body := _read(site, spec.output.bucket, spec.key("metrics.json"))) is None:
        return None
    facts = json.loads(body)
    files = {"metrics.json": body}
    for name, digest in facts["files"].items():
        try:
            files[name] = site.read(spec.output.bucket, spec.key(name), sha256=digest)
        except (ObjectMissing, IntegrityError):
            return None  # trained again: the same job gives the same model
    return Outputs(files, facts["metrics"], facts["rows"], facts["seconds"])


def _seen(spec: JobSpec) -> tuple[tuple[Feature, ...], dict[str, Any]]:
    """The features that the model sees, and the trainer's parameters."""
    return trainers.left_out([one.feature() for one in spec.features], spec.trainer.params)


def _train(spec: JobSpec, world: World) -> Outputs:
    began = time.monotonic()
    features, params = _seen(spec)
    target = spec.target.feature()
    classes = len(target.values)
    train, holdout = _dataset(spec, world)
    learnt, truth = metrics.target_values(target, train), metrics.target_values(target, holdout)
    inputs, unseen = encode(features, train), encode(features, holdout)
    seconds = {"read": round(time.monotonic() - began, 3)}
    world.progress("training", trainer=spec.trainer.use, rows=len(inputs), columns=inputs.shape[1])
    began = time.monotonic()
    trained = trainers.train(spec.trainer.use, inputs, learnt, params, spec.trainer.seed, spec.task, unseen, classes)
    seconds["train"] = round(time.monotonic() - began, 3)
    began = time.monotonic()
    predicted = onnx_format.run(onnx_format.open_session(trained.body), unseen, spec.task, classes)
    measured = metrics.score(spec.task, truth, predicted)
    if trained.largest_difference is not None:
        measured["onnx_difference"] = trained.largest_difference
    for name, value in measured.items():
        if not -float("inf") < value < float("inf"):
            raise TrainingError(
                f"The model's {name} on the held-out rows is not a number",
                "Check trainer.params (a learning rate too high?) and the trainer's code.",
            )
    shares = evaluation.permutation_importance(
        trained.body, features, unseen, truth, spec.task, classes, spec.trainer.seed
    )
    metric = "mae" if spec.task == "regression" else "log_loss"
    files = {
        onnx_format.MODEL_FILE: trained.body,
        "features.json": canonical([one.as_json() for one in features]),
        "importance.json": canonical(shares),
        "importance.png": plots.importance(shares, metric),
        "predicted_vs_actual.png": plots.predicted_vs_actual(truth, predicted, target.name)
        if spec.task == "regression"
        else plots.reliability(truth, predicted, target.name, target.values),
    }
    seconds["evaluate"] = round(time.monotonic() - began, 3)
    rows = {"train": train.num_rows, "holdout": holdout.num_rows}
    world.progress("trained", seconds=seconds["train"], **{name: round(value, 4) for name, value in measured.items()})
    facts = {
        "metrics": measured,
        "rows": rows,
        "seconds": seconds,
        "files": {name: hashlib.sha256(body).hexdigest() for name, body in files.items()},
    }
    return Outputs({**files, "metrics.json": canonical(facts)}, measured, rows, seconds)


def _dataset(spec: JobSpec, world: World) -> tuple[pa.Table, pa.Table]:
    """Training and held-out rows of the frozen dataset, its SHA-256 checked."""
    place = spec.dataset
    body = world.site(place.site).read(place.bucket, place.key, sha256=place.sha256)
    train, holdout = split_rows(body)
    if train.num_rows + holdout.num_rows != place.rows or not train.num_rows or not holdout.num_rows:
        raise TrainingError(
            f"The dataset has {train.num_rows} training and {holdout.num_rows} held-out rows, not {place.rows}",
            "Freeze the training set again; check the pipeline's `holdout`.",
        )
    return train, holdout


def split_rows(body: bytes) -> tuple[pa.Table, pa.Table]:
    """Training and held-out rows of a frozen training set's Parquet bytes."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(body))
    return (table.filter(pc.equal(table["split"], "train")), table.filter(pc.equal(table["split"], "holdout")))


def _print(stage: str, **facts: Any) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sys.stdout.write(json.dumps({"at": now, "stage": stage, **facts}) + "\n")
    sys.stdout.flush()


def _site_of(spec: JobSpec, connections: Connections) -> Callable[[Place], Site]:
    """Opens sites for a job, each only if the policy allows the job's data there on the day that it runs."""
    from rempart.sites.s3 import S3Site

    opened: dict[str, Site] = {}

    def site(place: Place) -> Site:
        if place.name not in opened:
            connection = connections(place.connection)
            endpoint = connection.extra.get("endpoint_url")
            today = datetime.now(UTC).date()
            allowed = decide_site(config.load(), spec.classification, "data", place.name, on=today, endpoint=endpoint)
            opened[place.name] = S3Site(place.name, connection, place.region, allowed)
        return opened[place.name]

    return site


def main(arguments: list[str] | None = None) -> int:
    """Run one job; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rempart.training.entrypoint", description=__doc__)
    parser.add_argument("--spec", required=True, help="file of the job spec (JSON), or - for standard input")
    named = parser.parse_args(arguments).spec
    # threads that spin while they wait stall each other on a busy machine: ten times slower was seen
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        spec = parse_spec(sys.stdin.read() if named == "-" else Path(named).read_text(encoding="utf-8"))
        run_job(spec, World(_site_of(spec, environment_connections), environment_connections, _print))
    except RempartError as error:
        _print("failed", error=type(error).__name__, what=error.what, hint=error.hint)
        return TRY_AGAIN if error.transient else 1
    except Exception as error:  # its message may quote data, so only its kind and place are said
        _print("failed", error=type(error).__name__, what=f"unexpected, {trainers.place_of(error)}", hint="Report it.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
