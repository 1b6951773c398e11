"""Part of `make prove-telemetry`: watch the containers of the platform and of a job, each from its own network.

Every container of the project is watched from its start: those of `docker compose up` with two more profiles (a worker
that trains, the queue, the metrics), and those of commands, which run the demo's chain and list restore points. At its
start and at the end, each container has to look up a name and send a packet: a counter that does not see these proves
nothing. The proof also names the hosts that the proxy was asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import prove_celery, quiet
from bench.outside import EGRESS
from bench.prove_compose import PROJECT, Check, Compose, check, tell
from bench.seen import docker

NAME = "telemetry-containers"
WHAT = "no container looks up a name or sends a packet outside"
JOB = "job"
CONTROL = "control.rempart-proof.invalid"
ADDRESS = "192.0.2.1"
_ASK = f"getent hosts {CONTROL}; echo x >/dev/udp/{ADDRESS}/9; true"
OF_PROJECT, SERVICE = f"com.docker.compose.project={PROJECT}", "com.docker.compose.service"
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
MEANWHILE = {"the demo's chain runs": ("cli", "rempart", "demo"), "the restore points are listed": ("restore",)}
"""Commands that run in containers of their own while all are watched: service and command."""
BARE_SECONDS = 60
"""Time for which the libraries without the switch are watched, once they are loaded."""
PATIENCE = 1500
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


def start_job(tag: str, name: str, seconds: float, *before: str) -> None:
    """Start a container of the trainer's image that holds a job's libraries."""
    # Compose labels the images that it builds, and a container inherits the labels of its image
    labels = ("--label", OF_PROJECT, "--label", f"{SERVICE}={JOB}")
    words = ("run", "--detach", "--rm", "--name", name, *labels, *NETWORKLESS, "--dns", quiet.RESOLVER)
    docker(*words, f"rempart/trainer:{tag}", *before, "python", "-c", HOLD, str(seconds))


def await_loaded(name: str) -> bool:
    """Return whether the container has loaded a job's libraries within five minutes. Raises once it has ended."""
    deadline = time.monotonic() + 300
    while "held" not in docker("logs", name):
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def networks(name: str) -> list[str]:
    """Return the subnets of a network."""
    if name in ("none", "host"):
        return []
    return [network["Subnet"] for network in json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"]]


@dataclass
class Watch:
    """The watched containers: of each, by name, its id, the number of its control requests, and the start of its
    count.
    """

    counters: quiet.Counters
    ids: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    began_after: dict[str, float] = field(default_factory=dict)
    """Seconds from the start of the container until its packets were counted."""
    _naming: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, container: str) -> None:
        """Watch one more container, under the name of its service, and make its control requests."""
        load = json.loads(docker("inspect", container))[0]
        name = self.take_name(load["Config"]["Labels"][SERVICE], container)
        self.counters.add(name, load)
        started = datetime.fromisoformat(load["State"]["StartedAt"])
        self.began_after[name] = round((datetime.now(UTC) - started).total_seconds(), 1)
        self.ask(name)

    def take_name(self, service: str, container: str) -> str:
        """Return an unused name: a service may have several containers, and a restarted one has a new network."""
        with self._naming:
            numbered = (f"{service} {number}" if number > 1 else service for number in range(1, 1000))
            name = next(name for name in numbered if name not in self.ids)
            self.ids[name] = container
        return name

    def ask(self, name: str) -> None:
        """Make the container look up a name and send a packet, which must be counted."""
        self.asked[name] += 1
        command = ["docker", "exec", self.ids[name], "bash", "-c", _ASK]
        subprocess.run(command, capture_output=True, check=False, timeout=120)

    def ask_again(self) -> set[str]:
        """Make the control requests again in each container that still runs. Return their names."""
        running = set(docker("ps", "--quiet", "--no-trunc").split())
        newest = {container: name for name, container in self.ids.items()}
        still = {name for container, name in newest.items() if container in running}
        for name in still:
            self.ask(name)
        return still


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch every container of the project that starts within the block."""
    since, filters = str(int(time.time())), ("type=container", "event=start", f"label={OF_PROJECT}")
    command = ["docker", "events", "--since", since, "--format", "{{.ID}}"]
    command += [word for rule in filters for word in ("--filter", rule)]
    with quiet.counting(networks) as counters, ThreadPoolExecutor(16) as pool:
        watch, begun = Watch(counters), list[Future[None]]()
        events = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def follow() -> None:
            for line in events.stdout or ():
                begun.append(pool.submit(watch.begin, line.strip()))

        following = pool.submit(follow)
        try:
            yield watch
        finally:
            events.terminate()
            events.wait()
        for watcher in (following, *begun):
            watcher.result()


def parted(record: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Split the counts of one container by destination: those of the control requests, and all others."""
    counted = dict(record.get("wanted", {}))
    control = {name: counted.pop(name) for name in [*counted] if CONTROL in name or f" {ADDRESS}:" in name}
    return control, counted


