"""A pool's cluster for tests of jobs in pods: a double of their own, or a real cluster that KUBECONFIG names.

Such tests use and disturb a pool only through `Cluster`, so that they test the same on both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from tests.kubernetes_double import KubernetesDouble, PodRecord, Request

if TYPE_CHECKING:
    from tests.api_cluster import RealCluster
    from tests.kubernetes_double.containers import Engine

REGION = "topology.kubernetes.io/region"
PRODUCT = "nvidia.com/gpu.product"
GPU = "nvidia.com/gpu"
GPU_TYPE = "NVIDIA-L4"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
OPERATORS = {
    "cloud-a": ("FR", "FR", {"par": "FR"}),
    "cloud-b": ("DE", "DE", {"fra": "DE"}),
    "cloud-us": ("US", "US", {"east": "US"}),
}
POOLS = {"gpu-a": ("cloud-a", "par"), "gpu-b": ("cloud-b", "fra"), "gpu-us": ("cloud-us", "east")}
"""Two pools in the Union and one outside."""
MANIFESTS = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
ACCOUNT = "airflow"
"""The service account of a pool's connection."""
CHOSEN = "REMPART_TEST_K8S"
"""Set by `make test-k8s`: a KUBECONFIG in somebody's shell alone leads no test to a cluster."""
MISSED: dict[str, str] = {
    "lose_node": "a node cannot be made to die through Kubernetes' API",
    "starve": "a kubelet cannot be made to run out of memory through Kubernetes' API",
}
"""What a test cannot do to a real cluster without REMPART_TEST_K8S_NODE_COMMAND, and why."""
_CAPACITY = f"/status/capacity/{GPU.replace('~', '~0').replace('/', '~1')}"


class Cluster(Protocol):
    """One pool's cluster. Its administrator's rights are the test's; `kubeconfig` and `token` are Rempart's.

    Rempart has the rights that deploy/kubernetes grants it in the pool's namespace, and no others.
    """

    namespace: str
    node: str
    """The first node of the pool."""

    @property
    def token(self) -> str: ...
    @property
    def history(self) -> list[PodRecord]:
        """Every pod that was made in the namespace since the test began, oldest first."""

    @property
    def requests(self) -> Sequence[Request]:
        """What Rempart asked of the API."""

    def kubeconfig(self) -> dict[str, Any]: ...
    def client(self) -> Any:
        """The administrator's CoreV1Api, undisturbed by faults."""

    def offer(self, gpus: int) -> str:
        """One of the pool's nodes has this many GPUs from now on; which one."""

    def relabel(self, node: str, key: str, value: str) -> None: ...
    def ask_eviction(self, pod: str) -> None:
        """What `kubectl drain` does: the Eviction API."""

    def starve(self, pod: str) -> None:
        """The pod's node runs short of memory, so its kubelet evicts it. Skips the test where that cannot be done."""

    def lose_node(self) -> None:
        """The first node's machine dies. Skips the test where that cannot be done."""

    def fail(
        self,
        status: int,
        times: int = 1,
        method: str | None = None,
        path_contains: str | None = None,
        retry_after: int | None = None,
        *,
        done: bool = False,
    ) -> None:
        """The next requests of Rempart that match fail (status 0: their connection breaks).

        With `done` they take effect and only the answer is lost.
        """

    def latency(self, seconds: float) -> None:
        """Every request of Rempart waits this long."""

    def stop(self) -> None:
        """To Rempart, the API is away."""


