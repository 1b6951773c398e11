"""Pods: where a pod may run, which pods are refused, and that allowed pods are restricted and stay in their region."""

from __future__ import annotations

import copy
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.config import Config
from rempart.sovereignty.pods import LABEL, REGION, PodPlan, plan

TODAY = date(2026, 11, 24)


def operator(seat: str, owner: str) -> dict[str, Any]:
    return {
        "jurisdiction": seat,
        "owner_jurisdiction": owner,
        "regions": {"par": {"country": seat}},
        "services": {name: {"runs_on": [seat.lower()]} for name in ("managed-kubernetes", "container-registry")},
    }


RULE = {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}
BASE: dict[str, Any] = {
    "operators": {"fr": operator("FR", "FR"), "us": operator("US", "US")},
    "sites": {},
    "active_site": "home",
    "machine": {"operator": "fr", "service": "managed-kubernetes", "region": "par"},
    "policy": {
        "public": {"jurisdictions": ["EU", "US"], "owner_jurisdictions": ["EU", "US"]},
        "internal": RULE,
        "personal": RULE,
        "sensitive": RULE | {"qualifications": ["SecNumCloud-3.2"]},
    },
    "retention": {},
    "registries": {
        "registry.example.eu": {"operator": "fr", "region": "par", "mirror_of": ["docker.io"]},
        "registry.example.com": {"operator": "us", "region": "par"},
    },
    "gpu_pools": {
        "a": {"operator": "fr", "region": "par", "kubernetes_connection": "k8s_a", "namespace": "training"},
        "b": {
            "operator": "fr",
            "region": "par",
            "kubernetes_connection": "k8s_b",
            "namespace": "gpus",
            "node_selector": {REGION: "eu-paris", "gpu": "yes"},
        },
        "us": {"operator": "us", "region": "par", "kubernetes_connection": "k8s_us", "namespace": "abroad"},
        "c": {"operator": "fr", "region": "par", "kubernetes_connection": "k8s_c", "namespace": "shared"},
        "d": {"operator": "us", "region": "par", "kubernetes_connection": "k8s_d", "namespace": "shared"},
    },
    "backup": {"site": "home"},
}
BASE["sites"] = {"home": {"operator": "fr", "service": "managed-kubernetes", "region": "par", "connection": "s3"}}
CONFIG = Config.model_validate(BASE)


def pod(namespace: str = "training", label: str | None = "personal", **spec: Any) -> dict[str, Any]:
    labels = {} if label is None else {LABEL: label}
    containers = [{"name": "base", "image": "python:3.12"}]
    return {
        "metadata": {"name": "job", "namespace": namespace, "labels": labels},
        "spec": {"containers": containers, **spec},
    }


def planned(made: dict[str, Any], *stated: str, connection: str | None = None) -> PodPlan:
    before = copy.deepcopy(made)
    result = plan(CONFIG, made, stated, connection=connection, on=TODAY)
    assert made == before, "the pod given was changed"
    return result


def reasons(result: PodPlan) -> str:
    assert result.pod is None and not result.decision.allowed
    assert all(reason.remedy for reason in result.decision.against)
    return str(result.decision.refusal())


def allowed(result: PodPlan) -> dict[str, Any]:
    assert result.decision.allowed and result.pod is not None, result.decision.explain()
    return result.pod


