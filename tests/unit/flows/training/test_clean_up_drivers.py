"""The driver of a Spark job goes when no task waits for it, and stays as long as that is not known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.airflow_api import AirflowApiError
from rempart.flows.training.clean_up_pods import judge_driver
from rempart.spark.kubernetes.labels import ATTEMPT, JOB
from rempart.training.kubernetes.orphans import PodSeen

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DRIVER = PodSeen("gpu-a", "spark-1-1", "u", "1", 1, NOW - timedelta(hours=1), terminating=False)
TASK = json.dumps({"dag": "ingest_x", "run": "manual__1", "task": "ingest"})


def api(state: str | Exception | None) -> Any:
    def get(path: str) -> dict[str, Any]:
        assert path == "/api/v2/dags/ingest_x/dagRuns/manual__1/taskInstances/ingest"
        if isinstance(state, Exception):
            raise state
        return {"state": state}

    return SimpleNamespace(get=get)


@pytest.mark.parametrize(
    ("state", "orphan"),
    [("running", False), ("up_for_retry", False), (None, False), ("failed", True), ("success", True)],
)
def test_a_driver_follows_its_task(state: str | None, orphan: bool) -> None:
    assert judge_driver(api(state), DRIVER, TASK, NOW).orphan is orphan


def test_a_driver_of_a_task_that_is_gone_is_an_orphan_and_an_unknown_one_is_not() -> None:
    gone, down = AirflowApiError("HTTP 404: no task", "x"), AirflowApiError("HTTP 500: down", "x")
    assert judge_driver(api(gone), DRIVER, TASK, NOW).orphan
    assert not judge_driver(api(down), DRIVER, TASK, NOW).orphan
    for by in ("", "null", "{}", "nonsense"):
        found = judge_driver(api("failed"), DRIVER, by, NOW)
        assert not found.orphan and "does not name the task" in found.why
    young = PodSeen("gpu-a", "spark-1-1", "u", "1", 1, NOW - timedelta(minutes=1), terminating=False)
    assert not judge_driver(api("failed"), young, TASK, NOW).orphan


@pytest.mark.airflow
def test_a_pod_that_is_labelled_oddly_hides_no_driver() -> None:
    from rempart.orchestration.training.pool_janitor import _spark_drivers

    def pod(name: str, **told: str) -> Any:
        metadata = {"name": name, "uid": name, "creationTimestamp": NOW.isoformat(), "labels": told}
        return SimpleNamespace(metadata=metadata)

    found = [pod("odd"), pod("odder", **{JOB: "1", ATTEMPT: "x"}), pod("spark-1-1", **{JOB: "1", ATTEMPT: "1"})]
    client = SimpleNamespace(
        list_namespaced_pod=lambda *_, **__: SimpleNamespace(items=found),
        api_client=SimpleNamespace(sanitize_for_serialization=lambda each: each),
    )
    settings: Any = SimpleNamespace(gpu_pools={"gpu-a": SimpleNamespace(namespace="n")})
    drivers = [driver.name for driver, _ in _spark_drivers(SimpleNamespace(core_v1_client=client), settings, "gpu-a")]
    assert drivers == ["spark-1-1"]
