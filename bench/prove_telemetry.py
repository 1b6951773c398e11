"""Proof: a training job and the platform's services look up no name and send no packet outside. Needs root.

    make prove-telemetry                    ARGS="--linger 60" watches for a minute instead of ten
    make prove-telemetry ARGS=--containers  the platform's containers and a job's (bench.telemetry_containers)

The stack starts in a network namespace with loopback and a counting sink (`bench/sink.py`), and a job runs with exactly
the variables of its pod. A process with those variables then holds the libraries of a job, a loaded ONNX model and
MLflow's client for ten minutes, because some libraries contact their maker's host only after a while. Every packet and
every look-up is counted with its process. First, the same process runs without the switches, to show what the switches
prevent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import sink, telemetry_containers
from bench.prove_compose import proven
from bench.prove_egress import Proof, by_destination, control, rempart, stop, table, write
from rempart.deployment.setup import launch, paths
from rempart.deployment.setup.environment import MARKER
from rempart.flows.shared.platform import Platform, open_platform
from rempart.flows.training import train
from rempart.settings import config
from rempart.settings.sections import Buckets
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.training.backends import stored_result
from rempart.training.job import JobSpec
from rempart.training.kubernetes import pod
from rempart.training.permission import permit
from tests.unit.training import stage

NAME = "telemetry"
LINGER_SECONDS = 600
BARE_SECONDS = 40
"""Time for which the process without the switches is watched: ONNX Runtime looked its host up within 20 s."""
HOLD = """
import sys, time
import boto3, matplotlib, mlflow, numpy, onnx, onnxruntime, pyarrow.parquet, sklearn
from mlflow import MlflowClient
session = onnxruntime.InferenceSession(sys.argv[1])
MlflowClient("http://127.0.0.1:9")
time.sleep(float(sys.argv[2]))
"""
"""Code of a process that loads the libraries of a job and then waits."""


def ordered(platform: Platform) -> tuple[Platform, JobSpec]:
    """Order a job on a small training set, in buckets of its own."""
    names = Buckets(lake="telemetry-lake", artifacts="telemetry-artifacts")
    settings = platform.config.model_copy(update={"buckets": names})
    made = Platform(settings, platform.connections)
    site = made.active_site("personal")
    for bucket in (names.lake, names.artifacts):
        site.ensure_bucket(bucket, versioned=True)
    spec = train.order(made, stage.pipeline(), stage.table(), "s1")
    return made, permit(settings, spec, on=made.clock().date())


def pod_environment(platform: Platform, spec: JobSpec) -> dict[str, str]:
    """Return the variables of a job's container, its credentials included, and PATH and HOME of an image."""
    names = {spec.dataset.site.connection, spec.output.site.connection, spec.tracking.connection}
    given = {f"AIRFLOW_CONN_{name.upper()}": config.connection_text(platform.connections(name)) for name in names}
    image = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/tmp"}  # noqa: S108 - private here
    return image | {variable["name"]: variable["value"] for variable in pod.environment(spec)} | given | _marked("job")


def _marked(service: str) -> dict[str, str]:
    return {MARKER: f"{paths.current().id}:{service}"}


