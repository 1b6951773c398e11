"""The training job: `python -m rempart.training.entrypoint --spec FILE`, `--spec -` or `--spec env:NAME`.

It runs the same in a process beside Airflow and in a pod, and needs one site, MLflow, and their connections in the
environment; no database. While it trains, checkpoints go to the site; then its files, then the run to MLflow, then
result.json: whatever ends it in between, the same spec again goes on from there. Progress is one JSON object a line on
standard output. Exit status: 0 done, 75 a service did not answer (run again), 143 asked to end by SIGTERM or Ctrl-C
(run again), 1 anything else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rempart import config
from rempart.config import Connections, environment_connections
from rempart.errors import IntegrityError, ObjectMissing, RempartError, TrackingUnavailable, TrainingError
from rempart.sites.port import Site
from rempart.sovereignty.places import decide_site
from rempart.training import experiment, outputs, trainers
from rempart.training.checkpoints import Checkpoints
from rempart.training.interruption import INTERRUPTED, Interrupted, Interruption
from rempart.training.job import JobResult, JobSpec, Place, Work, parse_result, parse_spec
from rempart.training.outputs import Outputs, split_rows
from rempart.training.progress import EVERY_SECONDS, Progress, Run

__all__ = ["TRY_AGAIN", "World", "main", "run_job", "split_rows"]

T = TypeVar("T")
TRY_AGAIN = 75
ATTEMPTS, PAUSE_SECONDS = 3, 2.0


@dataclass(frozen=True)
class World:
    """What a job reaches, who stops it, and the seconds between two checkpoints (0: one after each step)."""

    site: Callable[[Place], Site]
    connections: Connections
    progress: Progress
    sleep: Callable[[float], None] = time.sleep
    checkpoint_every: float = EVERY_SECONDS
    interruption: Interruption = field(default_factory=Interruption)


def run_job(spec: JobSpec, world: World) -> JobResult:
    """Do a job, or what is left of it, and return its result.

    Raises TrainingError, TrackingUnavailable, TrackingRefused, SiteError, IntegrityError; Interrupted if asked to end.
    """
    if (code := trainers.code_version(spec.trainer.use)) != spec.code_version:
        raise TrainingError(
            f"The job was ordered for code {spec.code_version}, here is {code}",
            "Run the job with the package (image) of the version that ordered it.",
        )
    site, bucket = world.site(spec.output.site), spec.output.bucket
    checkpoints = Checkpoints(site, spec, world.progress)
    if (found := _read(site, bucket, spec.key("result.json"))) is not None:
        world.progress("adopted", job_id=spec.job_id)
        result = parse_result(found, spec.job_id)
        checkpoints.clear()
        return result
    made, work = _made(spec, site, checkpoints, world)
    began = time.monotonic()
    features = outputs.seen(spec)[0]
    logged_files = {name: body for name, body in made.files.items() if name != "metrics.json"}
    connection = world.connections(spec.tracking.connection)
    logged = _retried(lambda: experiment.log(connection, spec, features, made.metrics, logged_files), world)
    seconds = {**made.seconds, "log": round(time.monotonic() - began, 3)}
    world.progress("logged", run_id=logged.run_id, seconds=seconds["log"])
    result = JobResult(
        job_id=spec.job_id,
        status="succeeded",
        metrics=made.metrics,
        files={name: hashlib.sha256(body).hexdigest() for name, body in made.files.items()},
        model_files=logged.model_files,
        run_id=logged.run_id,
        model_id=logged.model_id,
        seconds=seconds,
        rows=made.rows,
        work=work,
        made_with=made.made_with,
    )
    site.write(bucket, spec.key("result.json"), result.to_json(), content_type="application/json")
    checkpoints.clear()
    world.progress("done", job_id=spec.job_id)
    return result


def _made(spec: JobSpec, site: Site, checkpoints: Checkpoints, world: World) -> tuple[Outputs, Work]:
    """Complete outputs, stored at the site, and the work as of this attempt."""
    if (before := _trained_before(spec, site)) is not None:
        world.progress("trained before", job_id=spec.job_id)
        return before, before.work.model_copy(update={"done_here": 0, "resumed_from": before.work.steps})
    run = Run(checkpoints, world.progress, world.interruption, world.checkpoint_every)
    made = outputs.make(spec, world.site, world.progress, run)
    site.write(spec.output.bucket, spec.key("spec.json"), spec.to_json(), content_type="application/json")
    # metrics.json names the others and their hashes: with it, the outputs are complete
    for name, body in sorted(made.files.items(), key=lambda item: item[0] == "metrics.json"):
        site.write(spec.output.bucket, spec.key(name), body)
    world.progress("stored", files=len(made.files), bytes=sum(map(len, made.files.values())))
    return made, made.work


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
    work = Work.model_validate(facts.get("work", {}))
    return Outputs(files, facts["metrics"], facts["rows"], facts["seconds"], work, facts.get("made_with", {}))


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


def read_spec(named: str) -> JobSpec:
    """The spec in a file, on standard input (`-`), or in an environment variable (`env:NAME`). Raises TrainingError."""
    if named == "-":
        return parse_spec(sys.stdin.read())
    if (variable := named.removeprefix("env:")) != named:
        if not (body := os.environ.get(variable)):
            raise TrainingError(
                f"The environment variable {variable[:80]} holds no job spec", "Set it to the spec as JSON."
            )
        return parse_spec(body)
    try:
        return parse_spec(Path(named).read_text(encoding="utf-8"))
    except OSError as cause:
        raise TrainingError(
            f"{named[:200]}: no job spec can be read ({type(cause).__name__})", "Name a file."
        ) from cause


def main(arguments: list[str] | None = None) -> int:
    """Run one job; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rempart.training.entrypoint", description=__doc__)
    where = "file of the job spec (JSON), - for standard input, or env:NAME for an environment variable"
    parser.add_argument("--spec", required=True, help=where)
    parser.add_argument(
        "--checkpoint-every", type=float, default=EVERY_SECONDS, metavar="SECONDS", help="0: after each step"
    )
    given = parser.parse_args(arguments)
    # threads that spin while they wait stall each other on a busy machine: ten times slower was seen
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interruption = Interruption()
    try:
        with interruption.listening(lambda: _print("interrupted", **interruption.facts, in_time=False)):
            return _run(given.spec, given.checkpoint_every, interruption)
    except Interrupted:  # the request came between two of the lines above
        return INTERRUPTED


def _run(named: str, checkpoint_every: float, interruption: Interruption) -> int:
    try:
        spec = read_spec(named)
        connections = environment_connections
        run_job(
            spec,
            World(
                _site_of(spec, connections),
                connections,
                _print,
                checkpoint_every=checkpoint_every,
                interruption=interruption,
            ),
        )
    except Interrupted:
        _print("interrupted", **interruption.facts, in_time=True)
        return INTERRUPTED
    except RempartError as error:
        _print("failed", error=type(error).__name__, what=error.what, hint=error.hint)
        return TRY_AGAIN if error.transient else 1
    except Exception as error:  # its message may quote data, so only its kind and place are said
        _print("failed", error=type(error).__name__, what=f"unexpected, {trainers.place_of(error)}", hint="Report it.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
