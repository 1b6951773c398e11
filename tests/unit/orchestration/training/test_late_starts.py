"""A pod that starts between the event that tells that it did not and the task that resumes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import TrainingError
from tests import pods
from tests.clusters import until
from tests.queues import runs, runs_pod
from tests.spark_pods import HEEDS
from tests.unit.orchestration.training.test_queued_jobs import SLEEPS, no_tracking_server, on_trial

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures(no_tracking_server.__name__)]


class Interrupted(Exception):
    """The test goes on by itself, with the event that the job's trigger fires."""


def resume(trial: pods.Trial, **more: Any) -> None:
    """Run a job until its pod runs, then resume its task with the event of a pod that did not start in time."""
    from airflow.sdk.execution_time.context import set_current_context

    ordered = dataclasses.replace(trial.order(), free={})
    trial.stub(f"{HEEDS}; {SLEEPS}")
    event: dict[str, Any] = {}

    def leave(number: int, trigger: Any) -> None:
        if runs(trigger):
            until(lambda: runs_pod(trial.clusters["gpu-a"], trigger.pod_name))
            event.update(name=trigger.pod_name, namespace=trigger.pod_namespace, status="timeout", message="it waits")
            event.update(trigger.trigger_kwargs)
            raise Interrupted

    with pytest.raises(Interrupted):
        trial.run(ordered, deferred=leave)
    with trial.here():
        running = pods.context()
        running["task"] = trial.operator(ordered)
        with set_current_context(running):  # type: ignore[arg-type] # what of it is read here
            running["task"].trigger_reentry(running, event | more)


@pytest.mark.parametrize("limit", [{}, {"_execution_deadline": time.time() + 86400}], ids=["no limit", "limit is far"])
def test_a_pod_that_runs_by_now_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    with on_trial(tmp_path, monkeypatch, {}, kueue=None) as trial:
        with pytest.raises(TaskDeferred) as waits:
            resume(trial, **limit)
        assert runs(waits.value.trigger)
        (made,) = trial.pods("gpu-a")
        pool = trial.clusters["gpu-a"]
        assert pool.client().read_namespaced_pod(made.name, pool.namespace).metadata.deletion_timestamp is None
        assert not trial.pods("gpu-b")


def test_a_pod_that_runs_at_the_end_of_the_task_s_time_is_a_failure_and_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {}, kueue=None) as trial:
        with pytest.raises(TrainingError, match="the task's execution_timeout was reached while the job ran"):
            resume(trial, _execution_deadline=int(time.time()) - 1)
        until(lambda: trial.pods("gpu-a")[0].deleted)
        assert not trial.pods("gpu-b")
