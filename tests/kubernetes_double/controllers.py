"""The controllers: scheduler loop, taint manager, pod and garbage collection, quotas, namespaces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from . import quantity, quota, scheduler
from .cluster import Cluster, set_condition
from .errors import Refusal
from .kinds import NAMESPACE, NODE, POD, QUOTA, Kind, Obj, key
from .kubelet import Kubelet
from .quota import finished
from .store import Change


class Controllers:
    """Reconciles whenever something changed."""

    def __init__(self, cluster: Cluster, kubelet: Kubelet) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        self.patience: dict[str, float] = {}
        self.others: list[Callable[[], None]] = []
        """Controllers that are not Kubernetes' own."""
        self.changed = asyncio.Event()
        self._moves = 0
        self._attempted: dict[str, int] = {}
        self._due: dict[tuple[str, str], float] = {}
        cluster.store.listeners.append(self._notice)

    def _notice(self, change: Change) -> None:
        if change.kind is NODE:
            self._moves += 1
        elif change.kind is POD and change.old is not None:
            freed = change.type == "DELETED" or finished(change.new) != finished(change.old)
            gates = change.new["spec"].get("schedulingGates") != change.old["spec"].get("schedulingGates")
            self._moves += freed or gates
        self.changed.set()

    async def run(self) -> None:
        """Reconciles for ever."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            self.reconcile()

    def reconcile(self) -> None:
        """One round of every controller; a write of theirs asks for the next."""
        for other in self.others:
            other()
        self._taints()
        self._collect_pods()
        self._collect_garbage()
        self._finalize_namespaces()
        self._quotas()
        self._schedule()
        self.kubelet.sync()

    # scheduler

    def _schedule(self) -> None:
        pods, nodes = self.cluster.store.oldest_first(POD), self.cluster.store.list(NODE)
        for pod in pods:
            if pod["spec"].get("schedulingGates") and not finished(pod):
                message = "Scheduling is blocked due to non-empty scheduling gates"
                self._condition(pod, "PodScheduled", "False", "SchedulingGated", message)
        if not scheduler.queue(pods):
            return
        for decision in scheduler.schedule(pods, nodes):
            pod, uid = decision.pod, decision.pod["metadata"]["uid"]
            if decision.node is not None:
                self._bind(pod, decision.node)
            elif self._attempted.get(uid) != self._moves:
                self._attempted[uid] = self._moves
                self._condition(pod, "PodScheduled", "False", "Unschedulable", decision.message)
                self.cluster.record(pod, "default-scheduler", "FailedScheduling", decision.message, warning=True)
                for victim in decision.victims:
                    self._preempt(pod, victim)

    def _bind(self, pod: Obj, node: str) -> None:
        def change(new: Obj) -> None:
            new["spec"]["nodeName"] = node
            set_condition(new, "PodScheduled", "True")

        bound = self.cluster.modify(POD, *key(pod), change, pod["metadata"]["uid"])
        if bound is not None:
            namespace, name = key(pod)
            message = f"Successfully assigned {namespace}/{name} to {node}"
            self.cluster.record(bound, "default-scheduler", "Scheduled", message)

    def _preempt(self, pod: Obj, victim: Obj) -> None:
        if victim["metadata"].get("deletionTimestamp"):
            return
        message = "default-scheduler: preempting to accommodate a higher priority pod"
        self._condition(victim, "DisruptionTarget", "True", "PreemptionByScheduler", message)
        by = f"Preempted by pod {pod['metadata']['uid']} on node {victim['spec']['nodeName']}"
        self.cluster.record(victim, "default-scheduler", "Preempted", by)
        self._delete(POD, victim)

    # nodes

    def _taints(self) -> None:
        nodes = {node["metadata"]["name"]: node for node in self.cluster.store.list(NODE)}
        loop = asyncio.get_running_loop()
        for pod in self.cluster.store.list(POD):
            node = nodes.get(pod["spec"].get("nodeName") or "")
            if node is None or finished(pod) or pod["metadata"].get("deletionTimestamp"):
                continue
            name = node["metadata"]["name"]
            if name in self.kubelet.lost_nodes:
                self._condition(pod, "Ready", "False")
            for taint in node["spec"].get("taints") or []:
                if taint["effect"] != "NoExecute":
                    continue
                toleration = scheduler.tolerates(pod, taint)
                seconds = 0.0 if toleration is None else toleration.get("tolerationSeconds")
                if seconds is None:
                    continue
                seconds = min(float(seconds), self.patience.get(name, float("inf")))
                mark = (pod["metadata"]["uid"], taint["key"])
                if mark not in self._due:
                    self._due[mark] = loop.time() + seconds
                    loop.call_later(seconds, self.changed.set)
                if loop.time() >= self._due[mark]:
                    message = "Taint manager: deleting due to NoExecute taint"
                    self._condition(pod, "DisruptionTarget", "True", "DeletionByTaintManager", message)
                    about = f"Marking for deletion Pod {'/'.join(key(pod))}"
                    self.cluster.record(pod, "taint-eviction-controller", "TaintManagerEviction", about)
                    self._delete(POD, pod)
                    break

    def forgive(self, node: str) -> None:
        """The node's NoExecute taints are gone: no pod of it is due any more."""
        self.patience.pop(node, None)
        on_it = {pod["metadata"]["uid"] for pod in self.cluster.store.list(POD) if pod["spec"].get("nodeName") == node}
        self._due = {mark: due for mark, due in self._due.items() if mark[0] not in on_it}

    def _collect_pods(self) -> None:
        nodes = {node["metadata"]["name"] for node in self.cluster.store.list(NODE)}

        def fail(pod: Obj) -> None:
            if not finished(pod):
                pod["status"]["phase"] = "Failed"
                set_condition(pod, "DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")

        for pod in self.cluster.store.list(POD):
            node = pod["spec"].get("nodeName")
            if node and node not in nodes:
                self.cluster.modify(POD, *key(pod), fail)
                self._delete(POD, pod, {"gracePeriodSeconds": 0})

    # objects

    def _collect_garbage(self) -> None:
        everything = list(self.cluster.store.everything())
        present = {obj["metadata"]["uid"] for _, obj in everything}
        served = {(kind.api_version, kind.kind) for kind in self.cluster.kinds}
        for kind, obj in everything:
            owners = obj["metadata"].get("ownerReferences") or []
            known = all((owner["apiVersion"], owner["kind"]) in served for owner in owners)
            orphaned = owners and known and not any(owner["uid"] in present for owner in owners)
            if orphaned and not obj["metadata"].get("deletionTimestamp"):
                self._delete(kind, obj)

    def _finalize_namespaces(self) -> None:
        for namespace in self.cluster.store.list(NAMESPACE):
            if not namespace["metadata"].get("deletionTimestamp"):
                continue
            name = namespace["metadata"]["name"]
            content = [pair for pair in self.cluster.store.everything() if pair[1]["metadata"].get("namespace") == name]
            for kind, obj in content:
                if not obj["metadata"].get("deletionTimestamp"):
                    self._delete(kind, obj)
            if not content and not namespace["metadata"].get("finalizers"):
                self.cluster.store.remove(NAMESPACE, namespace)

    def _quotas(self) -> None:
        for each in self.cluster.store.list(QUOTA):
            hard: Obj = each["spec"].get("hard") or {}
            namespace = each["metadata"]["namespace"]
            objects = [
                pair for pair in self.cluster.store.everything() if pair[1]["metadata"].get("namespace") == namespace
            ]
            used = {name: quantity.show(name, value) for name, value in quota.used(hard, objects).items()}
            status = {"hard": dict(hard), "used": used}

            def change(obj: Obj, status: Obj = status) -> None:
                obj["status"] = status

            self.cluster.modify(QUOTA, *key(each), change)

    def _condition(self, pod: Obj, name: str, status: str, reason: str = "", message: str = "") -> None:
        def change(new: Obj) -> None:
            set_condition(new, name, status, reason, message)

        self.cluster.modify(POD, *key(pod), change, pod["metadata"]["uid"])

    def _delete(self, kind: Kind, obj: Obj, options: Obj | None = None) -> None:
        with contextlib.suppress(Refusal):
            self.cluster.delete(kind, *key(obj), options)
