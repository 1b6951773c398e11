"""Nodes that join, die, return and leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cluster import Cluster, set_condition
from .controllers import Controllers
from .kinds import NODE, Obj
from .kubelet import Kubelet, PodWorker

_ALLOCATABLE = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"}
_IDENTITIES = ("machineID", "systemUUID", "bootID")
_SYSTEM = {
    "kubeletVersion": "v1.34.0",
    "kubeProxyVersion": "",
    "containerRuntimeVersion": "containerd://2.1.4",
    "kernelVersion": "6.12.0",
    "osImage": "Debian GNU/Linux 13 (trixie)",
    "operatingSystem": "linux",
    "architecture": "amd64",
}
_UNREACHABLE = "node.kubernetes.io/unreachable"


class Nodes:
    """What happens to machines, done in the loop's thread."""

    def __init__(self, cluster: Cluster, kubelet: Kubelet, controllers: Controllers) -> None:
        self._cluster = cluster
        self._kubelet = kubelet
        self._controllers = controllers

    def add(
        self,
        name: str,
        labels: Mapping[str, str],
        allocatable: Mapping[str, str],
        taints: Sequence[Mapping[str, str]],
        provider_id: str | None,
    ) -> None:
        """A ready node."""
        amounts = _ALLOCATABLE | {each: str(value) for each, value in allocatable.items()}
        known = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        spec: Obj = {"taints": [dict(taint) for taint in taints]} if taints else {}
        spec |= {"providerID": provider_id} if provider_id else {}
        self._cluster.create(NODE, "", {"metadata": {"name": name, "labels": known | dict(labels)}, "spec": spec})

        def report(node: Obj) -> None:
            node["status"] = {
                "capacity": amounts,
                "allocatable": amounts,
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
                "nodeInfo": dict.fromkeys(_IDENTITIES, name) | _SYSTEM,
            }
            _ready(node)

        self._cluster.modify(NODE, "", name, report)

    def remove(self, name: str) -> None:
        """The machine and its Node object are gone."""
        self._cluster.get(NODE, "", name)
        self._die(name)
        self._cluster.delete(NODE, "", name)
        self._kubelet.lost_nodes.discard(name)

    def lose(self, name: str, after: float) -> None:
        """The machine dies; its pods are deleted after so many seconds."""
        self._cluster.get(NODE, "", name)
        self._die(name)
        self._controllers.patience[name] = after

        def unknown(node: Obj) -> None:
            set_condition(node, "Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
            taints = [{"key": _UNREACHABLE, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
            node["spec"]["taints"] = [*(node["spec"].get("taints") or []), *taints]

        self._cluster.modify(NODE, "", name, unknown)

    def _die(self, name: str) -> None:
        self._kubelet.lost_nodes.add(name)
        for worker in self._on(name):
            worker.lose()

    def _on(self, node: str) -> list[PodWorker]:
        return [worker for worker in self._kubelet.workers.values() if worker.pod["spec"].get("nodeName") == node]

    def back(self, name: str) -> None:
        """The machine is back, restarted."""
        self._kubelet.lost_nodes.discard(name)
        self._controllers.forgive(name)

        def ready(node: Obj) -> None:
            _ready(node)
            taints = node["spec"].get("taints") or []
            node["spec"]["taints"] = [taint for taint in taints if taint["key"] != _UNREACHABLE]

        self._cluster.modify(NODE, "", name, ready)
        for worker in self._on(name):
            worker.found()

    def cordon(self, name: str, unschedulable: bool) -> None:
        """Whether new pods go to the node."""

        def change(node: Obj) -> None:
            node["spec"]["unschedulable"] = unschedulable

        self._cluster.modify(NODE, "", name, change)


def _ready(node: Obj) -> None:
    set_condition(node, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
