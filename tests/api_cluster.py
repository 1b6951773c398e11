"""Pools on a real cluster, used only through Kubernetes' API with an administrator's rights.

Each pool is a namespace and one or more nodes, which get its region as a label, a taint and advertised GPUs. An
annotation of the node holds its earlier state, so the next run restores a node that a killed run left. Rempart reaches
the API through a proxy for each pool, which records, delays and fails requests (tests/api_proxy.py).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api_proxy import Forwarder, Loop, Proxy, Upstream
from tests.clusters import (
    GPU,
    GPU_TYPE,
    MISSED,
    POOLS,
    PRODUCT,
    REGION,
    RESTRICTED,
    ByApi,
    access,
    advertise,
    grant,
    until,
    withdraw,
)
from tests.kubernetes_double import PodRecord, Request
from tests.pod_watch import PodWatch

OURS = "test.rempart.eu/pool"
"""Label of what a run made, and annotation of a node: what it was before."""
PULL_SECONDS = 900


class NotUsable(Exception):
    """The cluster, or what is said about it, is not what these tests need."""


@dataclass(frozen=True)
class Settings:
    """What a run against a real cluster is told by the environment."""

    kubeconfig: str
    image: str
    host: str
    nodes: Mapping[str, tuple[str, ...]]
    patience: float
    node_command: str = ""
    """A program that is called with `lose`, `starve` or `mend` and a node's name; empty if there is none."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Raises NotUsable, which names everything that is missing."""
        missing = []
        if not environment.get("KUBECONFIG"):
            missing.append("KUBECONFIG: a file with an administrator's access to the cluster")
        if environment.get("REMPART_TEST_K8S_OWN_CLUSTER") != "yes":
            missing.append(
                "REMPART_TEST_K8S_OWN_CLUSTER=yes: nodes are relabelled and tainted, pods evicted: "
                "use a cluster of its own"
            )
        if "@sha256:" not in environment.get("REMPART_TEST_K8S_IMAGE", ""):
            missing.append("REMPART_TEST_K8S_IMAGE: the trainer's image of this very code, name@sha256:...")
        if environment.get("REMPART_TEST_K8S_HOST", "127.0.0.1") == "127.0.0.1":
            missing.append("REMPART_TEST_K8S_HOST: an address of this machine that pods reach, other than 127.0.0.1")
        if missing:
            raise NotUsable("\n".join(["`make test-k8s` needs (docs/how-to/test-on-a-cluster.md):", *missing]))
        nodes: dict[str, tuple[str, ...]] = {}
        for part in filter(None, environment.get("REMPART_TEST_K8S_NODES", "").split(",")):
            pool, _, names = part.partition("=")
            nodes[pool] = tuple(names.split("+"))
        if nodes and (set(nodes) != set(POOLS) or not all(all(names) for names in nodes.values())):
            raise NotUsable(f"REMPART_TEST_K8S_NODES names nodes for each of {', '.join(POOLS)}: gpu-a=x+y,gpu-b=z,...")
        return cls(
            environment["KUBECONFIG"],
            environment["REMPART_TEST_K8S_IMAGE"],
            environment["REMPART_TEST_K8S_HOST"],
            nodes,
            float(environment.get("REMPART_TEST_K8S_PATIENCE") or 10),
            environment.get("REMPART_TEST_K8S_NODE_COMMAND", ""),
        )


