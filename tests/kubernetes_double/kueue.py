"""Kueue for the double: pods and TrainJobs with the name of a queue wait until their ClusterQueue has quota for them.

After Kueue 0.19 with its defaults; its words, reasons, names and events are those of its source (kubernetes-sigs/kueue:
pkg/controller/jobs/pod, jobs/trainjob, jobframework, core; pkg/scheduler). Left out: cohorts and borrowing, a second
flavor of a resource, admission checks, groups of pods, topologies, waitForPodsReady, and the finalizer of Workloads.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence

from .cluster import Cluster, condition, set_condition
from .kinds import POD, PRIORITY_CLASS, Kind, Obj, key
from .kueue_quota import quotas, victims_of, why_not
from .quota import finished
from .trainer import RUNTIME, TRAIN_JOB

GROUP = "kueue.x-k8s.io"
QUEUE, GATE, MANAGED = f"{GROUP}/queue-name", f"{GROUP}/admission", f"{GROUP}/managed"
MANAGER = f"{GROUP}/manager"
_PREEMPTED = "Preempted to accommodate a workload (UID: {}, JobUID: {}) due to prioritization in the ClusterQueue"


class Kueue:
    """Its webhook, its controllers and its scheduler. `namespaces` are those whose pods it manages; None: all."""

    def __init__(self, cluster: Cluster, version: str, namespaces: Sequence[str] | None) -> None:
        self.cluster = cluster
        self.stopped = False
        """Its controllers are away; the webhook answers."""
        self._namespaces = namespaces

        def kind(plural: str, name: str, *, namespaced: bool) -> Kind:
            return Kind(GROUP, version, plural, name, namespaced=namespaced, status=True, custom=True)

        self.local_queue = kind("localqueues", "LocalQueue", namespaced=True)
        self.cluster_queue = kind("clusterqueues", "ClusterQueue", namespaced=False)
        self.flavor = kind("resourceflavors", "ResourceFlavor", namespaced=False)
        self.workload = kind("workloads", "Workload", namespaced=True)
        cluster.kinds += [self.local_queue, self.cluster_queue, self.flavor, self.workload]
        cluster.webhooks.append(self._default)

    def _default(self, kind: Kind, obj: Obj) -> None:
        """The mutating webhook: a pod gets its gate and finalizer, a TrainJob is suspended."""
        metadata = obj["metadata"]
        labels = metadata.get("labels") or {}
        if kind not in (POD, TRAIN_JOB) or not labels.get(QUEUE):
            return
        if self._namespaces is not None and metadata["namespace"] not in self._namespaces:
            return
        if kind is TRAIN_JOB:
            obj["spec"]["suspend"] = True
            patch = {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {}}}}
            obj["spec"]["runtimePatches"] = [*(obj["spec"].get("runtimePatches") or ()), patch]
            return
        metadata["labels"] = labels | {MANAGED: "true"}
        metadata["finalizers"] = [*(metadata.get("finalizers") or ()), MANAGED]
        gates = obj["spec"].get("schedulingGates") or []
        obj["spec"]["schedulingGates"] = [*gates, {"name": GATE}]
        role = hashlib.sha256(repr(obj["spec"]["containers"]).encode()).hexdigest()[:8]
        metadata["annotations"] = (metadata.get("annotations") or {}) | {f"{GROUP}/role-hash": role}

    def reconcile(self) -> None:
        """One round of all of it."""
        if self.stopped:
            return
        self._activate()
        for job in self.cluster.store.oldest_first(TRAIN_JOB):
            if self._ours(job) and MANAGER in str(job["spec"].get("runtimePatches")):
                self._train_job(job)
        for pod in self.cluster.store.oldest_first(POD):
            if self._ours(pod) and (pod["metadata"].get("labels") or {}).get(MANAGED) == "true":
                self._pod(pod)
        belongs = {workload["metadata"]["uid"]: self._queue_of(workload) for workload in self._live()}
        for queue in self.cluster.store.list(self.cluster_queue):
            self._schedule(queue, belongs)

    def _ours(self, obj: Obj) -> bool:
        return bool((obj["metadata"].get("labels") or {}).get(QUEUE))

    # queues

    def _activate(self) -> None:
        for queue in self.cluster.store.list(self.cluster_queue):
            missing = [flavor for flavor in _flavors(queue) if self.cluster.store.get(self.flavor, "", flavor) is None]
            if _stop(queue) != "None":
                new_condition = ("False", "Stopped", "Can't admit new workloads: is stopped.")
            elif missing:
                new_condition = ("False", "FlavorNotFound", f"Can't admit new workloads: references missing {missing}.")
            else:
                new_condition = ("True", "Ready", "Can admit new workloads")
            self._set_condition(self.cluster_queue, queue, "Active", *new_condition)
        for queue in self.cluster.store.list(self.local_queue):
            behind = self.cluster.store.get(self.cluster_queue, "", queue["spec"]["clusterQueue"])
            if _stop(queue) != "None":
                new_condition = ("False", "Stopped", "LocalQueue is stopped")
            elif behind is None:
                new_condition = ("False", "ClusterQueueDoesNotExist", "Can't submit new workloads to clusterQueue")
            elif not _holds(behind, "Active"):
                new_condition = ("False", "ClusterQueueIsInactive", "Can't submit new workloads to clusterQueue")
            else:
                new_condition = ("True", "Ready", "Can submit new workloads to localQueue")
            self._set_condition(self.local_queue, queue, "Active", *new_condition)

    # pods and TrainJobs

    def _pod(self, pod: Obj) -> None:
        if pod["metadata"].get("deletionTimestamp") or finished(pod):
            self._finish(pod)
            if MANAGED in (pod["metadata"].get("finalizers") or ()):
                new = copy.deepcopy(pod)
                new["metadata"]["finalizers"].remove(MANAGED)
                self.cluster.replace(POD, *key(pod), new)
            return
        workload = self._workload(pod, [("main", 1, pod)])
        gated = {"name": GATE} in (pod["spec"].get("schedulingGates") or [])
        if gated and _holds(workload, "Admitted"):
            selector = self._node_labels(workload)

            def start(new: Obj) -> None:
                new["spec"]["schedulingGates"].remove({"name": GATE})
                new["spec"]["nodeSelector"] = (new["spec"].get("nodeSelector") or {}) | selector

            self.cluster.modify(POD, *key(pod), start, pod["metadata"]["uid"])
            self._event(pod, "Started", f"Admitted by clusterQueue {workload['status']['admission']['clusterQueue']}")
        elif not gated and (evicted := condition(workload, "Evicted")) and evicted["status"] == "True":

            def stop(new: Obj) -> None:
                reason = f"WorkloadEvictedDueTo{evicted['reason']}"
                set_condition(new, "TerminationTarget", "True", reason, evicted["message"])

            self.cluster.modify(POD, *key(pod), stop, pod["metadata"]["uid"])
            self._event(pod, "Stopped", evicted["message"])
            self.cluster.delete(POD, *key(pod))

    def _train_job(self, job: Obj) -> None:
        if job["metadata"].get("deletionTimestamp") or _holds(job, "Complete") or _holds(job, "Failed"):
            self._finish(job)
            return
        runtime = self.cluster.store.get(RUNTIME, job["metadata"]["namespace"], job["spec"]["runtimeRef"]["name"])
        if runtime is None:
            return
        template = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        like: Obj = copy.deepcopy(template)
        like["spec"]["containers"][0]["resources"] = job["spec"]["trainer"].get("resourcesPerNode") or {}
        workload = self._workload(job, [("node", job["spec"]["trainer"].get("numNodes", 1), like)])
        suspended = job["spec"].get("suspend")
        if suspended and _holds(workload, "Admitted") and not _holds(workload, "Evicted"):
            pods = {"name": "node", "template": {"spec": {"template": {"spec": {}}}}}
            pods["template"]["spec"]["template"]["spec"] = {"nodeSelector": self._node_labels(workload)}  # type: ignore[index]

            def start(new: Obj) -> None:
                patch = next(
                    runtime_patch
                    for runtime_patch in new["spec"]["runtimePatches"]
                    if runtime_patch["manager"] == MANAGER
                )
                patch["trainingRuntimeSpec"]["template"]["spec"] = {"replicatedJobs": [pods]}
                new["spec"]["suspend"] = False

            self.cluster.modify(TRAIN_JOB, *key(job), start, job["metadata"]["uid"])
            self._event(job, "Started", f"Admitted by clusterQueue {workload['status']['admission']['clusterQueue']}")
        elif _holds(workload, "Evicted"):
            evicted = condition(workload, "Evicted") or {}
            if not suspended:
                self.cluster.modify(TRAIN_JOB, *key(job), _suspend, job["metadata"]["uid"])
                self._event(job, "Stopped", evicted["message"])
            elif _reserves(workload) and not self._pods_of(job):
                self._requeue(workload, evicted)

    def _pods_of(self, job: Obj) -> list[Obj]:
        uid = job["metadata"]["uid"]
        return [
            info
            for info in self.cluster.store.list(POD, job["metadata"]["namespace"])
            if any(owner["uid"] == uid for owner in info["metadata"].get("ownerReferences") or ())
        ]

    def _workload(self, owner: Obj, sets: Sequence[tuple[str, int, Obj]]) -> Obj:
        """The Workload of a pod or TrainJob, made if it is not there."""
        namespace, name = key(owner)
        called = workload_name(owner)
        if found := self.cluster.store.get(self.workload, namespace, called):
            return found
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name, "controller": True}
        spec = sets[0][2]["spec"]
        body = {
            "apiVersion": self.workload.api_version,
            "kind": "Workload",
            "metadata": {"name": called, "ownerReferences": [reference | {"uid": owner["metadata"]["uid"]}]},
            "spec": {
                "active": True,
                "queueName": owner["metadata"]["labels"][QUEUE],
                "priority": self._priority(spec),
                "podSets": [
                    {"name": each, "count": count, "template": {"spec": of["spec"]}} for each, count, of in sets
                ],
            },
        }
        made = self.cluster.create(self.workload, namespace, body)
        self._event(owner, "CreatedWorkload", f"Created Workload: {namespace}/{called}")
        return made

    def _priority(self, spec: Obj) -> int:
        if "priority" in spec:
            return int(spec["priority"])
        named = self.cluster.store.get(PRIORITY_CLASS, "", spec.get("priorityClassName") or "")
        return int((named or {}).get("value", 0))

    def _finish(self, owner: Obj) -> None:
        """A Workload whose job is over, or goes, gives its quota back."""
        found = self.cluster.store.get(self.workload, owner["metadata"]["namespace"], workload_name(owner))
        if found is not None and not _holds(found, "Finished"):
            gone = owner["metadata"].get("deletionTimestamp")
            new_condition = ("OwnerNotFound", "The workload's owner no longer exists") if gone else ("Succeeded", "")
            self._set_condition(self.workload, found, "Finished", "True", *new_condition)

    # admission

    def _schedule(self, queue: Obj, belongs: Mapping[str, str | None]) -> None:
        name, policy = queue["metadata"]["name"], _stop(queue)
        mine = [workload for workload in self._live() if belongs[workload["metadata"]["uid"]] == name]
        if policy == "HoldAndDrain":
            for workload in mine:
                if _reserves(workload) and not _holds(workload, "Evicted"):
                    self._evict(workload, "ClusterQueueStopped", "The ClusterQueue is stopped")
            return
        if not _holds(queue, "Active"):
            return
        pending = [workload for workload in mine if not _reserves(workload)]
        for workload in sorted(
            pending, key=lambda each: (-each["spec"]["priority"], each["metadata"]["creationTimestamp"])
        ):
            held = [each for each in self._live() if _reserves(each) and belongs[each["metadata"]["uid"]] == name]
            why, waits = why_not(queue, workload, held)
            if not why:
                self._admit(workload, queue)
                continue
            if waits:
                leaving = [each for each in held if _holds(each, "Evicted")]
                staying = [each for each in held if each not in leaving]
                victims = victims_of(queue, workload, staying, leaving)
                for victim in victims:
                    uids = workload["metadata"]["uid"], workload["metadata"]["ownerReferences"][0]["uid"]
                    path = f"; preemptor path: /{name}; preemptee path: /{name}"
                    self._evict(victim, "Preempted", _PREEMPTED.format(*uids) + path)
                if victims or (leaving and not why_not(queue, workload, staying)[0]):
                    self._pend(workload, f"{why}. Pending the preemption of {len(victims) or len(leaving)} workload(s)")
                    return
            self._pend(workload, why)
            if queue["spec"].get("queueingStrategy") == "StrictFIFO":
                return

    def _live(self) -> list[Obj]:
        return [
            workload for workload in self.cluster.store.oldest_first(self.workload) if not _holds(workload, "Finished")
        ]

    def _queue_of(self, workload: Obj) -> str | None:
        """The ClusterQueue of a Workload; what has none, or one that admits nothing, is told so."""
        if _reserves(workload):
            return str(workload["status"]["admission"]["clusterQueue"])
        local = workload["spec"]["queueName"]
        queue = self.cluster.store.get(self.local_queue, workload["metadata"]["namespace"], local)
        if queue is None:
            self._inadmissible(workload, f"LocalQueue {local} is terminating or missing")
            return None
        if _stop(queue) != "None":
            self._inadmissible(workload, f"LocalQueue {local} is stopped")
            return None
        name = str(queue["spec"]["clusterQueue"])
        behind = self.cluster.store.get(self.cluster_queue, "", name)
        if behind is None:
            self._inadmissible(workload, f"ClusterQueue {name} is terminating or missing")
        elif _stop(behind) != "None":
            self._inadmissible(workload, f"ClusterQueue {name} is stopped")
        return name

    def _admit(self, workload: Obj, queue: Obj) -> None:
        name = queue["metadata"]["name"]
        flavors = {each: flavor for each, (flavor, _) in quotas(queue).items()}

        def change(obj: Obj) -> None:
            sets = [
                {"name": pod_set["name"], "count": pod_set["count"], "flavors": flavors}
                for pod_set in obj["spec"]["podSets"]
            ]
            obj.setdefault("status", {})["admission"] = {"clusterQueue": name, "podSetAssignments": sets}
            set_condition(obj, "QuotaReserved", "True", "QuotaReserved", f"Quota reserved in ClusterQueue {name}")
            set_condition(obj, "Admitted", "True", "Admitted", "The workload is admitted")
            for past in ("Evicted", "Preempted"):
                if _holds(obj, past):
                    set_condition(obj, past, "False", "QuotaReserved", f"Previously: {past}")

        self.cluster.modify(self.workload, *key(workload), change)
        waited = f"Quota reserved in ClusterQueue {name}, wait time since queued was 1s"
        self._event(workload, "QuotaReserved", waited, by="kueue-admission")
        self._event(
            workload,
            "Admitted",
            f"Admitted by ClusterQueue {name}, wait time since reservation was 0s",
            by="kueue-admission",
        )

    def _evict(self, workload: Obj, reason: str, message: str) -> None:
        def change(obj: Obj) -> None:
            set_condition(obj, "Evicted", "True", reason, message)
            if reason == "Preempted":
                set_condition(obj, "Preempted", "True", "InClusterQueue", message)

        self.cluster.modify(self.workload, *key(workload), change)
        self._event(workload, f"EvictedDueTo{reason}", message, by="kueue-admission")
        if reason == "Preempted":
            self._event(workload, "Preempted", message, by="kueue-admission")

    def _requeue(self, workload: Obj, evicted: Obj) -> None:
        """An evicted Workload whose pods are gone waits again."""

        def change(obj: Obj) -> None:
            obj["status"].pop("admission", None)
            again = "True" if evicted["reason"] == "Preempted" else "False"
            set_condition(obj, "Requeued", again, evicted["reason"], evicted["message"])
            set_condition(obj, "QuotaReserved", "False", "Pending", evicted["message"])
            set_condition(obj, "Admitted", "False", "NoReservation", "The workload has no reservation")

        self.cluster.modify(self.workload, *key(workload), change)

    def _pend(self, workload: Obj, why: str) -> None:
        if self._unreserved(workload, "Pending", why):
            self._event(workload, "Pending", why, warning=True, by="kueue-admission")

    def _inadmissible(self, workload: Obj, why: str) -> None:
        """Kueue tells this by the condition alone."""
        self._unreserved(workload, "Inadmissible", why)

    def _unreserved(self, workload: Obj, reason: str, why: str) -> bool:
        """Whether it was not known."""
        old = condition(workload, "QuotaReserved")
        self._set_condition(self.workload, workload, "QuotaReserved", "False", reason, why)
        return old is None or old.get("message") != why

    def _node_labels(self, workload: Obj) -> dict[str, str]:
        names = {
            flavor
            for each in workload["status"]["admission"]["podSetAssignments"]
            for flavor in each["flavors"].values()
        }
        found = [self.cluster.store.get(self.flavor, "", name) or {} for name in sorted(names)]
        return {
            name: value
            for flavor in found
            for name, value in ((flavor.get("spec") or {}).get("nodeLabels") or {}).items()
        }

    def _set_condition(self, kind: Kind, obj: Obj, name: str, status: str, reason: str, message: str) -> None:
        def change(new: Obj) -> None:
            set_condition(new, name, status, reason, message)

        self.cluster.modify(kind, *key(obj), change)

    def _event(
        self, about: Obj, reason: str, message: str, *, warning: bool = False, by: str = "pod-kueue-controller"
    ) -> None:
        self.cluster.record(about, by, reason, message, warning=warning)


def workload_name(owner: Obj) -> str:
    """Source: pkg/controller/jobframework/workload_names.go."""
    metadata, kind = owner["metadata"], owner["kind"]
    group = owner["apiVersion"].partition("/")[0] if "/" in owner["apiVersion"] else ""
    text = "\n".join((kind, group, metadata["name"], metadata["uid"]))
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:5]
    prefix = f"{kind.lower()}-{metadata['name']}"
    return f"{prefix[:57]}-{digest}"


def _flavors(queue: Obj) -> list[str]:
    return [flavor["name"] for group in queue["spec"].get("resourceGroups") or () for flavor in group["flavors"]]


def _stop(queue: Obj) -> str:
    return str(queue["spec"].get("stopPolicy") or "None")


def _holds(obj: Obj, name: str) -> bool:
    return (condition(obj, name) or {}).get("status") == "True"


def _reserves(workload: Obj) -> bool:
    return "admission" in (workload.get("status") or {})


def _suspend(job: Obj) -> None:
    job["spec"]["suspend"] = True
    for patch in job["spec"]["runtimePatches"]:
        if patch["manager"] == MANAGER:
            patch["trainingRuntimeSpec"]["template"]["spec"] = {}
