"""Proof: the demo's chain with its trainings in pods: the first pool is full, the second takes them, the third never.

    make prove-pods            ARGS="--linger 600" keeps the stack up for ten more minutes

The chain of `make demo` runs with `training.backend: kubernetes`. Then a pod is evicted half way: the job must continue
in the next pool from its checkpoint. Then the scheduler and the triggerer are killed while a pod runs: the pod must be
found again, and must not be created twice.

No cluster can be installed without root. Each pool is therefore a double that speaks Kubernetes' API and runs
containers as processes (tests/kubernetes_double), and in which Rempart has only the rights that deploy/kubernetes
grants. Pool gpu-a has no free GPU, gpu-b has two, and gpu-us, outside the Union, has plenty. The report names the pool
of each job.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes.client import ApiException

from bench import slow_training
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.setup import paths
from rempart.flows.shared.platform import open_platform
from rempart.settings import config
from rempart.training.job import parse_result
from rempart.training.kubernetes import pod as shape
from tests import pods
from tests.clusters import DoubleCluster
from tests.kubernetes_double import Request

OFFSET = "4000"
STEPS = 3000
FULL = {"gpu-a": 0, "gpu-b": 2, "gpu-us": 16}


@contextmanager
def own_stack(home: Path, var: Path, offset: str, clusters: dict[str, DoubleCluster]) -> Iterator[paths.Stack]:
    """Start the stack of a project whose jobs run in these clusters, from nothing; this process's environment leads
    to it.
    """
    before = dict(os.environ)
    os.environ |= {"REMPART_HOME": str(home), "REMPART_VAR": str(var), "REMPART_PORT_OFFSET": offset}
    os.environ |= pods.connections(clusters)
    stack = paths.current()
    try:
        if stack.state.is_dir():
            lifecycle.down(stack)
        shutil.rmtree(var, ignore_errors=True)
        yield stack
    finally:
        lifecycle.down(stack)
        os.environ.clear()
        os.environ |= before


def killed(api: AirflowApi, stack: paths.Stack, double: DoubleCluster, service: str) -> dict[str, Any]:
    """Kill a process of Airflow while a job's pod runs. Return the check that the job was adopted."""
    before = len(double.history)
    seed = round(time.time() % 1e6 * 1e-9, 12)  # another job each time
    params = {"max_iter": 3000, "learning_rate": 0.01, "l2_regularization": seed}
    run_id = api.trigger("train_hotel_bookings", {"trainer_params": params})
    deadline = time.monotonic() + 240
    while not (mine := double.history[before:]) or mine[0].started is None:
        if time.monotonic() > deadline:
            return {"what": f"kill -9 {service} while a pod runs", "ok": False, "detail": "no pod started in 240 s"}
        time.sleep(0.5)
    (line,) = [listed for listed in status.services(stack, time.time()) if listed.name == service]
    assert line.pid
    os.kill(line.pid, signal.SIGKILL)
    ended = "the run ended well"
    try:
        api.follow("train_hotel_bookings", run_id, print)
    except AirflowApiError as error:
        ended = error.what
    lifecycle.up(stack)
    mine = double.history[before:]
    detail = f"{ended}; {len(mine)} pod: {', '.join(f'{pod.name} {pod.phase}' for pod in mine)}"
    good = ended == "the run ended well" and len(mine) == 1 and mine[0].exit_code == 0
    return {"what": f"kill -9 {service} while a pod runs: the pod is adopted", "ok": good, "detail": detail}