class ApiCluster(ByApi):
    """One pool, for one test."""

    def __init__(self, cluster: RealCluster, pool: str) -> None:
        self.namespace, self.node = f"training-{pool}", cluster.nodes[pool][0]
        self._cluster = cluster
        upstream = Upstream.known_by(cluster.tokens[pool], cluster.configuration)
        self._proxy = Proxy(cluster.loop, upstream, guarded=True).start()
        self._watch = PodWatch(cluster.loop, cluster.upstream, self.namespace).start()
        self.token = self._proxy.token
        self.fail, self.latency, self.stop = self._proxy.fail, self._proxy.latency, self._proxy.stop

    def client(self) -> Any:
        return self._cluster.api

    def kubeconfig(self) -> dict[str, Any]:
        """Access through the pool's proxy."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self._proxy.url}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}}],
        }

    @property
    def history(self) -> list[PodRecord]:
        return self._watch.records

    @property
    def requests(self) -> Sequence[Request]:
        return list(self._proxy.requests)

    def starve(self, pod: str) -> None:
        self._disturb("starve", MISSED["starve"])

    def lose_node(self) -> None:
        self._disturb("lose", MISSED["lose_node"])

    def _disturb(self, what: str, why: str) -> None:
        if not self._cluster.settings.node_command:
            pytest.skip(f"REMPART_TEST_K8S_NODE_COMMAND is not set, and {why}")
        self._cluster.disturb(what, self.node)

    def close(self) -> None:
        self._watch.close()
        self._proxy.close()


class RealCluster:
    """The cluster of KUBECONFIG, prepared for a run. Raises NotUsable; what it changed is undone at its end."""

    def __init__(self, settings: Settings, ports: Sequence[int], mlflow: int) -> None:
        from kubernetes import client, config

        self.settings, self._ports, self._mlflow = settings, ports, mlflow
        found = client.Configuration()
        try:
            config.load_kube_config(config_file=settings.kubeconfig, client_configuration=found)
        except (config.ConfigException, OSError) as cause:
            raise NotUsable(f"{settings.kubeconfig} is no usable kubeconfig: {cause}") from cause
        self.configuration = found
        self.upstream = Upstream.of(found)
        self.api: Any = client.CoreV1Api(client.ApiClient(found))
        self.nodes: dict[str, tuple[str, ...]] = {}
        self.tokens: dict[str, str] = {}
        """Of each pool's identity, with the rights that are documented."""
        self._disturbed: set[str] = set()

    def look(self) -> None:
        """Whether the cluster answers, and is one for these tests; changes nothing. Raises NotUsable."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            for pool in POOLS:
                found = _found(self.api.read_namespace, f"training-{pool}")
                if found is not None and OURS not in (found.metadata.labels or {}):
                    name = found.metadata.name
                    raise NotUsable(f"The cluster has a namespace {name}, not made by these tests: use one of its own.")
            # an earlier run that was killed left its taints: its nodes count
            taken = [item for item in self.api.list_node().items if OURS in (item.metadata.annotations or {})]
            if not taken and not self.settings.nodes:
                self._choose()
        except (ApiException, HTTPError) as cause:
            raise NotUsable(f"The cluster of {self.settings.kubeconfig} does not answer: {cause}") from cause

    def __enter__(self) -> RealCluster:
        with ExitStack() as undo:
            self.loop = Loop()
            undo.callback(self.loop.close)
            self._forward(undo)
            self.look()
            self._delete_namespaces()
            undo.callback(self._delete_namespaces)
            undo.callback(self._delete_cluster_roles)
            self._restore_nodes()
            self.nodes = dict(self.settings.nodes) or self._choose()
            undo.callback(self._restore_nodes)
            for pool, (_, region) in POOLS.items():
                labels = RESTRICTED | {OURS: pool}
                self.api.create_namespace({"metadata": {"name": f"training-{pool}", "labels": labels}})
                self.tokens[pool] = grant(self.api.api_client, f"training-{pool}")
                for name in self.nodes[pool]:
                    self._take(name, region)
            self._warm_up()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @contextmanager
    def fresh(self, gpus: Mapping[str, int]) -> Iterator[dict[str, ApiCluster]]:
        """The pools with nothing in their namespaces, and so many GPUs each (2 unless told)."""
        with ExitStack() as ending:
            made = {}
            ending.callback(self._mend)
            for pool, (_, region) in POOLS.items():
                self._empty(f"training-{pool}")
                for index, node in enumerate(self.nodes[pool]):
                    self.api.patch_node(node, {"metadata": {"labels": {REGION: region}}})
                    advertise(self.api, node, 0 if index else gpus.get(pool, 2))
                made[pool] = ApiCluster(self, pool)
                ending.callback(made[pool].close)
            yield made

    # what jobs are given

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        """A job's Secret, whose connections name this machine as pods reach it."""
        return {name: self._elsewhere(value) for name, value in given.items()}

    def _elsewhere(self, connection: str) -> str:
        found = json.loads(connection)
        if found.get("host") == "127.0.0.1":
            found["host"] = self.settings.host
        extra = found.get("extra") or {}
        if endpoint := extra.get("endpoint_url"):
            extra["endpoint_url"] = endpoint.replace("//127.0.0.1:", f"//{self.settings.host}:")
        return json.dumps(found)

    def _forward(self, undo: ExitStack) -> None:
        """The stack listens on 127.0.0.1 only: its site and MLflow are offered at this machine's address meanwhile."""
        host = self.settings.host
        try:
            for port in self._ports:
                undo.callback(Forwarder(self.loop, host, port).start().close)
            # MLflow answers to the host names that it knows, so it gets a proxy that calls it by one of them
            at = Upstream(f"http://127.0.0.1:{self._mlflow}")
            undo.callback(Proxy(self.loop, at, host, self._mlflow, guarded=False).start().close)
        except OSError as cause:
            raise NotUsable(f"REMPART_TEST_K8S_HOST={host}: cannot listen there ({cause})") from cause

    # nodes

    def disturb(self, what: str, node: str) -> None:
        """Let the node's machine die (`lose`) or run short of memory (`starve`), until the test is over."""
        self._disturbed.add(node)
        self._call(what, node)

    def _mend(self) -> None:
        """Undo what was done to machines, and wait until their nodes take pods again."""
        while self._disturbed:
            node = self._disturbed.pop()
            self._call("mend", node)
            until(lambda: _works(self.api.read_node(node), but=GPU), 300)  # noqa: B023 - called before the next one

    def _call(self, what: str, node: str) -> None:
        subprocess.run([self.settings.node_command, what, node], check=True, timeout=300)

    def _choose(self) -> dict[str, tuple[str, ...]]:
        workers = sorted(item.metadata.name for item in self.api.list_node().items if _works(item))
        if len(workers) < len(POOLS):
            raise NotUsable(
                f"{len(workers)} nodes take pods ({', '.join(workers) or 'none'}); {len(POOLS)} are needed, ready, "
                "schedulable and without taints, one for each pool. REMPART_TEST_K8S_NODES names others."
            )
        return {pool: (name,) for pool, name in zip(POOLS, workers, strict=False)}

    def _take(self, name: str, region: str) -> None:
        node = self.api.read_node(name)
        if (node.status.capacity or {}).get(GPU, "0") != "0":
            raise NotUsable(
                f"Node {name} has real GPUs ({GPU}), whose number is its device plugin's. Name other nodes."
            )
        labels, taints = node.metadata.labels or {}, _taints(self.api, node)
        before = {"labels": {key: labels.get(key) for key in (REGION, PRODUCT)}, "taints": taints}
        taint = {"key": GPU, "effect": "NoSchedule"}
        metadata = {"annotations": {OURS: json.dumps(before)}, "labels": {REGION: region, PRODUCT: GPU_TYPE}}
        kept = [other for other in taints if other["key"] != GPU]
        self.api.patch_node(name, {"metadata": metadata, "spec": {"taints": [*kept, taint]}})

    def _restore_nodes(self) -> None:
        for node in self.api.list_node().items:
            if told := (node.metadata.annotations or {}).get(OURS):
                before, name = json.loads(told), node.metadata.name
                withdraw(self.api, name)
                metadata = {"annotations": {OURS: None}, "labels": before["labels"]}
                self.api.patch_node(name, {"metadata": metadata, "spec": {"taints": before["taints"] or None}})

    # namespaces

    def _delete_namespaces(self) -> None:
        names = [f"training-{pool}" for pool in POOLS]
        for name in names:
            if _found(self.api.read_namespace, name) is not None:
                self.api.delete_namespace(name)
        until(lambda: not any(_found(self.api.read_namespace, name) for name in names), 300)

    def _delete_cluster_roles(self) -> None:
        """What `grant` made outside the namespaces."""
        from kubernetes import client

        rbac = client.RbacAuthorizationV1Api(self.api.api_client)
        for resource in (made for pool in POOLS for made in access(f"training-{pool}")):
            if resource["kind"] in ("ClusterRole", "ClusterRoleBinding"):
                delete = (
                    rbac.delete_cluster_role if resource["kind"] == "ClusterRole" else rbac.delete_cluster_role_binding
                )
                with suppress(client.ApiException):  # each pool names the one ClusterRole
                    delete(resource["metadata"]["name"])

    def _empty(self, namespace: str) -> None:
        self.api.delete_collection_namespaced_resource_quota(namespace)
        self.api.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
        until(lambda: not self.api.list_namespaced_pod(namespace).items, 120)

    # the image

    def _warm_up(self) -> None:
        """Run the image once on each node: it is pulled, and reaches this machine. Raises NotUsable."""
        ports = [*self._ports, self._mlflow]
        code = f"import rempart, socket; [socket.create_connection(({self.settings.host!r}, p), 10) for p in {ports}]"
        waiting = {}
        spaces = [f"training-{pool}" for pool in POOLS]
        # a controller makes a namespace's account; without it no pod is accepted
        until(lambda: all(_found(self.api.read_namespaced_service_account, "default", name) for name in spaces), 60)
        for pool, names in self.nodes.items():
            for name in names:
                made = self.api.create_namespaced_pod(f"training-{pool}", small_pod(self.settings.image, name, code))
                waiting[name] = made.metadata
        deadline = time.monotonic() + PULL_SECONDS
        for node, metadata in waiting.items():
            while True:
                pod = self.api.read_namespaced_pod(metadata.name, metadata.namespace)
                if pod.status.phase == "Succeeded":
                    break
                if pod.status.phase == "Failed":
                    log = self.api.read_namespaced_pod_log(metadata.name, metadata.namespace)
                    raise NotUsable(f"The image does not work on node {node}, or does not reach this machine:\n{log}")
                if time.monotonic() > deadline:
                    raise NotUsable(f"The image did not run on node {node} in {PULL_SECONDS} s: {pod.status}")
                time.sleep(0.5)


