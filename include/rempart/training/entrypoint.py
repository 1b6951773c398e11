"""The training job: `python -m rempart.training.entrypoint --spec FILE`, `--spec -` or `--spec env:NAME`.

It runs the same in a process beside Airflow and in a pod, and needs one site, MLflow, and their connections in the
environment; no database. While it trains, checkpoints go to the site; then its files, then the run to MLflow, then
result.json: whatever ends it in between, the same spec again goes on from there. Progress is one JSON object a line on
standard output. Exit status: 0 done, 75 a service did not answer (run again), 77 its session at the site is over (run
again with a new one), 143 asked to end by SIGTERM or Ctrl-C (run again), 1 anything else.

`--probe URL...` stops at the point before data, and says whether each address answers (`rempart pool doctor --probe`).

A job on several nodes is this command once on each (see `process_group`); where a node has several GPUs, it starts a
process for each (see `processes`). The first one does all of the above; the others share the training, and end as the
first does. 75 also means that they did not meet, 143 that one is gone.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rempart import canonical_json
from rempart.errors import (
    ConnectionMissing,
    IntegrityError,
    ObjectMissing,
    RempartError,
    SessionExpired,
    TrackingUnavailable,
    TrainingError,
)
from rempart.models import onnx_format
from rempart.settings.config import Connection, Connections, parse_connection
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.port import Site
from rempart.sovereignty.job_permission import JobSite
from rempart.training import experiment, outputs
from rempart.training.addresses import reach
from rempart.training.attempts import process_group, processes
from rempart.training.attempts.checkpoints import Checkpoints
from rempart.training.attempts.interruption import INTERRUPTED, SESSION_OVER, TRY_AGAIN, Interrupted, Interruption
from rempart.training.attempts.process_group import PROCESS, Group, PeerLost
from rempart.training.attempts.progress import EVERY_SECONDS, Progress, TrainingRun
from rempart.training.attempts.progress_lines import tell
from rempart.training.gpus import nvml, usage
from rempart.training.gpus.watch import Gpus
from rempart.training.job import PYTHON, JobResult, JobSpec, Origin, Validated, Work, parse_result, parse_spec
from rempart.training.outputs import Measurements, Outputs
from rempart.training.permission import decide, permission_of
from rempart.training.trainers import trainers

__all__ = ["SESSION_OVER", "TRY_AGAIN", "World", "main", "run_job"]

T = TypeVar("T")
ATTEMPTS, PAUSE_SECONDS = 3, 2.0
_LIBRARIES = ("boto3", "mlflow", "onnx", "onnxruntime", "pyarrow.parquet", "rempart.sites.s3.site", "sklearn")
"""Modules that every job loads sooner or later."""
TRAIN, NOTHING = b"train", b"nothing"
"""Commands of the first node to the others."""


@dataclass(frozen=True)
class World:
    """Environment of a job: sites, interruption, GPUs, and seconds between two checkpoints (0: after each step)."""

    site: Callable[[JobSite], Site]
    connections: Connections
    progress: Progress
    sleep: Callable[[float], None] = time.sleep
    checkpoint_every: float = EVERY_SECONDS
    interruption: Interruption = field(default_factory=Interruption)
    group: Group = field(default_factory=Group)
    gpus: Callable[[], Gpus] = nvml.opened


def run_job(spec: JobSpec, world: World) -> JobResult:
    """Run a job, or the rest of it, and return its result.

    With several nodes, this runs on the first. Raises TrainingError, TrackingUnavailable, TrackingRefused, SiteError,
    IntegrityError; Interrupted if asked to end, or if another node is gone.
    """
    _check(spec, world.group)
    site, bucket = world.site(spec.output.site), spec.output.bucket
    checkpoints = Checkpoints(site, spec, world.progress)
    if (stored := _read(site, bucket, spec.key("result.json"))) is not None:
        world.group.broadcast(NOTHING)
        world.progress("adopted", job_id=spec.job_id)
        result = parse_result(stored, spec.job_id)
        checkpoints.clear()
        return result
    outcome, work = _made(spec, site, checkpoints, world)
    began = time.monotonic()
    features = outputs.seen(spec)[0]
    logged_files = {name: body for name, body in outcome.files.items() if name != "metrics.json"}
    connection = world.connections(spec.tracking.connection)
    shown = outcome.metrics | usage.figures(outcome.gpus)
    logged = _retried(lambda: experiment.log(connection, spec, features, shown, logged_files), world)
    seconds = {**outcome.seconds, "log": round(time.monotonic() - began, 3)}
    world.progress("logged", run_id=logged.run_id, seconds=seconds["log"])
    result = JobResult(
        job_id=spec.job_id,
        status="succeeded",
        metrics=outcome.metrics,
        files={name: hashlib.sha256(body).hexdigest() for name, body in outcome.files.items()},
        model_files=logged.model_files,
        run_id=logged.run_id,
        model_id=logged.model_id,
        seconds=seconds,
        rows=outcome.rows,
        work=work,
        made_with=outcome.made_with,
        gpus=outcome.gpus,
        validation=outcome.measured.validation,
        backtest=outcome.measured.backtest,
        decision=permission_of(spec).decision,
    )
    site.write(bucket, spec.key("result.json"), result.to_json(), content_type="application/json")
    checkpoints.clear()
    world.progress("done", job_id=spec.job_id)
    return result


def share_job(spec: JobSpec, world: World) -> None:
    """Run a job's part on a node other than the first, until the first node has the result.

    Raises the errors of `run_job`.
    """
    _check(spec, world.group)
    if world.group.broadcast() == TRAIN:
        checkpoints = Checkpoints(world.site(spec.output.site), spec, world.progress)
        run = TrainingRun(checkpoints, world.progress, world.interruption, world.checkpoint_every, group=world.group)
        outputs.share(spec, world.site, run, world.gpus)
    world.group.await_first()


def _check(spec: JobSpec, group: Group) -> None:
    """Refuse a job that is for other code or another number of nodes, or that no policy allowed."""
    permission_of(spec)
    if (code := trainers.code_version(spec.trainer.use)) != spec.code_version:
        what = f"run the job: it was ordered for code {spec.code_version}, but this is {code}"
        hint = "Run the job with the package (image) of the version that ordered it."
        if spec.python != PYTHON:
            what = (
                f"run the job: it was ordered by Python {spec.python} for code {spec.code_version}, but this is "
                f"{code} on Python {PYTHON}"
            )
            hint = (
                "Two Python versions may have different versions of the locked libraries. Build the trainer's "
                f"image on a BASE_IMAGE with Python {spec.python} (`make images`), or install Rempart for Python "
                f"{PYTHON} where jobs are ordered (`make setup PYTHON=python{PYTHON}`)."
            )
        raise TrainingError(what, hint)
    if group.size != spec.size:
        raise TrainingError(
            f"run the job: it is for {spec.size} processes on {spec.nodes} nodes, but was started as {group.size}",
            "Start this command once on each node.",
        )


def _made(spec: JobSpec, site: Site, checkpoints: Checkpoints, world: World) -> tuple[Outputs, Work]:
    """Return complete outputs, stored at the site, and the work of this attempt."""
    if (before := _trained_before(spec, site)) is not None:
        world.group.broadcast(NOTHING)
        world.progress("trained before", job_id=spec.job_id)
        return before, before.work.model_copy(update={"done_here": 0, "resumed_from": before.work.steps})
    world.group.broadcast(TRAIN)
    run = TrainingRun(checkpoints, world.progress, world.interruption, world.checkpoint_every, group=world.group)
    outcome = outputs.make(spec, world.site, world.progress, run, world.gpus)
    site.write(spec.output.bucket, spec.key("spec.json"), spec.to_json(), content_type="application/json")
    # metrics.json names the others and their hashes: with it, the outputs are complete
    for name, body in sorted(outcome.files.items(), key=lambda item: item[0] == "metrics.json"):
        site.write(spec.output.bucket, spec.key(name), body)
    world.progress("stored", files=len(outcome.files), bytes=sum(map(len, outcome.files.values())))
    return outcome, outcome.work


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
    """Return complete outputs of an earlier attempt, or None if missing or different from its metrics.json."""
    if (body := _read(site, spec.output.bucket, spec.key("metrics.json"))) is None:
        return None
    try:
        facts = canonical_json.read(body)
        digests, work = dict(facts["files"]), Work.model_validate(facts.get("work", {}))
        metrics, seconds = (
            {name: float(each) for name, each in facts[part].items()} for part in ("metrics", "seconds")
        )
        validation, backtest = facts["validation"], facts["backtest"]
        of = Measurements(
            Validated.model_validate(validation) if validation else None, tuple(map(Origin.model_validate, backtest))
        )
        made_with, gpus = dict(facts.get("made_with", {})), usage.GpusUse.model_validate(facts["gpus"])
        rows, _ = int(facts["rows"]), digests[onnx_format.MODEL_FILE]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # as below
    files = {"metrics.json": body}
    for name, digest in digests.items():
        try:
            files[name] = site.read(spec.output.bucket, spec.key(name), sha256=str(digest))
        except (ObjectMissing, IntegrityError):
            return None  # trained again: the same job gives the same model
    return Outputs(files, metrics, rows, seconds, work, made_with, of, gpus)


def _connection(name: str) -> Connection:
    """Return a connection of the job from its environment only. Raises ConnectionMissing."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    hint = "The program that starts the job must set the connections that its spec names, as JSON or URIs."
    if not (text := os.environ.get(variable)):
        raise ConnectionMissing(f"run the job: connection '{name}' is missing, because {variable} is not set", hint)
    try:
        return parse_connection(name, text)
    except ValueError:  # the cause would quote the value, which holds the password
        raise ConnectionMissing(f"run the job: {variable} is neither JSON nor a URI", hint) from None


