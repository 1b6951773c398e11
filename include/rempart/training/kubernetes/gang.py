"""Interpret the pods of a TrainJob together: whether all have a node, whether the attempt has ended, and how. Pure.

Pods and TrainJob are API objects (camelCase dicts). One failed pod ends the attempt, and the first failure decides how
it ended. Unknown states are never a success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rempart.training.kubernetes import queue
from rempart.training.kubernetes.train_job import RANK
from rempart.training.kubernetes.verdict import (
    TERMINATED_BY_SIGNAL,
    TIMED_OUT,
    Ending,
    bound,
    ending,
    hopeless,
    lost,
    terminated,
)

Json = Mapping[str, Any]


def rank(pod: Json) -> int:
    """Return the rank of a pod's node."""
    metadata = pod["metadata"]
    return int((metadata.get("labels") or {}).get(RANK) or (metadata.get("annotations") or {}).get(RANK) or 0)


@dataclass(frozen=True)
class Gang:
    """A TrainJob (None: deleted) and its pods, of which `nodes` are expected.

    `machines` are the admitted nodes; none before the attempt has its credentials.
    """

    job: Json | None
    pods: tuple[Json, ...]
    nodes: int
    machines: frozenset[str] = frozenset()

    @staticmethod
    def of(job: Json | None, pods: Iterable[Json], nodes: int, machines: Iterable[str] = ()) -> Gang:
        """Build a gang with its pods in the order of their ranks."""
        return Gang(job, tuple(sorted(pods, key=rank)), nodes, frozenset(machines))

    @property
    def bound(self) -> bool:
        """Return whether every node has its pod, and every pod a machine."""
        return len({rank(pod) for pod in self.pods if bound(pod)}) == self.nodes

    @property
    def first(self) -> Json | None:
        """Return the pod of rank 0, whose log shows progress."""
        return next((pod for pod in self.pods if rank(pod) == 0), None)

    @property
    def waits(self) -> str:
        """Return why the gang is not bound, in the cluster's words."""
        if self.suspended:
            return "it is suspended"
        without = [pod for pod in self.pods if not bound(pod)]
        reasons = [f"{pod['metadata']['name']}: {ending(pod).cause}" for pod in without]
        existing = len({rank(pod) for pod in self.pods})
        missing = [f"{existing} of {self.nodes} pods exist"] if existing < self.nodes else []
        return "; ".join((*missing, *reasons)) or "without a stated reason"

    @property
    def suspended(self) -> bool:
        """Return whether the TrainJob is suspended, by Kueue or by a person."""
        return self.job is not None and queue.suspended(self.job)

    @property
    def displaced(self) -> bool:
        """Return whether it lost its admitted machines: suspended again, or its pods are on others.

        Its Secret exists, so its pods would start wherever the cluster puts them: it must be deleted.
        """
        elsewhere = any((machine := bound(pod)) and machine not in self.machines for pod in self.pods)
        return bool(self.machines) and (self.suspended or elsewhere)

    @property
    def over(self) -> bool:
        """Return whether the attempt has ended: nothing of it may continue."""
        if self.displaced:
            return True
        if self.job is None or _deleted(self.job) or _condition(self.job, "Complete") or _condition(self.job, "Failed"):
            return True
        return any(_ended(pod) not in (None, 0) or lost(pod) or hopeless(pod) for pod in self.pods)

    @property
    def settles(self) -> bool:
        """Return whether a node failed and others are about to, which may show the cause."""
        running = any(_ended(pod) is None and (pod.get("status") or {}).get("phase") == "Running" for pod in self.pods)
        return running and any(_ended(pod) not in (None, 0) for pod in self.pods)

    @property
    def culprit(self) -> Json | None:
        """Return the pod whose log shows the cause: the first failed pod, else that of rank 0."""
        failed = sorted((pod for pod in self.pods if _ended(pod) not in (None, 0)), key=_when)
        return failed[0] if failed else next(iter(self.pods), None)

    def ending(self, message: str = "") -> Ending:
        """Return how the attempt ended. `message` is the watcher's message."""
        if self.job is None:
            return Ending("interrupted", f"its TrainJob is gone. {message or 'Somebody deleted it'}")
        if _deleted(self.job):
            return Ending("interrupted", "its TrainJob is being deleted")
        if self.displaced:
            return Ending("interrupted", f"its TrainJob lost the admitted nodes. {message}".strip())
        for pod in self.pods:
            if why := lost(pod):
                return Ending("interrupted", f"{pod['metadata']['name']}: {why}")
        failed = [pod for pod in self.pods if _ended(pod) not in (None, 0)]
        if late := next((pod for pod in failed if _ended(pod) == TIMED_OUT), None):
            # its peers saw it go, and may have ended before it
            return Ending("failed", f"{late['metadata']['name']}: {ending(late).cause}")
        if failed:
            first = min(failed, key=_when)
            pod_ending = ending(first)
            # a pod that somebody deleted before the first failure took the others with it
            moment = _when(first)[0]
            if gone := next((pod for pod in self.pods if pod is not first and _deleted_before(pod, moment)), None):
                return Ending("interrupted", f"{gone['metadata']['name']} was deleted; then {pod_ending.cause}")
            return Ending(pod_ending.outcome, f"{first['metadata']['name']}: {pod_ending.cause}")
        if len({rank(pod) for pod in self.pods}) == self.nodes and all(_ended(pod) == 0 for pod in self.pods):
            return Ending("succeeded", f"all {self.nodes} nodes ended with exit status 0")
        if why := _condition(self.job, "Complete"):
            return Ending("succeeded", f"the TrainJob is complete: {why}")
        for pod in self.pods:
            if why := hopeless(pod):
                return Ending("capacity", f"{pod['metadata']['name']}: {why}")
        if why := _condition(self.job, "Failed"):
            if "DeadlineExceeded" in why:
                return Ending("failed", f"it ran longer than allowed: {why}")
            return Ending("interrupted", f"no pod shows why the TrainJob failed, so one was deleted: {why}")
        if not self.bound:
            return Ending("capacity", f"{message}. {self.waits}" if message else self.waits)
        pending = [pod for pod in self.pods if (pod.get("status") or {}).get("phase") == "Pending"]
        if pending:
            cause = ending(pending[0], message)
            return Ending(cause.outcome, f"{pending[0]['metadata']['name']}: {cause.cause}")
        return Ending("interrupted", message or "it was last seen running")


