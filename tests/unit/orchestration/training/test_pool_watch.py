"""Jobs that wait for a node: their requests to a cluster meanwhile, and how soon they notice one."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import client
from kubernetes_asyncio.client import ApiException

from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import train_job
from tests.api_cluster import small_pod
from tests.clusters import GPU, DoubleCluster, until

pytestmark = pytest.mark.airflow
JOBS = 20
LATE = [{"name": "LATE", "valueFrom": {"secretKeyRef": {"name": "late", "key": "a"}}}]
"""A variable of a Secret that is not there yet: a pod with it has a node, and its container waits."""
IMAGE = f"registry.trial/trainer@sha256:{'ab' * 32}"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DoubleCluster]:
    """A pool without nodes, in which jobs' pods wait."""
    monkeypatch.setattr("rempart.orchestration.training.pod_triggers.MINIMUM_SECONDS", 0.0)
    with DoubleCluster("gpu-a", "training") as double:
        extra = {"kube_config": json.dumps(double.kubeconfig())}
        monkeypatch.setenv("AIRFLOW_CONN_K8S_GPU_A", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        double.add_image(IMAGE, digest=IMAGE.partition("@")[2])
        for number in range(JOBS):
            body = small_pod(IMAGE, "", "import time; time.sleep(2)", gpus=1)
            body["spec"]["containers"][0]["env"] = LATE
            body["metadata"] = {"name": f"train-x-{number}", "labels": dict(shape.MANAGED_BY)}
            del body["spec"]["nodeName"]
            double.client().create_namespaced_pod("training", body)
        yield double


def trigger(number: int, *, await_node: bool = True, wait: int = 120) -> Any:
    from rempart.orchestration.training.pod_triggers import TrainingPodTrigger

    return TrainingPodTrigger(
        pod_name=f"train-x-{number}",
        pod_namespace="training",
        trigger_start_time=datetime.now(UTC),
        base_container_name="c",
        kubernetes_conn_id="k8s_gpu_a",
        schedule_timeout=wait,
        startup_timeout=wait,
        trigger_kwargs={"attempt": 1, "pool": "gpu-a"},
        await_node=await_node,
    )


def train_job_trigger(number: int) -> Any:
    from rempart.orchestration.training.train_job_trigger import TrainJobTrigger

    return TrainJobTrigger(
        connection="k8s_gpu_a",
        namespace="training",
        name=f"train-y-{number}",
        nodes=2,
        attempt=1,
        pool="gpu-a",
        await_nodes=True,
        started_by=time.time() + 120,
        ended_by=time.time() + 600,
        log_every=600.0,
        poll=1.0,
    )


async def fired(waiting: Any) -> dict[str, Any]:
    async for event in waiting.run():
        return dict(event.payload)
    raise AssertionError("no event")


def together(after: Callable[[], object], seconds: float, make: Callable[[int], Any] = trigger) -> list[dict[str, Any]]:
    """Run a trigger for each job; after so many seconds something happens. The events, sooner than without a watch."""

    async def main() -> list[dict[str, Any]]:
        running = [asyncio.create_task(fired(make(number))) for number in range(JOBS)]
        await asyncio.sleep(seconds)
        await asyncio.to_thread(after)
        return await asyncio.wait_for(asyncio.gather(*running), 60)

    return asyncio.run(main())


def asked(pool: DoubleCluster) -> dict[str, int]:
    """Requests of the pool's account, by kind."""
    mine = [request.path for request in pool.requests if request.user.endswith(":training:airflow")]
    watches = [request for request in mine if "watch=" in request]
    lists = [request for request in mine if "/pods?" in request and request not in watches]
    return {
        "watch": len(watches),
        "list": len(lists),
        "one pod": len([request for request in mine if "/pods/" in request]),
        "one TrainJob": len([request for request in mine if "/trainjobs/" in request]),
        "events": len([request for request in mine if "/events" in request]),
    }


def test_jobs_that_wait_share_one_watch_and_hear_at_once_of_their_node(pool: DoubleCluster) -> None:
    events = together(lambda: pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"}), 7)
    assert [event["status"] for event in events] == ["bound"] * JOBS
    found = asked(pool)
    # each looks once at the start and once at the end: between, only the watch tells
    assert found["watch"] == found["list"] == 1 and found["one pod"] <= 2 * JOBS, found


def test_a_watch_that_is_refused_keeps_nobody_from_hearing(
    pool: DoubleCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.orchestration.training.pod_triggers.LOOK_SECONDS", 1.0)
    pool.fail(403, times=1000, method="GET", path_contains="/pods?")
    events = together(lambda: pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"}), 1)
    assert [event["status"] for event in events] == ["bound"] * JOBS


class NoCluster:
    """A hook whose connection leads nowhere."""

    @asynccontextmanager
    async def get_conn(self) -> AsyncIterator[None]:
        yield None


@pytest.mark.parametrize("expired", [False, True], ids=["ends at once", "410 after each list"])
def test_a_watch_that_never_lasts_is_not_asked_for_in_a_loop(monkeypatch: pytest.MonkeyPatch, expired: bool) -> None:
    from rempart.orchestration.training.pool_watch import PoolWatch

    asked = {"lists": 0, "watches": 0}

    async def listed(*_: Any) -> str:
        asked["lists"] += 1
        return "7"

    async def follow(*_: Any) -> str:
        asked["watches"] += 1
        await asyncio.sleep(0)
        if expired:
            raise ApiException(status=410)
        return "7"

    monkeypatch.setattr(PoolWatch, "_asked", lambda self, api: (None, ()))
    monkeypatch.setattr(PoolWatch, "_list", listed)
    monkeypatch.setattr(PoolWatch, "_follow", follow)

    async def main() -> None:
        watched = PoolWatch("training", "pods")
        watched.hook = NoCluster()
        async with watched.news("train-x-1"):
            await asyncio.sleep(0.1)

    asyncio.run(main())
    assert asked == {"lists": 1, "watches": 1}


def test_a_version_that_became_too_old_is_listed_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.orchestration.training import pool_watch

    lists, ends = [], iter([None, ApiException(status=410)])

    async def listed(*_: Any) -> str:
        lists.append(time.monotonic())
        return "7"

    async def follow(*_: Any) -> str:
        end = next(ends, "stays")
        await asyncio.sleep(60 if end == "stays" else 0.02)
        if isinstance(end, Exception):
            raise end
        return "7"

    monkeypatch.setattr(pool_watch, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(pool_watch, "MOST_SECONDS", 60.0)
    monkeypatch.setattr(pool_watch.PoolWatch, "_asked", lambda self, api: (None, ()))
    monkeypatch.setattr(pool_watch.PoolWatch, "_list", listed)
    monkeypatch.setattr(pool_watch.PoolWatch, "_follow", follow)

    async def main() -> None:
        watched = pool_watch.PoolWatch("training", "pods")
        watched.hook = NoCluster()
        async with watched.news("train-x-1"):
            for _ in range(500):
                await asyncio.sleep(0.01)
                if len(lists) == 2:
                    return

    asyncio.run(main())
    assert len(lists) == 2


@pytest.mark.full
def test_a_pod_that_is_deleted_while_it_waits_is_told(pool: DoubleCluster) -> None:
    def delete() -> None:
        pool.client().delete_collection_namespaced_pod("training")

    events = together(delete, 2)
    assert [event["status"] for event in events] == ["error"] * JOBS
    assert "404" in events[0]["message"]


@pytest.mark.full
def test_jobs_that_have_a_node_ask_nothing_while_they_start_and_run_and_hear_at_once_of_their_end(
    pool: DoubleCluster,
) -> None:
    pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"})

    def start() -> None:
        secret = {"metadata": {"name": "late"}, "stringData": {"a": "b"}}
        pool.client().create_namespaced_secret("training", secret)
        for name in [pod.name for pod in pool.history]:  # or their kubelet looks again 10 s later
            pool.client().patch_namespaced_pod(name, "training", {"metadata": {"annotations": {"woken": "yes"}}})

    events = together(start, 7, lambda number: trigger(number, await_node=False))
    assert [event["status"] for event in events] == ["success"] * JOBS
    found = asked(pool)
    assert found["watch"] == found["list"] == 1 and found["events"] == 0, found
    assert found["one pod"] <= 2 * JOBS, found


@pytest.mark.full
def test_a_pod_with_a_node_that_does_not_start_in_time_is_a_timeout_that_says_why(pool: DoubleCluster) -> None:
    pool.add_node("gpu-a-1", {}, {GPU: str(JOBS), "pods": "110"})
    events = together(lambda: None, 1, lambda number: trigger(number, await_node=False, wait=4))
    assert [event["status"] for event in events] == ["timeout"] * JOBS
    assert "did not start within 4 s" in events[0]["message"] and "late" in events[0]["message"]


RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainingRuntime",
    "metadata": {"name": "r"},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {train_job.STEP: "trainer"}},
                            "spec": {"template": {"metadata": {"labels": dict(shape.MANAGED_BY)}}},
                        },
                    }
                ]
            }
        },
    },
}