def _site_of(spec: JobSpec, connections: Connections) -> Callable[[JobSite], Site]:
    """Return a function that opens sites permitted by the spec."""
    from rempart.sites.s3.site import S3Site

    opened: dict[str, Site] = {}

    def site(place: JobSite) -> Site:
        if place.name not in opened:
            connection = connections(place.connection)
            endpoint = connection.extra.get("endpoint_url")
            allowed = decide(spec, place.name, endpoint, on=datetime.now(UTC).date())
            opened[place.name] = S3Site(place.name, connection, place.region, allowed)
        return opened[place.name]

    return site


def read_spec(named: str) -> JobSpec:
    """Return the spec from a file, standard input (`-`) or an environment variable (`env:NAME`).

    Raises TrainingError.
    """
    if named == "-":
        return parse_spec(sys.stdin.read())
    if (variable := named.removeprefix("env:")) != named:
        if not (body := os.environ.get(variable)):
            raise TrainingError(
                f"read the job spec: the environment variable {variable[:80]} is not set", "Set it to the spec as JSON."
            )
        return parse_spec(body)
    try:
        return parse_spec(Path(named).read_text(encoding="utf-8"))
    except OSError as cause:
        raise TrainingError(
            f"read the job spec from {named[:200]}: {type(cause).__name__}", "Pass the name of a readable file."
        ) from cause


