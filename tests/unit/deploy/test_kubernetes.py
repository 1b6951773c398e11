"""deploy/kubernetes: Kubernetes knows every manifest, and the manifests grant the rights that the doctor needs."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from rempart.settings.config import Config, load
from rempart.settings.sections import Pool
from rempart.sovereignty.pods import plan
from rempart.sovereignty.render import _DNS_PODS
from rempart.spark.kubernetes import labels
from rempart.spark.kubernetes import pods as spark_pods
from rempart.training.kubernetes.doctor import EGRESS_POLICY, MANIFESTS, PROFILE
from rempart.training.kubernetes.facts import network_policy_of
from rempart.training.kubernetes.rights import REQUIRED, SPARK

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy" / "kubernetes"
FILES = sorted(
    file
    for file in DEPLOY.rglob("*.yaml")
    if not {"platform", "managed", "celery", "restore", "serving", "kserve"} & set(file.parts)
)
"""Of pools; those of the platform have tests of their own beside this file."""
CUSTOM = {("kustomize.config.k8s.io/v1beta1", "Kustomization"), ("kueue.x-k8s.io/v1beta1", "LocalQueue")}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text("utf-8")))


def every(kind: str) -> list[dict[str, Any]]:
    return [document for file in FILES for document in documents(file) if document["kind"] == kind]


def only(kind: str) -> dict[str, Any]:
    (found,) = every(kind)
    return found


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [document for document in every(kind) if document["metadata"]["name"] == name]
    return found


def model(document: dict[str, Any]) -> str:
    version = document["apiVersion"].rpartition("/")[2]
    return f"{version.capitalize()}{document['kind']}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_each_manifest_is_of_a_known_kind_and_has_no_unknown_field(file: Path) -> None:
    for document in documents(file):
        if (document["apiVersion"], document["kind"]) in CUSTOM:
            continue
        known = getattr(client, model(document))
        unknown = set(document) - set(known.attribute_map.values())
        assert not unknown, (file, unknown)
        spec = document.get("spec")
        if spec is not None:
            wanted = getattr(client, f"{model(document)}Spec")
            assert set(spec) <= set(wanted.attribute_map.values())
        assert ("namespace" in document["metadata"]) == (document["kind"] not in CLUSTER_WIDE)


def test_each_kustomization_names_every_manifest_beside_it() -> None:
    for folder in ("cluster", "pool"):
        named = documents(DEPLOY / folder / "kustomization.yaml")[0]["resources"]
        assert set(named) == {file.name for file in (DEPLOY / folder).glob("*.yaml")} - {"kustomization.yaml"}
    overlay = documents(DEPLOY / "examples" / "training" / "kustomization.yaml")[0]
    assert overlay["resources"] == ["../../pool"] and overlay["namespace"] == "training"
    for patch in overlay["patches"]:
        assert any(
            resource["metadata"]["name"] == patch["target"]["name"] for resource in every(patch["target"]["kind"])
        )


def test_the_roles_grant_exactly_what_the_doctor_requires() -> None:
    assert named("Role", "rempart-pool")["rules"] == [right.rule() for right in REQUIRED if not right.cluster]
    assert only("ClusterRole")["rules"] == [right.rule() for right in REQUIRED if right.cluster]


def test_only_airflow_and_drivers_of_spark_are_bound_and_no_token_is_mounted() -> None:
    airflow = [{"kind": "ServiceAccount", "name": "airflow", "namespace": "training"}]
    assert only("ClusterRoleBinding")["subjects"] == airflow
    assert {binding["metadata"]["name"]: binding["subjects"] for binding in every("RoleBinding")} == {
        "rempart-pool": airflow,
        "rempart-spark": [{"kind": "ServiceAccount", "name": spark_pods.ACCOUNT, "namespace": "training"}],
    }
    accounts = {
        service_account["metadata"]["name"]: service_account["automountServiceAccountToken"]
        for service_account in every("ServiceAccount")
    }
    assert accounts == {"airflow": False, "default": False, spark_pods.ACCOUNT: False}
    assert not every("Secret")


def test_a_driver_of_spark_makes_pods_and_removes_no_gate_of_one() -> None:
    assert named("Role", "rempart-spark")["rules"] == [right.rule() for right in SPARK]
    verbs = {verb for right in SPARK for verb in right.verbs}
    assert not verbs & {"patch", "update", "*"} and {right.resource for right in SPARK} == {"pods"}


def test_pods_of_spark_reach_one_another_and_only_the_driver_reaches_the_api() -> None:
    talk = named("NetworkPolicy", "rempart-spark")["spec"]
    peers = {"podSelector": {"matchExpressions": [{"key": labels.ROLE, "operator": "Exists"}]}}
    ports = [{"protocol": "TCP", "port": port} for port in (spark_pods.DRIVER_PORT, spark_pods.BLOCK_PORT)]
    assert talk["podSelector"] == peers["podSelector"]
    assert talk["ingress"] == [{"from": [peers], "ports": ports}] and talk["egress"] == [
        {"to": [peers], "ports": ports}
    ]
    api = named("NetworkPolicy", "rempart-spark-api")["spec"]
    assert api["podSelector"] == {"matchLabels": {labels.ROLE: labels.DRIVER}}
    assert api["egress"][0]["to"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]  # an overlay puts the API's address here


def test_everything_is_denied_but_dns_and_the_rest_is_rendered() -> None:
    policies = [network_policy_of(network_policy) for network_policy in every("NetworkPolicy")]
    assert not any(policy.opens for policy in policies)
    assert any(policy.every_pod and set(policy.closes) == {"Ingress", "Egress"} for policy in policies)
    assert EGRESS_POLICY not in {policy.name for policy in policies}
    (dns,) = [
        network_policy
        for network_policy in every("NetworkPolicy")
        if network_policy["metadata"]["name"] == "rempart-dns"
    ]
    assert dns["spec"]["egress"][0]["to"][0]["podSelector"] == {"matchLabels": _DNS_PODS}
    assert "rempart policy render" in (DEPLOY / "README.md").read_text("utf-8")


def test_the_quota_bounds_the_gpu_of_a_pool_by_default() -> None:
    gpu = Pool.model_fields["gpu"].default
    assert f"requests.{gpu}" in only("ResourceQuota")["spec"]["hard"]
    limits = only("LimitRange")["spec"]["limits"]
    assert [set(limit) for limit in limits] == [
        {"type", "default", "defaultRequest"}
    ]  # a maximum would become a default


def test_no_class_takes_a_running_pods_place() -> None:
    for priority_class in every("PriorityClass"):
        assert priority_class["preemptionPolicy"] == "Never" and priority_class["globalDefault"] is False


def configuration() -> Config:
    data = load(ROOT / "rempart.yaml").model_dump()
    country = {"country": "FR"}
    data["operators"]["acme"] = {
        "jurisdiction": "FR",
        "owner_jurisdiction": "FR",
        "regions": {"lyon": country},
        "services": {name: {"runs_on": ["acme"]} for name in ("managed-kubernetes", "container-registry")},
    }
    place = {"operator": "acme", "region": "lyon"}
    data["registries"] = {"registry.example.eu": place}
    data["gpu_pools"] = {"lyon": {**place, "kubernetes_connection": "k8s", "namespace": "training"}}
    return Config.model_validate(data)


def violations(spec: dict[str, Any]) -> list[str]:
    """What of a pod the restricted profile refuses, as its page lists it (kubernetes.io, Pod Security Standards)."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [
        f"volume {volume['name']}" for volume in spec.get("volumes") or () if not set(volume) - {"name"} <= allowed
    ]
    whole = spec.get("securityContext") or {}
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        own = container.get("securityContext") or {}
        both = {**whole, **own}
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("privileges")
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            found.append("root")
        if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccomp")
        capabilities = own.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()) or set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
    return found


def test_a_pod_as_the_policy_lets_it_run_passes_the_namespaces_profile() -> None:
    assert only("Namespace")["metadata"]["labels"][PROFILE] == "restricted"
    container = {"name": "base", "image": "registry.example.eu/rempart:1"}
    volumes = [{"name": "scratch", "emptyDir": {}}]
    pod = {
        "metadata": {"name": "p", "namespace": "training"},
        "spec": {"containers": [container], "volumes": volumes},
    }
    assert violations(pod["spec"])
    made = plan(configuration(), pod, ["personal"], on=date(2026, 11, 24)).pod
    assert made is not None and violations(made["spec"]) == []


def test_pages_name_files_and_commands_that_exist() -> None:
    for page in (DEPLOY / "README.md", ROOT / "docs/how-to/gpu-pools.md", ROOT / "docs/runbooks/training-pool.md"):
        text = page.read_text("utf-8")
        for path in re.findall(rf"{MANIFESTS}/[\w./-]+", text):
            assert path == f"{MANIFESTS}/examples/paris" or (ROOT / path.rstrip(".")).exists(), (page.name, path)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), (page.name, link)
