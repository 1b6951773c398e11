"""Of `make prove-telemetry`: the containers of the platform and of a job, each watched from its own network.

The demo's chain runs meanwhile, in containers, with two profiles more than `docker compose up` has: a worker that
trains, the queue, the metrics. Before and after, each container is made to ask for a name and to send a packet: a
counter that does not see these proves nothing. The proof also names what the proxy was asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import prove_celery, quiet
from bench.outside import EGRESS
from bench.prove_compose import Check, Compose, check, tell
from bench.seen import docker

NAME = "telemetry-containers"
WHAT = "no container looks up a name or sends a packet outside"
JOB = "job"
CONTROL = "control.rempart-proof.invalid"
ADDRESS = "192.0.2.1"
_ASK = f"getent hosts {CONTROL}; echo x >/dev/udp/{ADDRESS}/9; true"
HOLD = """
import sys, time
import boto3, mlflow, numpy, onnx, onnxruntime, pyarrow.parquet, sklearn
from onnx import TensorProto, helper
one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [one], [two])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString())
mlflow.MlflowClient("http://127.0.0.1:9")
print("held", flush=True)
time.sleep(float(sys.argv[1]))
"""
"""Code that loads the libraries of a job and a model, and then waits."""
BARE_SECONDS = 60
NETWORKLESS = (
    "--network",
    "none",
    "--read-only",
    "--user",
    "50000:0",
    "--cap-drop",
    "ALL",
    "--tmpfs",
    "/tmp:mode=1777",  # noqa: S108 - in the container
)


def job(tag: str, name: str, seconds: float, *before: str) -> dict[str, Any]:
    """Start a container of the trainer's image that holds a job's libraries; what the Engine says of it."""
    words = ("run", "--detach", "--rm", "--name", name, *NETWORKLESS, "--dns", quiet.RESOLVER)
    docker(*words, f"rempart/trainer:{tag}", *before, "python", "-c", HOLD, str(seconds))
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def networks(name: str) -> list[str]:
    """The subnets of a network."""
    if name in ("none", "host"):
        return []
    return [one["Subnet"] for one in json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"]]


def judge(found: dict[str, dict[str, Any]], asked: int, noting: Callable[[str, bool, str], None]) -> None:
    """One check a container: it was heard `asked` times at the control, and wanted nothing else."""
    for service, one in sorted(found.items()):
        wanted = dict(one.get("wanted", {}))
        heard = [name for name in wanted if CONTROL in name or f" {ADDRESS}:" in name]
        controls = {name: wanted.pop(name) for name in heard}
        sound = len(controls) >= 2 and min(controls.values()) >= asked and not one["lost"]
        told = ", ".join(f"{count} x {name}" for name, count in wanted.items()) or "0 look-ups, 0 packets outside"
        more = "" if sound else f"; NOT COUNTED: control {controls}, lost {one.get('lost')}"
        noting(f"{WHAT}: {service}", sound and not wanted, f"{told}; {one.get('seen')} packets seen{more}")


def prove(linger: int, compose: Compose, var: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Start the platform, watch all its containers for so many seconds while the demo's chain runs, and judge."""
    noting = partial(check, checks)
    prove_celery.start(compose, var, 1)
    tell("the platform is up")
    names = (f"{NAME}-bare", f"{NAME}-job")
    try:
        bare = job(compose.tag, names[0], BARE_SECONDS, "env", "-u", "ORT_DISABLE_TELEMETRY")
        with quiet.watching({JOB: bare}, networks) as loud:
            time.sleep(BARE_SECONDS)
        heard = dict(loud.found[JOB].get("wanted", {}))
        figures["a job's libraries without the switch"] = heard
        noting("without its switch ONNX Runtime is heard", any("microsoft" in one for one in heard), str(heard))
        running = compose.running() | {JOB: job(compose.tag, names[1], linger + 600)}
        ids = {service: str(one["Id"]) for service, one in running.items()}

        def ask() -> None:
            for one in ids.values():
                subprocess.run(["docker", "exec", one, "bash", "-c", _ASK], capture_output=True, check=False)

        with quiet.watching(running, networks) as watched:
            ask()
            began = time.monotonic()
            words = ("run", "--rm", "--no-deps", "-T", "cli", "rempart", "demo")
            done = compose.run(*words, timeout=1500)
            noting("the demo's chain runs meanwhile", done.returncode == 0, (done.stdout + done.stderr)[-300:])
            time.sleep(max(0.0, linger - (time.monotonic() - began)))
            figures["seconds watched"] = round(time.monotonic() - began)
            noting("the job's libraries are held to the end", "held" in docker("logs", names[1]), names[1])
            ask()
    finally:
        subprocess.run(["docker", "rm", "--force", *names], capture_output=True, check=False)
    judge(watched.found, 2, noting)
    log = compose.must("logs", "--no-log-prefix", EGRESS).splitlines()
    asked = [line for line in log if re.search(r" (denied|allowed \d+)$", line)]
    noting("nobody asked the proxy for the world outside", not asked, "; ".join(asked[:5]) or "no line in its log")
