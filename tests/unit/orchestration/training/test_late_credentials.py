"""A pod whose kubelet looked for its credentials before they existed, tested without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rempart.flows.training import job_credentials
from rempart.flows.training.job_credentials import Granted
from rempart.training.job import JobSpec
from rempart.training.kubernetes import train_job
from tests.clusters import until
from tests.nodes import SHORT, leave_result
from tests.unit.orchestration.training.test_queued_jobs import on_trial

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("nodes", [1, 2])
def test_pods_that_missed_their_credentials_are_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    """A kubelet looks again 10 to 15 s later; here later than a job may take to start."""
    with on_trial(tmp_path, monkeypatch, {}, kueue=None, nodes=nodes) as trial:
        pool = trial.clusters["gpu-a"]

        def wait() -> bool:
            found = pool.client().list_namespaced_pod(pool.namespace).items
            states = [pod.status.container_statuses[0].state for pod in found if pod.status.container_statuses]
            return [state.waiting and state.waiting.reason for state in states] == [
                "CreateContainerConfigError"
            ] * nodes

        def late(config: Any, connections: Any, record: Any, spec: JobSpec, *_: Any) -> Granted:
            until(wait)
            leave_result(trial, ordered)
            return Granted(dict.fromkeys(train_job.credential_variables(spec), "x"), "none")

        monkeypatch.setattr("tests.kubernetes_double.kubelet._BACK_OFF", 600)
        monkeypatch.setattr(job_credentials, "grant", late)
        monkeypatch.setattr(job_credentials, "release", lambda *_: None)
        ordered = trial.order()
        trial.stub(SHORT)
        assert trial.run(ordered)["placement"]["pool"] == "gpu-a"
        assert len(pool.history) == nodes and all(pod.started for pod in pool.history)