def _condition(job: Json, kind: str) -> str | None:
    """Return the message of a true condition, or None."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind and condition.get("status") == "True":
            return f"{condition.get('reason')}: {condition.get('message') or ''}".strip(": ")
    return None


def _deleted(thing: Json) -> bool:
    return bool(thing["metadata"].get("deletionTimestamp"))


def _ended(pod: Json) -> int | None:
    """Return the exit status of an ended pod; None while it runs, 1 if it failed without a container status."""
    if state := terminated(pod):
        return int(state.get("exitCode", 1))
    return 1 if (pod.get("status") or {}).get("phase") == "Failed" else None


def _when(pod: Json) -> tuple[datetime, bool, int]:
    """Return a sort key for the end of pods: by second, those ended by a signal last, then by rank."""
    state = terminated(pod) or {}
    ended = state.get("finishedAt") or pod["metadata"].get("deletionTimestamp") or "9999-12-31T00:00:00Z"
    by_signal = int(state.get("exitCode", 1)) in TERMINATED_BY_SIGNAL and state.get("reason") != "OOMKilled"
    return datetime.fromisoformat(ended), by_signal, rank(pod)


def _deleted_before(pod: Json, moment: datetime) -> bool:
    """Return whether a pod's deletion was requested in a second before a moment."""
    metadata = pod["metadata"]
    if not (by := metadata.get("deletionTimestamp")):
        return False
    grace = timedelta(seconds=float(metadata.get("deletionGracePeriodSeconds") or 0))
    return datetime.fromisoformat(by) - grace < moment