def main(arguments: list[str] | None = None) -> int:
    """Run one job. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rempart.training.entrypoint", description=__doc__)
    where = "file of the job spec (JSON), - for standard input, or env:NAME for an environment variable"
    parser.add_argument("--spec", required=True, help=where)
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=EVERY_SECONDS,
        metavar="SECONDS",
        help=("seconds between two checkpoints; 0: after each step"),
    )
    parser.add_argument(
        "--probe", nargs="*", metavar="URL", help=("stop before reading data, and try to reach these addresses")
    )
    given = parser.parse_args(arguments)
    # threads that spin while they wait stall each other on a busy machine: ten times slower was seen
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(TELEMETRY_OFF)  # before a library is loaded that looks
    os.environ.setdefault(nvml.ORDER, "PCI_BUS_ID")  # so that CUDA and NVML give a GPU the same number
    try:
        spec = read_spec(given.spec)
    except Exception as error:
        return _failed(Group(), error)
    alone = spec.processes == 1 or PROCESS in os.environ
    if not alone and (status := processes.start(spec.processes, spec.nodes)) is not None:
        return status
    interruption = Interruption()
    try:
        with interruption.listening(lambda: tell("interrupted", **interruption.facts, in_time=False)):
            return _run(spec, given.checkpoint_every, interruption, given.probe)
    except Interrupted:  # the request came between two of the lines above
        return INTERRUPTED


def _probed(spec: JobSpec, group: Group, targets: Sequence[str]) -> int:
    """Do what a job does before it opens a site, and try the addresses; the exit status."""
    _check(spec, group)
    for name in _LIBRARIES:
        importlib.import_module(name)
    tell("ready", version=spec.version, code=spec.code_version)
    answers = [(target, *reach(target)) for target in targets]
    for target, ok, detail in answers:
        tell("reached", target=target, ok=ok, detail=detail)
    return 0 if all(ok for _, ok, _ in answers) else 1


def _run(spec: JobSpec, checkpoint_every: float, interruption: Interruption, probe: Sequence[str] | None) -> int:
    group = Group()
    try:
        if (seat := process_group.seat(spec.nodes, os.environ, spec.processes)) is not None:
            tell("joining", node=seat.rank, nodes=seat.size)
            group = process_group.join(seat, spec.job_id)
            tell("joined", node=group.rank, nodes=group.size)
        world = World(
            _site_of(spec, _connection),
            _connection,
            tell if group.rank == 0 else _nothing,
            checkpoint_every=checkpoint_every,
            interruption=interruption,
            group=group,
        )
        if probe is not None:
            return group.leave(_probed(spec, group, probe))
        if group.rank == 0:
            run_job(spec, world)
        else:
            share_job(spec, world)
            tell("done", job_id=spec.job_id, node=group.rank)
        return group.leave(0)
    except Interrupted as end:
        return _interrupted(end, group, interruption)
    except Exception as error:
        return _failed(group, error)


def _failed(group: Group, error: Exception) -> int:
    """Say why the job failed, and leave; the exit status."""
    if isinstance(error, RempartError):
        report = {"error": type(error).__name__, "what": error.what, "hint": error.hint}
        status = SESSION_OVER if isinstance(error, SessionExpired) else TRY_AGAIN if error.transient else 1
    else:  # its message may quote data, so only its kind and place are said
        what = f"unexpected, {trainers.place_of(error)}"
        report, status = {"error": type(error).__name__, "what": what, "hint": "Report it."}, 1
    tell("failed", **_node(group), **report)
    return group.leave(status, **report)


def _interrupted(end: Interrupted, group: Group, interruption: Interruption) -> int:
    """Say so, and leave. When a peer is gone because it failed, this node failed too, for the same reason."""
    if isinstance(end, PeerLost) and (failure := group.failure()) is not None:
        status = int(failure.pop("status"))
        tell("failed", **failure)
        return group.leave(status, **failure)
    facts: dict[str, Any] = dict(interruption.facts)
    if group.rank > 0:
        facts.pop("saved_step", None)  # it is the first node that knows
    if isinstance(end, PeerLost):
        facts["why"] = "another node ended or does not answer"
    tell("interrupted", **_node(group), **facts, in_time=True)
    return group.leave(INTERRUPTED)


def _node(group: Group) -> dict[str, int]:
    return {"node": group.rank} if group.size > 1 else {}


def _nothing(*_: Any, **__: Any) -> None:
    """Ignore progress of nodes other than the first."""


if __name__ == "__main__":
    gc.set_threshold(20_000)  # its libraries make many objects that stay: the default takes 0.2 s to look through them
    sys.exit(main())