def small_pod(image: str, node: str, code: str, gpus: int = 0) -> dict[str, Any]:
    """A pod on a node that runs a few lines of Python, under the restricted profile."""
    user = {"runAsNonRoot": True, "runAsUser": 50000, "seccompProfile": {"type": "RuntimeDefault"}}
    container: dict[str, Any] = {
        "name": "c",
        "image": image,
        "command": ["python", "-c", code],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}, "requests": {GPU: str(gpus)}}
    return {
        "metadata": {"generateName": "somebody-else-"},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": GPU, "operator": "Exists"}],
            "securityContext": user,
            "containers": [container],
        },
    }


def _works(node: Any, but: str = "") -> bool:
    """Whether a node takes any pod, `but` for what a taint of that key keeps away."""
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions or ())
    taints = [
        taint for taint in node.spec.taints or () if taint.effect in ("NoSchedule", "NoExecute") and taint.key != but
    ]
    return ready and not node.spec.unschedulable and not taints


def _taints(api: Any, node: Any) -> list[Any]:
    found: list[Any] = api.api_client.sanitize_for_serialization(node.spec.taints or [])
    return found


def _found(read: Any, *named: str) -> Any:
    from kubernetes.client import ApiException

    try:
        return read(*named)
    except ApiException as cause:
        if cause.status == 404:
            return None
        raise
