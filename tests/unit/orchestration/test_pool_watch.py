"""Jobs that wait for a node: what they ask of a cluster meanwhile, and how soon they hear."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from rempart.training.kubernetes import pod as shape
from tests.api_cluster import small_pod
from tests.clusters import GPU, DoubleCluster

pytestmark = pytest.mark.airflow
JOBS = 20
IMAGE = f"registry.trial/trainer@sha256:{'ab' * 32}"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DoubleCluster]:
    """A pool without nodes, in which jobs' pods wait."""
    monkeypatch.setattr("rempart.orchestration.pod_triggers.MINIMUM_SECONDS", 0.0)
    with DoubleCluster("gpu-a", "training") as double:
        extra = {"kube_config": json.dumps(double.kubeconfig())}
        monkeypatch.setenv("AIRFLOW_CONN_K8S_GPU_A", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        double.add_image(IMAGE, digest=IMAGE.partition("@")[2])
        for number in range(JOBS):
            body = small_pod(IMAGE, "", "import time; time.sleep(60)", gpus=1)
            body["metadata"] = {"name": f"train-x-{number}", "labels": dict(shape.MANAGED_BY)}
            del body["spec"]["nodeName"]
            double.client().create_namespaced_pod("training", body)
        yield double


def trigger(number: int, wait: int = 120) -> Any:
    from rempart.orchestration.pod_triggers import TrainingPodTrigger

    return TrainingPodTrigger(
        pod_name=f"train-x-{number}",
        pod_namespace="training",
        trigger_start_time=datetime.now(UTC),
        base_container_name="c",
        kubernetes_conn_id="k8s_gpu_a",
        schedule_timeout=wait,
        trigger_kwargs={"attempt": 1, "pool": "gpu-a"},
        await_node=True,
    )


async def fired(one: Any) -> dict[str, Any]:
    async for event in one.run():
        return dict(event.payload)
    raise AssertionError("no event")


def together(after: Callable[[], None], seconds: float) -> tuple[list[dict[str, Any]], float]:
    """Run a trigger for each job; after so many seconds something happens. The events, and how long they took then."""

    async def main() -> tuple[list[dict[str, Any]], float]:
        running = [asyncio.create_task(fired(trigger(number))) for number in range(JOBS)]
        await asyncio.sleep(seconds)
        await asyncio.to_thread(after)
        began = time.monotonic()
        return await asyncio.wait_for(asyncio.gather(*running), 60), time.monotonic() - began

    return asyncio.run(main())


def asked(pool: DoubleCluster) -> dict[str, int]:
    """Requests of the pool's account, by kind."""
    mine = [one.path for one in pool.requests if one.user.endswith(":training:airflow")]
    watches = [one for one in mine if "watch=" in one]
    lists = [one for one in mine if "/pods?" in one and one not in watches]
    return {"watch": len(watches), "list": len(lists), "one pod": len([one for one in mine if "/pods/" in one])}


def test_jobs_that_wait_share_one_watch_and_hear_at_once_of_their_node(pool: DoubleCluster) -> None:
    events, seconds = together(lambda: pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"}), 7)
    assert [one["status"] for one in events] == ["bound"] * JOBS
    assert seconds < 20
    found = asked(pool)
    # each looks once at the start and once at the end: between, only the watch tells
    assert found["watch"] == found["list"] == 1 and found["one pod"] <= 2 * JOBS, found


def test_a_watch_that_is_refused_keeps_nobody_from_hearing(
    pool: DoubleCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.orchestration.pod_triggers.LOOK_SECONDS", 1.0)
    pool.fail(403, times=1000, method="GET", path_contains="/pods?")
    events, _ = together(lambda: pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"}), 1)
    assert [one["status"] for one in events] == ["bound"] * JOBS


def test_a_pod_that_is_deleted_while_it_waits_is_told(pool: DoubleCluster) -> None:
    def delete() -> None:
        pool.client().delete_collection_namespaced_pod("training")

    events, seconds = together(delete, 2)
    assert [one["status"] for one in events] == ["error"] * JOBS and seconds < 40
    assert "404" in events[0]["message"]