def test_a_pod_is_held_in_its_region_mirrored_and_restricted() -> None:
    made = allowed(
        planned(
            pod(
                initContainers=[
                    {"name": "init", "image": "busybox"},
                    {"name": "sidecar", "image": "registry.example.eu/s:1", "restartPolicy": "Always"},
                ],
                volumes=[{"name": "tmp", "emptyDir": {}}],
            )
        )
    )
    spec = made["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [{"key": REGION, "operator": "In", "values": ["par"]}]}]
    assert [c["image"] for c in spec["containers"]] == ["registry.example.eu/docker.io/library/python:3.12"]
    assert [c["image"] for c in spec["initContainers"]] == [
        "registry.example.eu/docker.io/library/busybox",
        "registry.example.eu/s:1",
    ]
    assert spec["automountServiceAccountToken"] is False
    assert made["metadata"]["labels"][LABEL] == "personal"
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_the_pools_node_labels_are_asked_for() -> None:
    spec = allowed(planned(pod("gpus", nodeSelector={"disk": "ssd"})))["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd", REGION: "eu-paris", "gpu": "yes"}
    assert "eu-paris" in str(spec["affinity"])
    assert f"requests nodes with {REGION}=other" in reasons(planned(pod("gpus", nodeSelector={REGION: "other"})))
    assert f"requests nodes with {REGION}=other" in reasons(planned(pod(nodeSelector={REGION: "other"})))


def test_the_region_is_required_in_every_alternative() -> None:
    gpu = {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
    name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [gpu, name]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": gpu}],
        },
        "podAntiAffinity": {"x": 1},
    }
    made = allowed(planned(pod(affinity=affinity)))["spec"]["affinity"]
    region = {"key": REGION, "operator": "In", "values": ["par"]}
    assert made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {"matchExpressions": [*gpu["matchExpressions"], region]},
        {**name, "matchExpressions": [region]},
    ]
    assert made["podAntiAffinity"] == {"x": 1}
    assert made["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]


@pytest.mark.parametrize(
    ("made", "stated", "connection", "message"),
    [
        (pod("kube-system"), (), None, "namespace 'kube-system' belongs to no declared pool; declared: a (training)"),
        (pod(""), (), None, "namespace '' belongs to no declared pool"),
        (pod("abroad"), (), None, "policy.personal.jurisdictions: the country of region par is US"),
        (pod(label="sensitive"), (), None, "must hold SecNumCloud-3.2"),
        (pod(label="secret"), (), None, "'secret' is not a classification"),
        (pod(label="secret"), ("public",), None, "'secret' is not a classification"),
        (pod(label=None), (), None, "neither the DAG nor the pod states the classification of its data"),
        (pod("abroad", label="public"), ("personal",), None, "job (personal) may not be at pool 'us'"),
        (pod("abroad", label="personal"), ("public",), None, "job (personal) may not be at pool 'us'"),
        (pod("shared", label="public"), (), None, "namespace 'shared' belongs to several pools (c, d)"),
        (pod("training"), (), "k8s_us", "is a pool of connection k8s_a, not of 'k8s_us'"),
        (pod("training"), (), "kubernetes_default", "Set kubernetes_conn_id to k8s_a."),
    ],
)
def test_a_pod_that_may_not_run_there_is_refused(
    made: dict[str, Any], stated: tuple[str, ...], connection: str | None, message: str
) -> None:
    assert message in reasons(planned(made, *stated, connection=connection))


def test_the_connection_tells_which_of_two_pools_it_is() -> None:
    assert planned(pod("shared"), connection="k8s_c").pool == "c"
    assert "pool 'd'" in reasons(planned(pod("shared"), connection="k8s_d"))


def test_the_classification_may_stand_in_an_annotation_or_come_from_the_dag() -> None:
    annotated = pod(label=None)
    annotated["metadata"]["annotations"] = {LABEL: "internal"}
    assert planned(annotated).decision.classification == "internal"
    assert planned(annotated, "personal").decision.classification == "personal"
    bare = pod(label=None)
    del bare["metadata"]["labels"]
    assert allowed(planned(bare, "public"))["metadata"]["labels"] == {LABEL: "public"}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"image": "gcr.io/a/b"}, "image 'gcr.io/a/b': registry 'gcr.io' is not declared"),
        ({"image": "registry.example.com/a"}, "image 'registry.example.com/a': the country of region par is US"),
        ({"image": ""}, "has no image"),
        ({}, "has no image"),
        ({"image": "a", "securityContext": {"privileged": True}}, "requests privileged"),
        ({"image": "a", "securityContext": {"allowPrivilegeEscalation": True}}, "requests allowPrivilegeEscalation"),
        ({"image": "a", "securityContext": {"runAsNonRoot": False}}, "requests to run as root"),
        ({"image": "a", "securityContext": {"runAsUser": 0}}, "requests to run as root"),
        ({"image": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "capabilities SYS_ADMIN"),
        ({"image": "a", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "unconfined seccomp"),
        ({"image": "a", "securityContext": {"procMount": "Unmasked"}}, "procMount Unmasked"),
        ({"image": "a", "securityContext": {"windowsOptions": {"hostProcess": True}}}, "hostProcess"),
        ({"image": "a", "ports": [{"containerPort": 1, "hostPort": 1}]}, "requests a port of its node"),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_no_container_may_ask_for_more(kind: str, container: dict[str, Any], message: str) -> None:
    made = pod(initContainers=[{"name": "init", "image": "busybox"}])
    made["spec"][kind] = [*made["spec"][kind], {"name": "other", **container}]
    assert message in reasons(planned(made))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"hostIPC": True}, "hostIPC"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v is of kind hostPath"),
        ({"volumes": [{"name": "v", "nfs": {"server": "nas.example.com", "path": "/"}}]}, "volume v is of kind nfs"),
        ({"securityContext": {"runAsUser": 0}}, "container base requests to run as root"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "unconfined seccomp"),
    ],
)
def test_no_pod_may_ask_for_its_node(spec: dict[str, Any], message: str) -> None:
    assert message in reasons(planned(pod(**spec)))


