"""Proof: 8 trials on two GPU pools, while scheduler and triggerer are killed: each trial runs once.

    make prove-search-pools

The pools' clusters are doubles, with one GPU and with two, so that a full pool hands on. Scheduler, triggerer, sites,
MLflow and the jobs' processes are real. While pods of the first generation run, the scheduler is killed (SIGKILL);
while pods of the second run, the triggerer. Both are started again by the supervisor. Then the clusters, the ledger and
the sites are read.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from bench.prove_failover import Check, check
from bench.prove_pods import own_stack, refusals, write
from bench.searching import PIPELINE, project, with_features
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.setup import paths
from rempart.flows.search.records import searches
from rempart.flows.shared.platform import Platform, open_platform
from rempart.settings import config
from rempart.training.kubernetes import pod as shape
from tests import pods
from tests.clusters import DoubleCluster
from tests.kubernetes_double import PodRecord

OFFSET, NAME = "7300", "search-pools"
TRIALS, AT_ONCE = 8, 4
GPUS = {"gpu-a": 1, "gpu-b": 2, "gpu-us": 16}
FIXED = {"num_iterations": 200, "early_stopping_rounds": 30}
PATIENCE = 600.0


def prove(stack: paths.Stack, clusters: dict[str, DoubleCluster]) -> tuple[list[Check], dict[str, Any]]:
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    with_features(platform, api)
    print("--- the search", flush=True)
    since, began = platform.clock(), time.monotonic()
    run = api.trigger(f"search_{PIPELINE}")
    killed = []

    def started(more_than: int) -> bool:
        return len(_started(clusters)) > more_than

    for service, before in (("airflow-scheduler", 0), ("airflow-triggerer", AT_ONCE)):
        until(partial(started, before), f"more than {before} pods started")
        killed.append(kill(stack, service))
        print(f"    killed {service} while {len(_running(clusters))} pods ran", flush=True)
    ended = "the run ended well"
    try:
        api.follow(f"search_{PIPELINE}", run, print, timeout=1800)
    except AirflowApiError as error:
        ended = error.what
    seconds = round(time.monotonic() - began, 1)
    lifecycle.up(stack)
    return of_world(platform, clusters, ended, killed), {"search_seconds": seconds, "since": since.isoformat()}


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.3)


def kill(stack: paths.Stack, service: str) -> int:
    """Kill a process of Airflow (SIGKILL). Return its number."""
    (line,) = [listed for listed in status.services(stack, time.time()) if listed.name == service]
    assert line.pid
    with suppress(ProcessLookupError):
        os.kill(line.pid, signal.SIGKILL)
    return int(line.pid)


def _started(clusters: dict[str, DoubleCluster]) -> list[PodRecord]:
    return [pod for cluster in clusters.values() for pod in cluster.history if pod.started]


def _running(clusters: dict[str, DoubleCluster]) -> list[PodRecord]:
    return [pod for pod in _started(clusters) if pod.finished is None and pod.deleted is None]


def of_world(platform: Platform, clusters: dict[str, DoubleCluster], ended: str, killed: list[int]) -> list[Check]:
    found = searches(platform.ledger, PIPELINE)
    trials = found[0].trials if found else ()
    jobs = {trial.job for trial in trials}
    ran = Counter(pod.labels[shape.JOB] for pod in _started(clusters) if pod.labels.get(shape.JOB) in jobs)
    where = Counter(
        name
        for name, cluster in clusters.items()
        for pod in cluster.history
        if pod.started and pod.labels.get(shape.JOB) in jobs
    )
    left = [pod.name for cluster in clusters.values() for pod in cluster.history if pod.deleted is None]
    placed = Counter(trial.place for trial in trials)
    outcomes = Counter(
        record.body["outcome"]
        for record in platform.ledger.find("placement", limit=1000)
        if record.body["job_id"] in jobs
    )
    opened = [record.body["job_id"] for record in platform.ledger.find("opening", PIPELINE)]
    return [
        check("the run ended although both were killed", ended == "the run ended well", f"{ended}; killed {killed}"),
        check("the ledger has one search", len(found) == 1, f"{len(found)} records"),
        check(
            f"it tells {TRIALS} trials, each complete and of a job of its own",
            len(trials) == len(jobs) == TRIALS and {trial.state for trial in trials} == {"complete"},
            f"{len(jobs)} jobs, {dict(Counter(trial.state for trial in trials))}",
        ),
        check(
            "each trial's job had one pod that ran",
            len(ran) == TRIALS and set(ran.values()) == {1},
            f"{sum(ran.values())} pods of {len(ran)} jobs; outcomes {dict(outcomes)}",
        ),
        check(
            "both pools of the Union ran trials, and the one outside none",
            set(where) == {"gpu-a", "gpu-b"} and placed == where,
            f"pods by pool {dict(where)}; by the ledger {dict(placed)}",
        ),
        check("no trial opened the hold-out", not jobs & set(opened), f"{len(opened)} openings"),
        check("no pod is left", not left, ", ".join(left) or "none"),
        refusals(clusters),
    ]


@rendering.on_terminal()
def main() -> int:
    began, folder = time.monotonic(), config.var_dir() / "prove-search-pools"
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    project(home, TRIALS, AT_ONCE, FIXED)
    pods.project(home, {"gpu-a": {"max_pending": "2s"}, "gpu-b": {"max_pending": "5m"}})
    with pods.clusters(home, GPUS) as clusters, own_stack(home, folder / "var", OFFSET, clusters) as stack:
        lifecycle.up(stack)
        checks, figures = prove(stack, clusters)
    return 0 if write(NAME, checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