def figures_of(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the figures of one container."""
    control, rest = parted(record)
    look_ups = sum(count for name, count in rest.items() if name.startswith("look-up"))
    return {
        "look-ups outside": look_ups,
        "packets outside": sum(rest.values()) - look_ups,
        "controls counted": sum(control.values()),
        "packets seen": int(record.get("seen", 0)),
        "packets lost": int(record.get("lost", 0)),
    }


def judge(
    found: Mapping[str, Mapping[str, Any]], asked: Mapping[str, int], noting: Callable[[str, bool, str], None]
) -> None:
    """Return one check for each container: all its control requests were counted, and nothing else."""
    for name, record in sorted(found.items()):
        control, rest = parted(record)
        sound = len(control) >= 2 and min(control.values()) >= asked[name] > 0 and not record["lost"]
        told = ", ".join(f"{count} x {name}" for name, count in rest.items()) or "0 look-ups, 0 packets outside"
        more = "" if sound else f"; NOT COUNTED: control {control} of {asked[name]}, lost {record.get('lost')}"
        noting(f"{WHAT}: {name}", sound and not rest, f"{told}; {record.get('seen')} packets seen{more}")


def without_the_switch(tag: str, noting: Callable[[str, bool, str], None]) -> dict[str, int]:
    """Return the look-ups and packets of a job's libraries without ONNX Runtime's switch."""
    name = f"{NAME}-bare"
    with removed(name), quiet.counting(networks) as counters:
        start_job(tag, name, PATIENCE, "env", "-u", "ORT_DISABLE_TELEMETRY")
        counters.add(JOB, json.loads(docker("inspect", name))[0])
        noting("a job's libraries are loaded without the switch", await_loaded(name), name)
        time.sleep(BARE_SECONDS)
    heard = dict(counters.found[JOB].get("wanted", {}))
    noting("without its switch ONNX Runtime is heard", any("microsoft" in address for address in heard), str(heard))
    return heard


def ended_well(compose: Compose, *words: str) -> tuple[bool, str]:
    """Return whether a command in a container of its own succeeded in time, and its last words."""
    try:
        done = compose.run("run", "--rm", "--no-deps", "-T", *words, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return False, f"not over after {PATIENCE} s"
    return done.returncode == 0, (done.stdout + done.stderr)[-300:]


@contextmanager
def removed(name: str) -> Iterator[None]:
    """Remove a container at the end of the block."""
    try:
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def prove(linger: int, compose: Compose, var: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Start the platform, watch all its containers for this many seconds while the demo's chain runs, and judge."""
    noting, name = partial(check, checks), f"{NAME}-job"
    prove_celery.build(compose, var)
    figures["a job's libraries without the switch"] = without_the_switch(compose.tag, noting)
    with removed(name), watching() as watch:
        start_job(compose.tag, name, linger + 2 * PATIENCE)
        noting("a job's libraries are loaded", await_loaded(name), name)
        compose.must("up", "--wait", "--scale", "worker=1", timeout=PATIENCE)
        tell("the platform is up")
        began = time.monotonic()
        for what, words in MEANWHILE.items():
            noting(f"meanwhile {what}", *ended_well(compose, *words))
        time.sleep(max(0.0, linger - (time.monotonic() - began)))
        figures["seconds watched"] = round(time.monotonic() - began)
        there = {container["Id"] for container in compose.containers().values()}
        noting("every container was watched", there <= {*watch.ids.values()}, ", ".join(sorted(watch.ids)))
        still = watch.ask_again()
        noting("the job's libraries are held to the end", JOB in still, name)
    found = watch.counters.found
    figures["containers"] = {
        container: figures_of(found[container])
        | {"counted from second": watch.began_after[container], "to the end": container in still}
        for container in sorted(found)
    }
    judge(found, watch.asked, noting)
    log = compose.must("logs", "--no-log-prefix", EGRESS).splitlines()
    asked = [line for line in log if re.search(r" (denied|allowed \d+)$", line)]
    noting("nobody asked the proxy for the world outside", not asked, "; ".join(asked[:5]) or "no line in its log")