def test_what_the_profile_allows_is_kept() -> None:
    context = {"runAsUser": 1000, "capabilities": {"add": ["NET_BIND_SERVICE"]}, "readOnlyRootFilesystem": True}
    local = {"type": "Localhost", "localhostProfile": "p.json"}
    made = pod(securityContext={"fsGroup": 1, "seccompProfile": local}, automountServiceAccountToken=True)
    made["spec"]["containers"][0]["securityContext"] = context
    spec = allowed(planned(made))["spec"]
    assert spec["automountServiceAccountToken"] is True
    assert spec["securityContext"] == {"fsGroup": 1, "seccompProfile": local, "runAsNonRoot": True}
    assert spec["containers"][0]["securityContext"] == context | {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        "seccompProfile": local,
    }


def test_every_reason_stands_in_one_message() -> None:
    made = pod("elsewhere", hostNetwork=True)
    made["spec"]["containers"][0] |= {"image": "gcr.io/a/b", "securityContext": {"privileged": True}}
    text = reasons(planned(made))
    for message in ("namespace 'elsewhere'", "hostNetwork", "gcr.io", "privileged"):
        assert message in text


CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "privileged": st.booleans(),
        "runAsUser": st.sampled_from([0, 1000]),
        "runAsNonRoot": st.booleans(),
        "allowPrivilegeEscalation": st.booleans(),
        "capabilities": st.sampled_from([{}, {"drop": ["KILL"]}, {"add": ["SYS_ADMIN"]}]),
        "seccompProfile": st.sampled_from([{"type": "Unconfined"}, {"type": "RuntimeDefault"}]),
    },
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("c"), "image": st.sampled_from(["python", "registry.example.eu/a", "gcr.io/a"])},
        optional={"securityContext": CONTEXTS},
    ),
    min_size=1,
    max_size=2,
)
PODS = st.builds(
    lambda namespace, label, spec: pod(namespace, label, **spec),
    st.sampled_from(["training", "gpus", "abroad", "shared", "other"]),
    st.sampled_from([None, "public", "personal", "sensitive", "x"]),
    st.fixed_dictionaries(
        {"containers": CONTAINERS},
        optional={"initContainers": CONTAINERS, "securityContext": CONTEXTS, "hostNetwork": st.booleans()},
    ),
)


@given(PODS)
def test_what_may_run_is_restricted_in_its_region_and_planning_it_again_changes_nothing(made: dict[str, Any]) -> None:
    result = planned(made)
    if result.pod is None:
        assert result.decision.against
        return
    spec = result.pod["spec"]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        context = container["securityContext"]
        assert container["image"].startswith("registry.example.eu/")
        assert context["runAsNonRoot"] and not context["allowPrivilegeEscalation"] and not context.get("privileged")
        assert context["capabilities"]["drop"] == ["ALL"] and context["seccompProfile"]["type"] != "Unconfined"
    assert REGION in str(spec["affinity"])
    assert planned(result.pod).pod == result.pod


@given(PODS, st.sampled_from(["public", "internal", "personal", "sensitive"]))
def test_a_further_classification_never_makes_a_pod_allowed(made: dict[str, Any], further: str) -> None:
    if not planned(made, "public").decision.allowed:
        assert not planned(made, "public", further).decision.allowed
