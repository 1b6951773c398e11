"""Kubeflow Trainer for the double: the pods of each TrainJob, from its TrainingRuntime, and its conditions.

Left out: JobSet and Job are not objects here, so the TrainJob owns its pods, and a deletion in the foreground does not
wait for them; there is no headless service and no restart. Pods are processes of this machine: PET_MASTER_ADDR is
127.0.0.1, and the port one that is free, where Kubeflow writes the name of the first pod and 29500. Fields of a spec
that the API of Kubeflow Trainer 2.0 to 2.4 does not have in every version are refused, which no real server does.
"""

from __future__ import annotations

import asyncio
import copy
import random
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from .cluster import Cluster, condition, set_condition
from .errors import Refusal
from .kinds import POD, Kind, Obj, key
from .quota import finished

TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", status=True, custom=True)
RUNTIME = Kind("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime", custom=True)
INDEX = "batch.kubernetes.io/job-completion-index"
_SPEC = {"runtimeRef", "trainer", "suspend"}
_TRAINER = {"image", "command", "args", "env", "numNodes", "resourcesPerNode", "numProcPerNode"}


class Trainer:
    """Its controller."""

    def __init__(self, cluster: Cluster, changed: asyncio.Event) -> None:
        self.cluster = cluster
        self._changed = changed
        self._refused: dict[tuple[str, int], float] = {}
        self._ports: dict[str, int] = {}
        cluster.kinds += [TRAIN_JOB, RUNTIME]

    def reconcile(self) -> None:
        """Pods for TrainJobs that lack them, and the conditions of all."""
        for job in self.cluster.store.list(TRAIN_JOB):
            if job["metadata"].get("deletionTimestamp") or condition(job, "Complete") or condition(job, "Failed"):
                continue
            if job["spec"].get("suspend"):
                self._suspend(job)
                continue
            if condition(job, "Suspended"):
                self._set_condition(job, "Suspended", "Resumed", "TrainJob is resumed", status="False")
            self._one(job)

    def _suspend(self, job: Obj) -> None:
        """The controller of Jobs deletes the pods of one that is suspended, and counts none as failed."""
        self._set_condition(job, "Suspended", "Suspended", "TrainJob is suspended")
        if (job.get("status") or {}).get("jobsStatus"):
            self.cluster.modify(TRAIN_JOB, *key(job), _rests, job["metadata"]["uid"])
        for pod in self._pods(job):
            if not pod["metadata"].get("deletionTimestamp"):
                self.cluster.delete(POD, *key(pod))

    def _pods(self, job: Obj) -> list[Obj]:
        return [
            info
            for info in self.cluster.store.list(POD, job["metadata"]["namespace"])
            if any(owner["uid"] == job["metadata"]["uid"] for owner in info["metadata"].get("ownerReferences") or ())
        ]

    def _one(self, job: Obj) -> None:
        namespace, name = key(job)
        runtime = self.cluster.store.get(RUNTIME, namespace, job["spec"]["runtimeRef"]["name"])
        ours = {name for name in job["spec"] if name != "runtimePatches"}  # those are Kueue's
        unknown = [*(ours - _SPEC), *(set(job["spec"]["trainer"]) - _TRAINER)]
        if runtime is None or unknown:
            self._set_condition(
                job, "Failed", "TrainingRuntimeNotSupported", f"no such runtime, or unknown fields {unknown}"
            )
            return
        mine = self._pods(job)
        nodes = job["spec"]["trainer"].get("numNodes", 1)
        there = {int(pod["metadata"]["labels"][INDEX]) for pod in mine}
        failed = [pod for pod in mine if pod["status"]["phase"] == "Failed"]
        # the controller of Jobs counts a pod that is gone, or going, as failed (backoffLimit 0)
        gone = [pod for pod in mine if pod["metadata"].get("deletionTimestamp")]
        missing = len(there) < nodes and (job.get("status") or {}).get("jobsStatus")  # once all were there
        if failed or gone or missing:
            self._set_condition(
                job, "Failed", "FailedJobs", f"jobset failed due to one or more job failures: {name}-node-0"
            )
            for pod in mine:
                if not finished(pod) and not pod["metadata"].get("deletionTimestamp"):
                    self.cluster.delete(POD, *key(pod))
        elif len(there) == nodes and all(pod["status"]["phase"] == "Succeeded" for pod in mine):
            self._set_condition(job, "Complete", "AllJobsCompleted", "jobset completed successfully")
        else:
            for index in sorted(set(range(nodes)) - there):
                self._make(job, runtime, index, nodes)

    def _make(self, job: Obj, runtime: Obj, index: int, nodes: int) -> None:
        loop = asyncio.get_running_loop()
        uid = job["metadata"]["uid"]
        if self._refused.get((uid, index), 0.0) > loop.time():
            return
        namespace, name = key(job)
        try:
            self.cluster.create(POD, namespace, self._pod(job, runtime, index, nodes))
        except Refusal as refusal:
            self._refused[uid, index] = loop.time() + 1.0
            loop.call_later(1.1, self._changed.set)
            about = job | {"kind": "Job", "apiVersion": "batch/v1"}
            about["metadata"] = job["metadata"] | {"name": f"{name}-node-0", "uid": f"{uid}-job"}
            message = f"Error creating: {refusal.status()['message']}"
            self.cluster.record(about, "job-controller", "FailedCreate", message, warning=True)
            return
        if index == nodes - 1:
            self.cluster.modify(TRAIN_JOB, namespace, name, _begun, uid)

    def _pod(self, job: Obj, runtime: Obj, index: int, nodes: int) -> Obj:
        namespace, name = key(job)
        replicated = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
        step = replicated["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"]
        assert step == "trainer", step
        template: Obj = copy.deepcopy(replicated["template"]["spec"]["template"])
        metadata = template.setdefault("metadata", {})
        marks = {
            INDEX: str(index),
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"],
            "batch.kubernetes.io/job-name": f"{name}-{replicated['name']}-0",
        }
        metadata["labels"] = (metadata.get("labels") or {}) | marks
        metadata["annotations"] = (metadata.get("annotations") or {}) | {INDEX: str(index)}
        suffix = "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))
        metadata |= {"name": f"{name}-{replicated['name']}-0-{index}-{suffix}", "namespace": namespace}
        metadata["ownerReferences"] = [
            {
                "apiVersion": TRAIN_JOB.api_version,
                "kind": "TrainJob",
                "name": name,
                "uid": job["metadata"]["uid"],
                "controller": True,
            }
        ]
        container = next(container for container in template["spec"]["containers"] if container["name"] == "node")
        self._trainer(job, runtime, container, nodes)
        for patch in job["spec"].get("runtimePatches") or ():
            for replicated_job in patch["trainingRuntimeSpec"]["template"]["spec"].get("replicatedJobs") or ():
                more = replicated_job["template"]["spec"]["template"]["spec"].get("nodeSelector") or {}
                template["spec"]["nodeSelector"] = (template["spec"].get("nodeSelector") or {}) | more
        return template

    def _trainer(self, job: Obj, runtime: Obj, container: Obj, nodes: int) -> None:
        """What the TrainJob and the torch policy write into the container of a node."""
        trainer = job["spec"]["trainer"]
        for field in ("image", "command", "args"):
            if field in trainer:
                container[field] = trainer[field]
        if "resourcesPerNode" in trainer:
            container["resources"] = trainer["resourcesPerNode"]
        env: dict[str, Any] = {
            variable["name"]: variable for variable in (*(container.get("env") or ()), *(trainer.get("env") or ()))
        }
        reserved = [line for line in env if line.startswith("PET_")]
        assert not reserved, f"the webhook refuses {reserved}"
        assert runtime["spec"]["mlPolicy"]["torch"] == {}, "a field of some versions only"
        rank = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
        port = self._ports.setdefault(job["metadata"]["uid"], _free_port())
        written: dict[str, dict[str, Any]] = {
            "PET_NNODES": {"value": str(nodes)},
            "PET_NPROC_PER_NODE": {"value": str(trainer.get("numProcPerNode", "auto"))},
            "PET_NODE_RANK": {"valueFrom": rank},
            "PET_MASTER_ADDR": {"value": "127.0.0.1"},
            "PET_MASTER_PORT": {"value": str(port)},
        }
        container["env"] = [*env.values(), *({"name": name} | value for name, value in written.items())]
        container["ports"] = [{"containerPort": 29500}]

    def _set_condition(self, job: Obj, kind: str, reason: str, message: str, status: str = "True") -> None:
        def change(obj: Obj) -> None:
            set_condition(obj, kind, status, reason, message)

        self.cluster.modify(TRAIN_JOB, *key(job), change, job["metadata"]["uid"])


def _rests(job: Obj) -> None:
    del job["status"]["jobsStatus"]


def _begun(job: Obj) -> None:
    job.setdefault("status", {})["jobsStatus"] = [{"name": "node", "active": 1}]


def _free_port() -> int:
    """A port that no program is given by the system: between here and the first node's start it would be taken."""
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(below - 2000, below), 2000):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
