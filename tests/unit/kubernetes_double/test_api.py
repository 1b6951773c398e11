"""The API server's side: objects, watches, refusals, access, faults."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_double import KubernetesDouble
from tests.unit.kubernetes_double.conftest import client_of, pod, reaches, until

pytestmark = pytest.mark.full

RULE = {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["training"]}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def refused(call: Any, *arguments: Any, **options: Any) -> ApiException:
    """What the server refused a call with."""
    with pytest.raises(ApiException) as caught:
        call(*arguments, **options)
    return caught.value


def test_objects_have_what_a_server_sets_and_conflicts_are_refused(api: client.CoreV1Api) -> None:
    body = {"metadata": {"generateName": "set-"}, "stringData": {"key": "value"}}
    made = api.create_namespaced_secret("training", body)
    assert made.metadata.name.startswith("set-") and made.metadata.uid and made.metadata.creation_timestamp
    assert made.data == {"key": "dmFsdWU="} and made.type == "Opaque"
    again = refused(api.create_namespaced_secret, "training", {"metadata": {"name": made.metadata.name}})
    assert again.status == 409 and '"reason": "AlreadyExists"' in again.body
    stale = api.read_namespaced_secret(made.metadata.name, "training")
    api.patch_namespaced_secret(made.metadata.name, "training", {"metadata": {"labels": {"a": "b"}}})
    lost = refused(api.replace_namespaced_secret, made.metadata.name, "training", stale)
    assert lost.status == 409 and "the object has been modified" in lost.body
    assert api.delete_namespaced_secret(made.metadata.name, "training").status == "Success"
    assert refused(api.read_namespaced_secret, made.metadata.name, "training").status == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (pod("UPPER"), 422, "lowercase RFC 1123"),
        (pod("x") | {"spec": {"containers": []}}, 422, "spec.containers: Required value"),
        (pod("x", priorityClassName="urgent"), 403, "no PriorityClass with name urgent was found"),
        (pod("x", serviceAccountName="robot"), 403, 'serviceaccount \\"robot\\" not found'),
    ],
)
def test_bad_pods_are_refused(api: client.CoreV1Api, body: Any, status: int, words: str) -> None:
    error = refused(api.create_namespaced_pod, "training", body)
    assert error.status == status and words in error.body


def test_a_missing_namespace_is_not_found_and_a_dry_run_stores_nothing(api: client.CoreV1Api) -> None:
    missing = refused(api.create_namespaced_pod, "nowhere", pod("x"))
    assert missing.status == 404 and 'namespaces \\"nowhere\\" not found' in missing.body
    assert api.create_namespaced_pod("training", pod("x"), dry_run="All").metadata.uid
    assert api.list_namespaced_pod("training").items == []


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("tier in (a, b)", {"one", "two"}),
        ("tier notin (a)", {"two", "three"}),
        ("!tier", {"three"}),
        ("tier", {"one", "two"}),
        ("tier!=a,kind=x", {"two", "three"}),
        ("tier==a", {"one"}),
    ],
)
def test_label_selectors(api: client.CoreV1Api, selector: str, names: set[str]) -> None:
    for name, labels in (("one", {"tier": "a"}), ("two", {"tier": "b"}), ("three", {})):
        body = {"metadata": {"name": name, "labels": labels | {"kind": "x"}}}
        api.create_namespaced_config_map("training", body)
    found = api.list_namespaced_config_map("training", label_selector=selector)
    assert {each.metadata.name for each in found.items} == names
    assert refused(api.list_namespaced_config_map, "training", field_selector="data.x=1").status == 400


def test_a_watch_sees_what_came_after_its_version_and_expires(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    version = api.list_namespaced_config_map("training").metadata.resource_version
    labelled = {"metadata": {"name": "a", "labels": {"seen": "yes"}}}
    api.create_namespaced_config_map("training", labelled)
    api.patch_namespaced_config_map("a", "training", {"data": {"x": "1"}})
    api.patch_namespaced_config_map("a", "training", {"metadata": {"labels": {"seen": None}}})
    options = {"label_selector": "seen=yes", "resource_version": version, "timeout_seconds": 1}
    events = list(watch.Watch().stream(api.list_namespaced_config_map, "training", **options))
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    double.compact()
    with pytest.raises(ApiException) as expired:
        list(watch.Watch().stream(api.list_namespaced_config_map, "training", **options))
    assert expired.value.status == 410


def test_patches_of_each_type(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    body = {"metadata": {"name": "a", "finalizers": ["x.example/keep"]}, "data": {"one": "1", "two": "2"}}
    api.create_namespaced_config_map("training", body)
    operations = [{"op": "remove", "path": "/data/one"}, {"op": "add", "path": "/data/three", "value": "3"}]
    assert api.patch_namespaced_config_map("a", "training", operations).data == {"two": "2", "three": "3"}
    bad = [{"op": "test", "path": "/data/two", "value": "9"}]
    assert refused(api.patch_namespaced_config_map, "a", "training", bad).status == 422
    api.delete_namespaced_config_map("a", "training")
    assert api.read_namespaced_config_map("a", "training").metadata.deletion_timestamp
    api.patch_namespaced_config_map("a", "training", {"metadata": {"finalizers": None}})
    assert refused(api.read_namespaced_config_map, "a", "training").status == 404
    version = double.requests[-1]
    assert (version.method, version.status, version.user) == ("GET", 404, "kubernetes-admin")


def test_only_allowed_requests_pass_and_reviews_say_the_same(double: KubernetesDouble) -> None:
    token = double.add_token("ana", [RULE])
    mine = client_of(double, token)
    assert mine.list_namespaced_pod("training").items == []
    error = refused(mine.create_namespaced_pod, "training", pod("x"))
    words = 'pods is forbidden: User "ana" cannot create resource "pods" in API group "" in the namespace "training"'
    assert error.status == 403 and words.replace('"', '\\"') in error.body
    assert refused(mine.list_pod_for_all_namespaces).status == 403
    reviews = client.AuthorizationV1Api(mine.api_client)

    def allowed(verb: str, resource: str, namespace: str, subresource: str | None = None) -> bool:
        attributes = {"verb": verb, "resource": resource, "namespace": namespace, "subresource": subresource}
        body = {"spec": {"resourceAttributes": attributes}}
        return bool(reviews.create_self_subject_access_review(body).status.allowed)

    assert allowed("get", "pods", "training", "log") and allowed("list", "pods", "training")
    assert not allowed("create", "pods", "training") and not allowed("list", "pods", "default")
    rules = reviews.create_self_subject_rules_review({"spec": {"namespace": "training"}}).status.resource_rules
    assert [rule.verbs for rule in rules] == [["get", "list"]]
    double.revoke_token(token)
    assert refused(mine.list_namespaced_pod, "training").status == 401


def test_quota_and_pod_security_refuse_in_their_own_words(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    quota = {"metadata": {"name": "gpu"}, "spec": {"hard": {"requests.nvidia.com/gpu": "2", "count/pods": "9"}}}
    api.create_namespaced_resource_quota("training", quota)
    api.create_namespaced_pod("training", pod("a", "import time; time.sleep(60)", gpus=2))
    error = refused(api.create_namespaced_pod, "training", pod("x", gpus=1))
    words = (
        'pods "x" is forbidden: exceeded quota: gpu, requested: requests.nvidia.com/gpu=1, '
        "used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2"
    )
    assert error.status == 403 and words.replace('"', '\\"') in error.body
    used = {"requests.nvidia.com/gpu": "2", "count/pods": "1"}
    until(lambda: api.read_namespaced_resource_quota("gpu", "training").status.used == used)
    double.add_namespace("strict", labels=RESTRICTED)
    broken = refused(api.create_namespaced_pod, "strict", pod("x"))
    assert broken.status == 403 and 'violates PodSecurity \\"restricted:latest\\": allowPrivilegeEsc' in broken.body
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    good = pod("x", securityContext={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
    good["spec"]["containers"][0]["securityContext"] = context
    assert api.create_namespaced_pod("strict", good).metadata.uid


def test_what_a_test_asks_to_fail_fails(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    double.fail(429, method="POST", path_contains="/pods", retry_after=3)
    assert api.list_namespaced_pod("training").items == []
    busy = refused(api.create_namespaced_pod, "training", pod("a"))
    assert busy.status == 429 and busy.headers["Retry-After"] == "3" and '"TooManyRequests"' in busy.body
    for status in (500, 409):
        double.fail(status)
        assert refused(api.list_namespaced_pod, "training").status == status
    double.fail(500, done=True, method="POST")
    assert refused(api.create_namespaced_pod, "training", pod("a")).status == 500
    assert api.read_namespaced_pod("a", "training").metadata.uid
    double.fail(0, done=True, method="POST")
    with pytest.raises(Exception, match=r"aborted|reset|Max retries"):
        api.create_namespaced_pod("training", pod("b"))
    assert api.read_namespaced_pod("b", "training").metadata.uid
    double.latency(0.2)
    begun = time.monotonic()
    api.list_namespaced_pod("training")
    assert time.monotonic() - begun >= 0.2


def test_containers_outlive_the_api_server(double: KubernetesDouble, api: client.CoreV1Api, tmp_path: Path) -> None:
    over = tmp_path / "over"
    waits = f"while not os.path.exists({str(over)!r}): time.sleep(0.1)"
    api.create_namespaced_pod("training", pod("a", f"import os, time; print('up')\n{waits}\nprint('down')"))
    reaches(api, "a", "Running")
    broken = threading.Event()

    def follow() -> None:
        try:
            for _ in watch.Watch().stream(api.list_namespaced_pod, "training", timeout_seconds=20):
                pass
        except Exception:
            broken.set()

    threading.Thread(target=follow, daemon=True).start()
    until(lambda: any("watch=True" in request.path for request in double.requests))
    url = double.url
    double.stop()
    assert broken.wait(30)
    with pytest.raises(Exception, match=r"refused|Max retries"):
        api.list_namespaced_pod("training")
    assert double.processes() == 1
    double.start()
    assert double.url == url
    over.touch()
    until(lambda: api.read_namespaced_pod("a", "training").status.phase == "Succeeded", 60)
    assert api.read_namespaced_pod_log("a", "training", _preload_content=False).data == b"up\ndown\n"


def test_custom_objects_and_their_status(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    double.add_custom_resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
    custom = client.CustomObjectsApi(api.api_client)
    where = ("trainer.kubeflow.org", "v1alpha1", "training", "trainjobs")
    body = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "j"},
        "spec": {"suspend": True},
    }
    made = custom.create_namespaced_custom_object(*where, body)
    state = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    custom.patch_namespaced_custom_object_status(*where, "j", state)
    changed = custom.patch_namespaced_custom_object(*where, "j", {"spec": {"suspend": False}, "status": {}})
    assert changed["status"]["conditions"][0]["type"] == "Complete" and changed["spec"] == {"suspend": False}
    assert (made["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)
    owner = {"apiVersion": made["apiVersion"], "kind": "TrainJob", "name": "j", "uid": made["metadata"]["uid"]}
    api.create_namespaced_secret("training", {"metadata": {"name": "s", "ownerReferences": [owner]}})
    custom.delete_namespaced_custom_object(*where, "j")
    until(lambda: api.list_namespaced_secret("training").items == [])
    groups = client.ApisApi(api.api_client).get_api_versions().groups
    assert "trainer.kubeflow.org" in {group.name for group in groups}


def test_a_role_in_a_namespace_allows_to_read_that_namespace_itself_and_no_other(double: KubernetesDouble) -> None:
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["namespaces"], "namespaces": ["training"]}
    double.add_namespace("other")
    asked = client_of(double, double.add_token("reader", [rule]))
    assert asked.read_namespace("training").metadata.name == "training"
    assert 'in the namespace \\"other\\"' in refused(asked.read_namespace, "other").body
    assert "at the cluster scope" in refused(asked.list_namespace).body


def test_a_node_offers_what_its_capacity_is_patched_to_and_its_taints_are_replaced_whole(
    api: client.CoreV1Api,
) -> None:
    path = "/status/capacity/example.com~1dongle"
    api.patch_node_status("gpu-1", [{"op": "add", "path": path, "value": "4"}])
    until(lambda: api.read_node("gpu-1").status.allocatable.get("example.com/dongle") == "4")
    assert api.read_node("gpu-1").status.allocatable["cpu"] == "8"
    api.patch_node_status("gpu-1", [{"op": "remove", "path": path}])
    until(lambda: "example.com/dongle" not in api.read_node("gpu-1").status.allocatable)
    taints = [{"key": name, "effect": "NoSchedule"} for name in ("a", "b")]
    api.patch_node("gpu-1", {"spec": {"taints": taints}})
    api.patch_node("gpu-1", {"spec": {"taints": taints[1:]}})
    assert [taint.key for taint in api.read_node("gpu-1").spec.taints] == ["b"]
    api.patch_node("gpu-1", {"spec": {"taints": None}})
    assert api.read_node("gpu-1").spec.taints is None
