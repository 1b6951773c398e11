"""T2, T9: a job whose node dies, or that its namespace can never hold, waits less than Kubernetes would."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import GPU, until
from tests.nodes import SHORT, jobs, leave_result, muted
from tests.unit.orchestration.training.test_queued_jobs import (
    PATIENT,
    SLEEPS,
    at_once,
    left_when_it_runs,
    no_tracking_server,
    on_trial,
)

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures(no_tracking_server.__name__)]


@pytest.mark.full
def test_t2_a_job_on_a_node_that_does_not_answer_goes_on_when_its_pool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Kubernetes' default the pod would stay on its dead node for 300 s."""
    with on_trial(tmp_path, monkeypatch, {"node_lost_after": "1s"}, kueue=None) as trial:
        double = trial.clusters["gpu-a"]
        ordered = dataclasses.replace(trial.order(), free={})
        muted(trial, SLEEPS)
        lost: list[float] = []

        def lose(number: int, trigger: Any) -> None:
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)
            elif not lost:
                until(lambda: double.history and double.history[0].started)
                muted(trial, SHORT)
                double.node_lost(double.node, after=float("inf"))
                lost.append(1)

        assert trial.run(ordered, deferred=lose)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "interrupted" and at_once(first)


def test_a_job_goes_on_in_the_next_pool_if_the_connection_of_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {}, kueue=None) as trial:
        ordered = dataclasses.replace(trial.order(), free={})
        monkeypatch.delenv("AIRFLOW_CONN_K8S_GPU_A")
        muted(trial, SHORT)
        assert trial.run(ordered, deferred=left_when_it_runs(trial, ordered))["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert (first.pool, first.outcome) == ("gpu-a", "unreachable")
        assert "no connection 'k8s_gpu_a'" in first.cause


def test_t9_a_train_job_that_the_namespaces_quota_never_holds_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {"max_pending": PATIENT}, kueue=None, nodes=2) as trial:
        double = trial.clusters["gpu-a"]
        quota = {"metadata": {"name": "gpu"}, "spec": {"hard": {f"requests.{GPU}": "1"}}}
        double.client().create_namespaced_resource_quota(double.namespace, quota)
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        muted(trial, SHORT)
        assert trial.run(ordered, deferred=left_when_it_runs(trial, ordered))["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity" and "never fits the quota gpu" in first.cause and at_once(first)
        assert not jobs(double, "gpu-a")