class ByApi:
    """What is done through Kubernetes' API alone, to a double as to a real cluster."""

    namespace: str
    node: str

    def client(self) -> Any:
        raise NotImplementedError

    def offer(self, gpus: int) -> str:
        advertise(self.client(), self.node, gpus)
        return self.node

    def relabel(self, node: str, key: str, value: str) -> None:
        self.client().patch_node(node, {"metadata": {"labels": {key: value}}})

    def ask_eviction(self, pod: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        self.client().create_namespaced_pod_eviction(pod, self.namespace, body)


class DoubleCluster(ByApi, KubernetesDouble):
    """The double of one pool's cluster: a namespace and a node."""

    def __init__(self, pool: str, namespace: str, engine: Engine | None = None) -> None:
        super().__init__(engine=engine)
        self.namespace, self.node = namespace, f"{pool}-1"
        self.token = ""

    def __enter__(self) -> DoubleCluster:
        self.start()
        self.add_namespace(self.namespace, RESTRICTED)
        self.token = grant(self.client().api_client, self.namespace)
        return self

    def kubeconfig(self, token: str | None = None, namespace: str = "") -> dict[str, Any]:
        """A kubeconfig of the pool's identity, or of another token's."""
        return super().kubeconfig(token or self.token, namespace or self.namespace)

    def client(self) -> Any:
        from kubernetes import client, config

        return client.CoreV1Api(config.new_client_from_config_dict(self.kubeconfig(self.admin_token)))

    def starve(self, pod: str) -> None:
        self.evict(pod, self.namespace, grace=0)  # a kubelet that is short of memory waits a second or two at most

    def lose_node(self) -> None:
        self.node_lost(self.node)


def access(namespace: str) -> list[dict[str, Any]]:
    """The account, the roles and their bindings that deploy/kubernetes makes for a pool's namespace."""
    files = ("pool/service-accounts.yaml", "pool/role.yaml", "cluster/nodes.yaml")
    found = [
        document for name in files for document in yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8"))
    ]
    made = []
    for resource in found:
        if resource["kind"] == "ServiceAccount" and resource["metadata"]["name"] == "default":
            continue  # the namespace has it
        if "namespace" in resource["metadata"]:
            resource["metadata"]["namespace"] = namespace
        for subject in resource.get("subjects") or ():
            subject["namespace"] = namespace
        if resource["kind"] == "ClusterRoleBinding":  # as the overlay of a pool does
            resource["metadata"]["name"] += f"-{namespace}"
        made.append(resource)
    return made


def grant(api: Any, namespace: str) -> str:
    """Give Rempart what the documentation gives it in a namespace, as an administrator; a token of its account."""
    from kubernetes import client

    core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    for resource in access(namespace):
        makers: dict[str, Callable[[Any], object]] = {
            "ServiceAccount": lambda body: core.create_namespaced_service_account(namespace, body),
            "Role": lambda body: rbac.create_namespaced_role(namespace, body),
            "RoleBinding": lambda body: rbac.create_namespaced_role_binding(namespace, body),
            "ClusterRole": rbac.create_cluster_role,
            "ClusterRoleBinding": rbac.create_cluster_role_binding,
        }
        try:
            makers[resource["kind"]](resource)
        except client.ApiException as cause:
            if cause.status != 409:  # another pool of the cluster made the ClusterRole
                raise
    asked = {"spec": {"expirationSeconds": 6 * 3600, "audiences": []}}
    return str(core.create_namespaced_service_account_token(ACCOUNT, namespace, asked).status.token)


def advertise(api: Any, node: str, gpus: int) -> None:
    """Let a node offer GPUs as an extended resource, in the documented way, and wait until they can be allocated.

    Source: Kubernetes, "Advertise Extended Resources for a Node": a JSON patch of status.capacity; its kubelet follows.
    """
    if gpus:
        api.patch_node_status(node, [{"op": "add", "path": _CAPACITY, "value": str(gpus)}])
    else:
        withdraw(api, node)
    until(lambda: (api.read_node(node).status.allocatable or {}).get(GPU, "0") == str(gpus), 90)


def withdraw(api: Any, node: str) -> None:
    """Let a node offer GPUs no more; its kubelet follows."""
    if GPU in (api.read_node(node).status.capacity or {}):
        api.patch_node_status(node, [{"op": "remove", "path": _CAPACITY}])


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to be in {seconds:.0f} s"
        time.sleep(0.1)


_real: RealCluster | None = None


def real() -> RealCluster | None:
    """The real cluster of this run; None where each pool is a double."""
    return _real


def patience() -> float:
    """How many times longer things may take than on a double on this machine."""
    return _real.settings.patience if _real else 1.0


def scaled(seconds: float) -> str:
    """A duration for rempart.yaml."""
    return f"{max(round(seconds * patience()), 1)}s"


@contextmanager
def chosen(ports: Sequence[int], mlflow: int) -> Iterator[None]:
    """The clusters of this run: those of KUBECONFIG if `make test-k8s` asks for them, else doubles.

    Pods reach the site's `ports` and MLflow's at this machine's address.
    """
    global _real
    if not os.environ.get(CHOSEN):
        yield
        return
    from tests.api_cluster import RealCluster, Settings

    with RealCluster(Settings.of(os.environ), ports, mlflow) as made:
        _real = made
        try:
            yield
        finally:
            _real = None