@pytest.mark.full
def test_train_jobs_that_wait_share_two_watches_and_hear_at_once_of_their_nodes(pool: DoubleCluster) -> None:
    pool.client().delete_collection_namespaced_pod("training", grace_period_seconds=0)
    pool.add_trainer()
    custom = client.CustomObjectsApi(pool.client().api_client)
    where = (train_job.GROUP, train_job.VERSION, "training")
    runtime = copy.deepcopy(RUNTIME)
    spec = small_pod(IMAGE, "", "", gpus=1)["spec"]
    del spec["nodeName"]
    spec["containers"][0] |= {"name": "node", "env": LATE}
    runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"] = spec
    custom.create_namespaced_custom_object(*where, train_job.RUNTIMES, runtime)
    for number in range(JOBS):
        body = {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": f"train-y-{number}", "labels": dict(shape.MANAGED_BY)},
            "spec": {"runtimeRef": {"name": "r"}, "trainer": {"numNodes": 2, "numProcPerNode": 1}},
        }
        custom.create_namespaced_custom_object(*where, train_job.PLURAL, body)
    listed = pool.client().list_namespaced_pod
    until(lambda: len(listed("training", label_selector=train_job.OF_JOB).items) == 2 * JOBS)
    found = {}

    def come() -> None:
        found.update(asked(pool))
        pool.add_node("gpu-a-1", {}, {GPU: str(2 * JOBS), "pods": "110"})

    events = together(come, 8, train_job_trigger)
    assert [event["status"] for event in events] == ["bound"] * JOBS
    # at its start, and at the lists of the two watches; without them it would be each second
    assert found["watch"] == 2 and found["one TrainJob"] <= 4 * JOBS, found
    assert asked(pool)["one TrainJob"] <= 7 * JOBS
