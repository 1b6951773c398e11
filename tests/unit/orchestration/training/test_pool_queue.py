"""Triggers of jobs in a queue of Kueue: reasons of the wait, requests to the cluster, and needed rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from rempart.sovereignty import pool_pods
from rempart.training.kubernetes import pod as shape
from tests.api_cluster import small_pod
from tests.clusters import GPU, DoubleCluster, until
from tests.queues import freed_once_told

pytestmark = pytest.mark.airflow
IMAGE = f"registry.trial/trainer@sha256:{'ab' * 32}"
FULL = "LocalQueue gpus has not admitted it: Pending: couldn't assign flavors to pod set main: insufficient"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DoubleCluster]:
    """A pool with one GPU and a queue, which has quota for one job."""
    monkeypatch.setattr("rempart.orchestration.training.pod_triggers.MINIMUM_SECONDS", 0.0)
    with DoubleCluster("gpu-a", "training") as double:
        extra = {"kube_config": json.dumps(double.kubeconfig())}
        monkeypatch.setenv("AIRFLOW_CONN_K8S_GPU_A", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        double.add_image(IMAGE, digest=IMAGE.partition("@")[2])
        double.add_node("gpu-a-1", {}, {GPU: "1"})
        double.add_kueue()
        double.add_queue("training", "gpus", {GPU: "1"})
        yield double


def make(pool: DoubleCluster, name: str, queue: str = "gpus") -> None:
    body = small_pod(IMAGE, "", "import time; time.sleep(60)", gpus=1)
    body["metadata"] = {"name": name, "labels": {**shape.MANAGED_BY, pool_pods.QUEUE: queue}}
    del body["spec"]["nodeName"]
    pool.client().create_namespaced_pod("training", body)


def fired(wait: float) -> dict[str, Any]:
    from rempart.orchestration.training.pod_triggers import TrainingPodTrigger

    trigger = TrainingPodTrigger(
        pod_name="train-x-1",
        pod_namespace="training",
        trigger_start_time=datetime.now(UTC),
        base_container_name="c",
        kubernetes_conn_id="k8s_gpu_a",
        schedule_timeout=wait,
        startup_timeout=wait,
        trigger_kwargs={"attempt": 1, "pool": "gpu-a"},
        await_node=True,
    )

    async def first() -> Any:
        return await anext(trigger.run())

    event: dict[str, Any] = asyncio.run(first()).payload
    return event


def test_a_pod_in_a_queue_waits_with_kueues_reason_and_goes_on_when_it_is_admitted(
    pool: DoubleCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(pool, "before-us")
    until(lambda: pool.client().read_namespaced_pod("before-us", "training").spec.node_name)
    make(pool, "train-x-1")
    freed_once_told(monkeypatch, pool, "before-us")
    assert fired(600)["status"] == "bound"
    assert FULL in capsys.readouterr().out
    assert not [request for request in pool.requests if request.status == 403]


@pytest.mark.full
def test_a_pod_that_is_not_admitted_in_time_is_a_timeout_and_asks_little(pool: DoubleCluster) -> None:
    make(pool, "before-us")
    until(lambda: pool.client().read_namespaced_pod("before-us", "training").spec.node_name)
    make(pool, "train-x-1")
    before = len(pool.requests)
    assert fired(5)["status"] == "timeout"
    asked = [f"{request.method} {request.path}" for request in pool.requests[before:]]
    assert len([request for request in asked if "/events" in request]) <= 4, asked


def test_a_queue_that_says_nothing_is_waited_for_all_the_same(
    pool: DoubleCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    make(pool, "train-x-1", "other")
    assert fired(2)["status"] == "timeout"
    assert "LocalQueue other has not admitted it: Kueue states no reason" in capsys.readouterr().out


def test_events_that_are_refused_are_told_as_not_readable_and_the_job_waits_all_the_same(
    pool: DoubleCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    make(pool, "train-x-1", "other")
    pool.fail(403, times=1000, method="GET", path_contains="/events")
    assert fired(2)["status"] == "timeout"
    assert "LocalQueue other has not admitted it: Kueue's reason cannot be read" in capsys.readouterr().out
