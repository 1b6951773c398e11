"""Measure the cost of a pod: a small training through the operator, beside its entry point run directly.

    make up && make bench BENCH=pods

One pod is evicted half way. The operator, its triggers, the site, MLflow and the job are real; the clusters are doubles
(tests/kubernetes_double). Airflow's scheduler and triggerer take no part: `bench.prove_pods` runs the whole chain with
them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.report import Row, write
from rempart.flows.shared.platform import open_platform
from rempart.orchestration.training.pod_triggers import MINIMUM_SECONDS
from rempart.settings import config
from rempart.training.backends import LocalBackend
from tests import pods

ROUNDS = 3
STEPS = 6000
SMALL = {"max_iter": 60, "learning_rate": 0.1}
LONG = {"max_iter": STEPS, "learning_rate": 0.005, "max_leaf_nodes": 3}


def seconds_in_pod(trial: pods.Trial, number: int) -> float:
    began = time.monotonic()
    trial.run(trial.order({**SMALL, "l2_regularization": number * 1e-6}), minimum=MINIMUM_SECONDS)
    return time.monotonic() - began


def seconds_directly(trial: pods.Trial, number: int) -> float:
    began = time.monotonic()
    site = trial.platform.active_site("personal")
    backend = LocalBackend(site, trial.platform.connections, timedelta(minutes=5))
    backend.run(trial.spec({**SMALL, "l2_regularization": number * 1e-6 + 1e-3}))
    return time.monotonic() - began


def work_when_evicted(trial: pods.Trial) -> int:
    """Steps computed over all attempts of a job that is evicted half way."""
    double, evicted = trial.clusters["gpu-a"], []
    before = len(double.history)

    def evict(number: int, trigger: Any) -> None:
        deadline = time.monotonic() + 240
        while not evicted and time.monotonic() < deadline:
            if (pods.progress(double, trial) or 0) >= STEPS / 2:
                evicted.append(True)
                double.evict(double.history[before].name, "training-gpu-a")
            time.sleep(0.1)

    ordered = trial.order(LONG)
    trial.run(ordered, deferred=evict)
    result = trial.job(ordered).result()
    assert result and evicted and result.work.resumed_from > 0, "it was not interrupted half way"
    return result.work.total_over_attempts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REMPART_VAR"] = str(config.var_dir().absolute())  # the running stack's secrets
        platform, home = open_platform(), pods.project(Path(folder) / "home")
        with pods.clusters(home) as clusters:
            os.environ |= pods.connections(clusters)
            os.environ["REMPART_HOME"] = str(home)
            with pods.trial(platform, home, clusters) as trial:
                pairs = [(seconds_in_pod(trial, i), seconds_directly(trial, i)) for i in range(ROUNDS + 1)][1:]
                total = work_when_evicted(trial)
    ours, peer = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    steps = Row(f"a job of {STEPS} iterations, evicted half way", "iterations", total, STEPS, "undisturbed", "lower")
    small = Row(f"a small training, median of {ROUNDS}", "s", ours, peer, "its entry point run directly", "lower")
    write("pods", [small, steps], overhead_seconds=round(ours - peer, 1), minimum_deferral_seconds=MINIMUM_SECONDS)


if __name__ == "__main__":
    main()