def job(proof: Proof, platform: Platform) -> tuple[dict[str, str], Path]:
    """Run a job with its pod's variables in a folder without rempart.yaml. Return those variables, and the model."""
    made, spec = ordered(platform)
    variables = pod_environment(made, spec)
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, *pod.COMMAND[1:]]
        done = subprocess.run(command, env=variables, cwd=empty, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    proof.check("a job runs with its pod's variables", done.returncode == 0, last[0][:200])
    site = made.active_site("personal")
    stored_result(site, spec)
    model = Path(tempfile.mkdtemp()) / "model.onnx"
    model.write_bytes(site.read(spec.output.bucket, spec.key("model.onnx")))
    return variables, model


def hold(variables: dict[str, str], model: Path, seconds: float, service: str) -> subprocess.Popen[bytes]:
    """Run a process with a job's libraries and a loaded model for this long."""
    command = [sys.executable, "-c", HOLD, str(model), str(seconds)]
    return subprocess.Popen(command, env=variables | _marked(service), cwd=model.parent)


def told(attempts: Sequence[sink.Attempt]) -> str:
    found = Counter(attempt.destination for attempt in attempts)
    return ", ".join(f"{count} x {destination}" for destination, count in found.most_common(5)) or "none"


def sealed(arguments: argparse.Namespace) -> int:
    """Run the part inside the namespace."""
    proof = Proof()
    with sink.Sink() as caught:
        control(proof, caught, "before")
        begin = len(caught.attempts())
        attempts: tuple[sink.Attempt, ...] = ()
        try:
            rempart(proof, "the stack starts", "up")
            variables, model = job(proof, open_platform())
            attempts = caught.attempts(begin)
            bare = {name: value for name, value in variables.items() if name not in TELEMETRY_OFF}
            before = len(caught.attempts())
            hold(bare, model, BARE_SECONDS, "without the switches").wait()
            loud = [attempt for attempt in caught.attempts(before) if "without the switches" in (attempt.service or "")]
            proof.figures["attempts without the switches"] = len(loud)
            proof.tell(f"without the switches, in {BARE_SECONDS} s: {told(loud)}")
            proof.tell(f"watching for {arguments.linger} s: a job's libraries, and the services")
            begin = len(caught.attempts())
            held = hold(variables, model, arguments.linger, "job")
            running = services()
            proof.check("the job's libraries are held to the end", held.wait() == 0, f"{arguments.linger} s")
            attempts += caught.attempts(begin)
            counted = Counter(attempt.service or "no service" for attempt in attempts)
            for name in sorted({*running, "job"}):
                seen = f"{counted[name]} in {arguments.linger} s"
                proof.check(f"no look-up and no packet outside: {name}", not counted[name], seen)
        except Exception as error:
            proof.check("every step could be taken", False, f"{type(error).__name__}: {error}")
        finally:
            rempart(proof, "the stack is stopped", "down")
        control(proof, caught, "after")
    proof.figures |= {"attempts": len(attempts), "seconds watched": arguments.linger}
    proof.check("no look-up and no packet outside, by anybody", not attempts, told(attempts))
    write(arguments.result, proof.report() | {"name": NAME, "attempts": by_destination(attempts)})
    return 0


def services() -> set[str]:
    """Return the names of the services whose processes run."""
    return {process.environ().get(MARKER, "").rpartition(":")[2] for process in launch.marked(f"{paths.current().id}:")}


def in_containers(linger: int) -> int:
    """Run the other part, which needs a Docker Engine. Return its exit code."""
    folder = config.var_dir().absolute() / telemetry_containers.NAME
    prove = partial(telemetry_containers.prove, linger)
    return proven(telemetry_containers.NAME, telemetry_containers.WHAT, prove, folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make prove-telemetry", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--linger", type=int, default=LINGER_SECONDS, help="seconds to watch")
    parser.add_argument("--containers", action="store_true", help="watch the platform in containers instead")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if sink.inside():
        return sealed(arguments)
    if arguments.containers:
        return in_containers(arguments.linger)
    result = config.var_dir().absolute() / "proof" / f"{NAME}.json"
    result.unlink(missing_ok=True)
    if reason := sink.why_not():
        proof = Proof()
        proof.check("no look-up and no packet outside, by anybody", None, reason)
        write(result, proof.report() | {"name": NAME})
        print(f"\nThe proof was NOT RUN: {reason}. {result} says so.", file=sys.stderr)
        return 1
    var = config.var_dir().absolute() / "prove-telemetry"
    shutil.rmtree(var, ignore_errors=True)
    var.mkdir(parents=True)
    signal.signal(signal.SIGTERM, stop)
    inner = var / f"{NAME}.json"
    code = sink.Namespace().run(
        "bench.prove_telemetry",
        ["--linger", str(arguments.linger), "--result", str(inner)],
        {"REMPART_VAR": str(var), "REMPART_HOME": str(config.project_root())},
    )
    if not inner.is_file():
        print(f"RED: the proof's process ended with {code} before it could report", file=sys.stderr)
        return 1
    report = json.loads(inner.read_text(encoding="utf-8"))
    write(result, report)
    print("\n".join(table(report)))
    print(f"\n{'ok' if report['ok'] else 'RED'}: {report['figures']['attempts']} attempts; {result}")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
