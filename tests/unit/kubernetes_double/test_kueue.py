"""Kueue on the double: the words, objects and order of Kueue 0.19 for plain pods."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.kubernetes_double import KubernetesDouble
from tests.kubernetes_double.kueue import workload_name

from .conftest import pod, reaches, until
from .test_pods import condition

pytestmark = pytest.mark.full

SLEEP = "import time; time.sleep(60)"
GPU = "nvidia.com/gpu"


@pytest.fixture
def kueue(double: KubernetesDouble) -> KubernetesDouble:
    double.add_kueue()
    double.add_queue("training", "gpus", {GPU: "1"})
    return double


def queued(name: str, code: str = "print('hello')", queue: str = "gpus", gpus: int = 1, **spec: Any) -> dict[str, Any]:
    made = pod(name, code, gpus=gpus, **{"terminationGracePeriodSeconds": 1, **spec})
    made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = queue
    return made


def workload(api: client.CoreV1Api, of: str) -> dict[str, Any]:
    """The Workload of a pod, as long as it has one."""
    custom = client.CustomObjectsApi(api.api_client)
    listed = custom.list_namespaced_custom_object("kueue.x-k8s.io", "v1beta2", "training", "workloads")["items"]
    found: dict[str, Any] = next(
        (resource for resource in listed if resource["metadata"]["ownerReferences"][0]["name"] == of), {}
    )
    return found


def condition_of(api: client.CoreV1Api, of: str, kind: str) -> tuple[str, str, str]:
    found = (workload(api, of).get("status") or {}).get("conditions") or ()
    return next(
        ((state["status"], state["reason"], state["message"]) for state in found if state["type"] == kind), ("", "", "")
    )


def test_a_pod_is_gated_and_runs_once_its_quota_is_free(kueue: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", queued("first", SLEEP))
    reaches(api, "first", "Running")
    made = api.create_namespaced_pod("training", queued("second"))
    assert [gate.name for gate in made.spec.scheduling_gates] == ["kueue.x-k8s.io/admission"]
    assert made.metadata.finalizers == ["kueue.x-k8s.io/managed"]
    assert made.metadata.labels["kueue.x-k8s.io/managed"] == "true"
    until(lambda: condition_of(api, "second", "QuotaReserved")[0])
    status, reason, message = condition_of(api, "second", "QuotaReserved")
    assert (status, reason) == ("False", "Pending")
    assert message == (
        "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor gpus, "
        "1 more needed"
    )
    name = workload(api, "second")["metadata"]["name"]
    assert name == workload_name(api.api_client.sanitize_for_serialization(made) | {"apiVersion": "v1", "kind": "Pod"})
    (told,) = api.list_namespaced_event("training", field_selector=f"involvedObject.name={name}").items
    assert (told.reason, told.type, told.message, told.involved_object.kind) == (
        "Pending",
        "Warning",
        message,
        "Workload",
    )
    (about,) = api.list_namespaced_event(
        "training", field_selector="involvedObject.name=second,reason=CreatedWorkload"
    ).items
    assert about.message == f"Created Workload: training/{name}"
    assert condition(api.read_namespaced_pod("second", "training"), "PodScheduled").reason == "SchedulingGated"
    api.delete_namespaced_pod("first", "training")
    reaches(api, "second", "Succeeded")
    assert condition_of(api, "second", "Admitted")[0] == "True"
    assert not api.read_namespaced_pod("second", "training").metadata.finalizers


def test_a_gated_pod_that_is_deleted_is_gone_with_its_workload(kueue: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", queued("first", gpus=2))
    until(lambda: "> maximum capacity (1)" in condition_of(api, "first", "QuotaReserved")[2])
    api.delete_namespaced_pod("first", "training")
    until(lambda: not api.list_namespaced_pod("training").items)
    until(lambda: not workload(api, "first"))


def test_without_its_controllers_a_pod_that_is_deleted_stays(kueue: KubernetesDouble, api: client.CoreV1Api) -> None:
    kueue.stop_kueue()
    api.create_namespaced_pod("training", queued("first"))
    api.delete_namespaced_pod("first", "training")
    (left,) = api.list_namespaced_pod("training").items
    assert left.metadata.deletion_timestamp and left.metadata.finalizers


@pytest.mark.parametrize("strict", [False, True])
def test_the_order_is_by_priority_then_age_and_only_a_strict_queue_waits_for_its_first(
    double: KubernetesDouble, api: client.CoreV1Api, strict: bool
) -> None:
    double.add_kueue()
    double.add_queue("training", "gpus", {GPU: "2"}, strict=strict)
    classes = client.SchedulingV1Api(api.api_client)
    classes.create_priority_class({"metadata": {"name": "urgent"}, "value": 100})
    api.create_namespaced_pod("training", queued("runs", SLEEP))
    reaches(api, "runs", "Running")
    api.create_namespaced_pod("training", queued("large", gpus=2, priorityClassName="urgent"))
    until(lambda: condition_of(api, "large", "QuotaReserved")[0])
    api.create_namespaced_pod("training", queued("small", SLEEP))
    if strict:
        until(lambda: workload(api, "small"))
        assert condition_of(api, "small", "QuotaReserved")[0] != "True"
        api.delete_namespaced_pod("runs", "training")
        reaches(api, "large", "Succeeded")
    reaches(api, "small", "Running")


def test_a_lower_priority_is_preempted_with_its_reason(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    double.add_kueue()
    double.add_queue("training", "gpus", {GPU: "1"}, preempts=True)
    classes = client.SchedulingV1Api(api.api_client)
    classes.create_priority_class({"metadata": {"name": "urgent"}, "value": 100})
    api.create_namespaced_pod(
        "training", queued("low", "import time; time.sleep(600)", terminationGracePeriodSeconds=600)
    )
    reaches(api, "low", "Running")
    uid = workload(api, "low")["metadata"]["uid"]
    api.create_namespaced_pod("training", queued("high", SLEEP, priorityClassName="urgent"))

    found = until(lambda: condition(api.read_namespaced_pod("low", "training"), "TerminationTarget"))
    assert found.reason == "WorkloadEvictedDueToPreempted"
    assert found.message.startswith("Preempted to accommodate a workload (UID: ")
    until(lambda: api.read_namespaced_pod("low", "training").metadata.deletion_timestamp)
    api.delete_namespaced_pod("low", "training", grace_period_seconds=1)
    reaches(api, "high", "Running")
    until(lambda: [item.metadata.name for item in api.list_namespaced_pod("training").items] == ["high"])
    told = api.list_namespaced_event("training", field_selector=f"involvedObject.uid={uid}").items
    assert {"EvictedDueToPreempted", "Preempted"} <= {event.reason for event in told}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("no queue", "LocalQueue other is terminating or missing"),
        ("held", "LocalQueue gpus is stopped"),
        ("no ClusterQueue", "ClusterQueue gpus is terminating or missing"),
        ("not covered", "couldn't assign flavors to pod set main: resource cpu unavailable in ClusterQueue"),
    ],
)
def test_what_can_never_be_admitted_says_why(
    kueue: KubernetesDouble, api: client.CoreV1Api, how: str, why: str
) -> None:
    custom = client.CustomObjectsApi(api.api_client)
    made = queued("first", queue="other" if how == "no queue" else "gpus")
    if how == "held":
        where = ("kueue.x-k8s.io", "v1beta2", "training", "localqueues", "gpus")
        custom.patch_namespaced_custom_object(*where, {"spec": {"stopPolicy": "Hold"}})
    elif how == "no ClusterQueue":
        custom.delete_cluster_custom_object("kueue.x-k8s.io", "v1beta2", "clusterqueues", "gpus")
    elif how == "not covered":
        made["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"
    api.create_namespaced_pod("training", made)
    until(lambda: condition_of(api, "first", "QuotaReserved")[2] == why)
    if how in ("held", "no ClusterQueue"):
        found = custom.get_namespaced_custom_object("kueue.x-k8s.io", "v1beta2", "training", "localqueues", "gpus")
        assert found["status"]["conditions"][0]["status"] == "False"
