"""A pool on a cluster with the objects of deploy/, and what the doctor finds in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.config import new_client_from_config_dict

from rempart.flows.doctor import doctor_pool
from rempart.settings.config import Config, Connection
from rempart.sovereignty.pods import REGION
from rempart.training.kubernetes.facts import PoolFinding
from tests.kubernetes_double import KubernetesDouble
from tests.kubernetes_double.access import User
from tests.kubernetes_double.kinds import Kind

TODAY = date(2026, 11, 24)
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
IMAGE = f"registry.example.eu/rempart@sha256:{'a' * 64}"
GPU = "nvidia.com/gpu"


def manifests(*folders: str) -> list[dict[str, Any]]:
    files = [file for folder in folders for file in sorted((DEPLOY / folder).glob("*.yaml"))]
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text("utf-8"))]
    return [
        document
        for document in documents
        if document["kind"] not in ("Kustomization", "ClusterRole", "ClusterRoleBinding")
    ]


def granted() -> list[dict[str, Any]]:
    """The rules of the shipped Role, in the pool's namespace, and those of the ClusterRole."""
    role = next(manifest for manifest in manifests("pool") if manifest["kind"] == "Role")
    cluster = next(yaml.safe_load_all((DEPLOY / "cluster" / "nodes.yaml").read_text("utf-8")))
    return [*({**rule, "namespaces": ["training"]} for rule in role["rules"]), *cluster["rules"]]


@dataclass
class Pool:
    """A cluster as deploy/kubernetes makes it, and a configuration that names it."""

    double: KubernetesDouble
    api: client.ApiClient
    site: str
    pool: dict[str, Any] = field(default_factory=dict)
    image: str = IMAGE
    spark: dict[str, Any] = field(default_factory=dict)
    registry: str = "registry.example.eu"
    token: str = ""

    def allow(self, rules: Sequence[Mapping[str, Any]]) -> None:
        self.token = self.double.add_token("system:serviceaccount:training:airflow", rules)

    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = yaml.safe_load((ROOT / "rempart.yaml").read_text("utf-8"))
        services = {name: {"runs_on": "acme"} for name in ("managed-kubernetes", "container-registry")}
        data["operators"]["acme"] = {
            "as_of": "2026-11-24",
            "jurisdiction": "FR",
            "owner_jurisdiction": "FR",
            "regions": {"lyon": {"country": "FR"}},
            "services": services,
        }
        place = {"operator": "acme", "region": "lyon"}
        data["registries"] = {self.registry: place}
        data["training"] = {"backend": "kubernetes", "image": self.image}
        data["spark"] = self.spark
        data["gpu_pools"] = {
            "lyon": {
                **place,
                "kubernetes_connection": "k8s_lyon",
                "namespace": "training",
                "tolerations": [{"key": "nvidia.com/gpu"}],
                "quota": 1,
                "priority_class": "rempart-training",
                **self.pool,
            }
        }
        return data

    def config(self) -> Config:
        return Config.model_validate(self.data())

    def connections(self, name: str) -> Connection:
        if name == "k8s_lyon":
            kubeconfig = self.double.kubeconfig(self.token, "training")
            return Connection(name, "kubernetes", extra={"kube_config": json.dumps(kubeconfig)})
        if name == "mlflow":
            port = int(self.site.rpartition(":")[2])
            return Connection(name, "http", "127.0.0.1", port, "user", "not-to-be-seen", "http")
        return Connection(name, "aws", login="key", password="not-to-be-seen", extra={"endpoint_url": self.site})

    def findings(self, *, probe: bool = False, seconds: float = 180) -> dict[str, list[PoolFinding]]:
        (found,) = self.diagnoses(probe=probe, seconds=seconds)
        told: dict[str, list[PoolFinding]] = {}
        for finding in found.findings:
            told.setdefault(finding.check, []).append(finding)
        assert all(finding.remedy for finding in found.findings if finding.outcome in ("FAIL", "warn"))
        assert "not-to-be-seen" not in repr(found) and self.token not in repr(found)
        return told

    def diagnoses(self, *, probe: bool = False, seconds: float = 180) -> list[doctor_pool.Diagnosis]:
        return doctor_pool.diagnose(
            [], probe=probe, seconds=seconds, config=self.config(), connections=self.connections, on=TODAY
        )

    def pods(self) -> list[str]:
        return [item.metadata.name for item in client.CoreV1Api(self.api).list_namespaced_pod("training").items]


def failed(told: dict[str, list[PoolFinding]]) -> set[str]:
    return {check for check, found in told.items() if any(finding.outcome == "FAIL" for finding in found)}


def only(told: dict[str, list[PoolFinding]], check: str) -> PoolFinding:
    (found,) = told[check]
    return found


def new_site() -> Iterator[str]:
    """A server that refuses whoever has no credentials."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def new_pool(site: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    demand = User.demand

    def as_a_server(user: User, verb: str, kind: Kind, subresource: str, namespace: str, name: str) -> None:
        """An API server takes a namespace's own name for its namespace: a Role in it allows to get it."""
        demand(user, verb, kind, subresource, name if kind.plural == "namespaces" else namespace, name)

    monkeypatch.setattr(User, "demand", as_a_server)
    with KubernetesDouble() as double:
        api = new_client_from_config_dict(double.kubeconfig())
        made = Pool(double, api, site)
        for document in sorted(manifests("cluster", "pool"), key=lambda manifest: manifest["kind"] != "Namespace"):
            create(api, document)
        create(api, egress_policy())
        double.add_node("gpu-1", {REGION: "lyon"}, {GPU: "2"}, [{"key": GPU, "effect": "NoSchedule"}])
        double.add_node("plain-1", {REGION: "lyon"})
        double.add_image(IMAGE)
        made.allow(granted())
        yield made


def egress_policy() -> dict[str, Any]:
    metadata = {"name": "rempart-egress", "namespace": "training"}
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}]}]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def create(api: client.ApiClient, document: dict[str, Any]) -> None:
    """As `kubectl apply` would, for the kinds of deploy/kubernetes."""
    kind, space = document["kind"], document["metadata"].get("namespace", "")
    core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    network, scheduling = client.NetworkingV1Api(api), client.SchedulingV1Api(api)
    if kind == "ServiceAccount" and document["metadata"]["name"] == "default":
        core.patch_namespaced_service_account("default", space, document)
        return
    makers: dict[str, Callable[[], object]] = {
        "Namespace": lambda: core.create_namespace(document),
        "ResourceQuota": lambda: core.create_namespaced_resource_quota(space, document),
        "LimitRange": lambda: core.create_namespaced_limit_range(space, document),
        "ServiceAccount": lambda: core.create_namespaced_service_account(space, document),
        "Role": lambda: rbac.create_namespaced_role(space, document),
        "RoleBinding": lambda: rbac.create_namespaced_role_binding(space, document),
        "NetworkPolicy": lambda: network.create_namespaced_network_policy(space, document),
        "PriorityClass": lambda: scheduling.create_priority_class(document),
    }
    makers[kind]()