def evicted(api: AirflowApi, clusters: dict[str, DoubleCluster]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Let gpu-a take a job and evict its pod half way.

    Return the checks that it continued in gpu-b, and the figures.
    """
    first = clusters["gpu-a"]
    before = {name: len(cluster.history) for name, cluster in clusters.items()}
    first.offer(1)
    seed = round(time.time() % 1e6 * 1e-9 + 1e-12, 12)  # another job each time
    params = {"max_iter": STEPS, "learning_rate": 0.01, "l2_regularization": seed}
    run_id = api.trigger("train_hotel_bookings", {"trainer_params": params})
    deadline = time.monotonic() + 240
    while (step := _step(first, before["gpu-a"])) < STEPS / 10:
        if time.monotonic() > deadline:
            return [{"what": "a pod runs in gpu-a", "ok": False, "detail": f"step {step} after 240 s"}], {}
        time.sleep(0.2)
    pod = first.history[before["gpu-a"]]
    first.ask_eviction(pod.name)
    first.offer(0)
    ended = "the run ended well"
    try:
        api.follow("train_hotel_bookings", run_id, print)
    except AirflowApiError as error:
        ended = error.what
    platform = open_platform()
    job = pod.labels[shape.JOB]
    records = [
        dict(record.body) for record in reversed(platform.ledger.find("placement")) if record.body["job_id"] == job
    ]
    placed = [(record["ran"]["pool"], record["outcome"]) for record in records]
    where = [
        f"{record['ran']['node']} ({record['ran']['region']}): {record['outcome']}, {record['cause']}"
        for record in records
    ]
    bucket = platform.config.buckets.artifacts
    result = parse_result(platform.active_site("personal").read(bucket, f"jobs/{job}/result.json"), job)
    work, made = result.work, {name: len(cluster.history) - before[name] for name, cluster in clusters.items()}
    found = [
        {
            "what": "a pod evicted half way: the job ends in the next pool",
            "ok": ended == "the run ended well" and made == {"gpu-a": 1, "gpu-b": 1, "gpu-us": 0},
            "detail": f"{ended}; pods by pool: {made}",
        },
        {
            "what": "it resumed from its checkpoint",
            "ok": work.resumed_from >= step * 0.9 > 0,
            "detail": f"evicted at step {step} or later of {STEPS}, resumed from {work.resumed_from}, "
            f"{work.total_over_attempts} steps over both attempts",
        },
        {
            "what": "the ledger says where both attempts ran",
            "ok": placed == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")],
            "detail": "; ".join(where) or "nothing",
        },
    ]
    return found, {"evicted_at": step, "resumed_from": work.resumed_from, "steps": work.total_over_attempts}


def _step(cluster: DoubleCluster, since: int) -> int:
    """Return the newest step that the first pod since a time reported."""
    if not (made := cluster.history[since:]):
        return 0
    try:
        answer = cluster.client().read_namespaced_pod_log(made[0].name, cluster.namespace, _preload_content=False)
    except ApiException:  # it has no log yet
        return 0
    lines = answer.data.decode().splitlines()
    return max((json.loads(line)["step"] for line in lines if '"stage": "progress"' in line), default=0)


def asked_by_us(cluster: DoubleCluster) -> list[Request]:
    """Return requests of the pool's account; the others are those of its administrator."""
    return [request for request in cluster.requests if request.user.startswith("system:serviceaccount:")]


def refusals(clusters: dict[str, DoubleCluster]) -> dict[str, Any]:
    """Return the check that the documented rights were enough, and were used for the requests."""
    asked = [
        request
        for each in clusters.values()
        for request in each.requests
        if request.user.startswith("system:serviceaccount:")
    ]
    without = [f"{request.method} {request.path}" for request in asked if request.status == 403]
    detail = f"{len(asked)} requests of the pools' accounts, refused: {', '.join(without[:5]) or 'none'}"
    return {
        "what": "the documented rights of each pool were enough",
        "ok": bool(asked) and not without,
        "detail": detail,
    }


def write(name: str, checks: list[dict[str, Any]], seconds: float, figures: dict[str, Any]) -> bool:
    """Print the table and write var/proof/<name>.json. Return whether every check passed."""
    for check in checks:
        mark = "ok " if check["ok"] else "RED" if check["ok"] is False else "NOT RUN"
        print(f"{mark} {check['what']}: {check['detail']}")
    good = all(check["ok"] for check in checks)
    target = config.var_dir() / "proof" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {"name": name, "ok": good, "seconds": seconds, "checks": checks, "figures": figures}
    target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{seconds:.0f} s; written: {target}")
    return good


def checks(report: dict[str, Any], placed: list[dict[str, Any]], clusters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the checks as a stranger makes them: of the report, the ledger, and the clusters."""
    ran = [job["ran"] for job in placed if job["outcome"] == "succeeded"]
    pods_of = {name: double.history for name, double in clusters.items()}
    left = [pod.name for double in clusters.values() for pod in double.history if pod.deleted is None]
    started = [pod for pod in pods_of["gpu-b"] if pod.started]
    told = [
        f"{place['pool']} ({place['operator']}, {place['region']}, node {place['node']}, {place['seconds']} s)"
        for place in ran
    ]
    return [
        {"what": "the demo's own checks", "ok": bool(report["ok"]), "detail": "; ".join(report["failures"]) or "all"},
        {"what": "trainings ran in pool gpu-b", "ok": len(ran) >= 2, "detail": "; ".join(told)},
        {
            "what": "pool gpu-a was asked first, and had no GPU free",
            "ok": bool(pods_of["gpu-a"]) and not [pod for pod in pods_of["gpu-a"] if pod.node],
            "detail": f"{len(pods_of['gpu-a'])} pods waited there, none got a node",
        },
        {
            "what": "pool gpu-us (US-owned, 16 GPUs free) was never used",
            "ok": not pods_of["gpu-us"] and all(request.method == "GET" for request in asked_by_us(clusters["gpu-us"])),
            "detail": f"{len(pods_of['gpu-us'])} pods were made there",
        },
        {
            "what": "each job ran once",
            "ok": len(started) == len(ran),
            "detail": f"{len(started)} containers started for {len(ran)} jobs",
        },
        {"what": "no pod and no process is left", "ok": not left, "detail": ", ".join(left) or "none"},
    ]


@rendering.on_terminal()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_pods", description=__doc__)
    parser.add_argument("--linger", type=int, default=0, help="seconds that the stack stays up afterwards")
    linger = parser.parse_args(arguments).linger
    folder = config.var_dir() / "prove-pods"
    home, var = folder / "home", folder / "var"
    shutil.rmtree(home, ignore_errors=True)
    own_pools = {"gpu-a": {"max_pending": "15s", "price_per_gpu_hour": 1.9}, "gpu-b": {"price_per_gpu_hour": 2.4}}
    pods.project(home, own_pools)
    slow_training.declare(home)
    began = time.monotonic()
    with pods.clusters(home, FULL) as clusters, own_stack(home, var, OFFSET, clusters) as stack:
        demo.run(lambda: lifecycle.up(stack))
        report = json.loads((var / "demo-report.json").read_text(encoding="utf-8"))
        placed = [dict(record.body) for record in reversed(open_platform().ledger.find("placement"))]
        found = checks(report, placed, clusters)
        api = AirflowApi(config.environment_connections("airflow_api"))
        more, figures = evicted(api, clusters)
        found += more
        for service in ("airflow-scheduler", "airflow-triggerer"):
            found.append(killed(api, stack, clusters["gpu-b"], service))
        found.append(refusals(clusters))
        time.sleep(linger)
    figures |= {"placements": placed, "demo_seconds": report["seconds"]}
    return 0 if write("pods", found, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
