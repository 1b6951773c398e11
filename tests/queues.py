"""Parts that tests of jobs in Kueue's queues share: pools, of which the first has a queue, and other waiting jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rempart.sovereignty import pool_pods
from tests import pods
from tests.api_cluster import small_pod
from tests.clusters import GPU, DoubleCluster
from tests.nodes import custom

QUEUE = "gpus"
FULL = "insufficient unused quota for nvidia.com/gpu in flavor gpus"
_SLEEPS = "import time; time.sleep(600)"


def install_kueue(double: DoubleCluster, gpus: int, *, manages: bool = True) -> None:
    """Kueue in a cluster, with quota for so many GPUs in the queue of the pool's namespace; it may manage no pods."""
    double.add_kueue(namespaces=None if manages else [])
    quota = {GPU: str(gpus), "cpu": "64", "memory": "64Gi"}
    double.add_queue(double.namespace, QUEUE, quota, preempts=True)


def other(double: DoubleCluster, name: str, priority: str = "") -> None:
    """A pod of somebody else, in the same queue."""
    body = small_pod(pods.IMAGE, "", _SLEEPS, 1)
    body["metadata"] = {"name": name, "labels": {pool_pods.QUEUE: QUEUE}}
    del body["spec"]["nodeName"]
    if priority:
        body["spec"]["priorityClassName"] = priority
    double.client().create_namespaced_pod(double.namespace, body)


def urgent(double: DoubleCluster) -> None:
    """A priority above that of jobs."""
    from kubernetes import client

    classes = client.SchedulingV1Api(double.client().api_client)
    classes.create_priority_class({"metadata": {"name": "urgent"}, "value": 100})


def freed_once_told(monkeypatch: pytest.MonkeyPatch, double: DoubleCluster, name: str) -> None:
    """Somebody deletes a pod as soon as a job's trigger has read that the quota is full, which it tells at once."""
    from rempart.orchestration.training.pool_queue import QueueWatch

    read, told = QueueWatch.events, []

    async def events(self: QueueWatch) -> Any:
        found = await read(self)
        if FULL in str(found) and not told:
            told.append(found)
            await asyncio.to_thread(double.client().delete_namespaced_pod, name, double.namespace)
        return found

    monkeypatch.setattr(QueueWatch, "events", events)


def runs_pod(double: DoubleCluster, name: str) -> bool:
    found = double.client().read_namespaced_pod(name, double.namespace)
    return bool(found.status.phase == "Running")


def workloads(double: DoubleCluster) -> list[dict[str, Any]]:
    where = ("kueue.x-k8s.io", "v1beta2", double.namespace, "workloads")
    found: list[dict[str, Any]] = custom(double).list_namespaced_custom_object(*where)["items"]
    return found


def refused(made: Mapping[str, Any]) -> list[str]:
    """Requests that a cluster refused for want of a right."""
    return [
        f"{request.method} {request.path}"
        for each in made.values()
        for request in each.requests
        if request.status == 403
    ]


def runs(trigger: Any) -> bool:
    """Whether a pod has its node and its credentials."""
    return getattr(trigger, "await_node", None) is False
