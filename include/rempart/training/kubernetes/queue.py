"""Interpret Kueue's API objects and events about a pod or TrainJob in a queue. Pure.

Kueue explains a waiting job in events about its Workload. A pool's identity reads events anyway, so it needs no right
on Workloads. Sources: Kueue 0.19, pkg/scheduler and pkg/controller/jobs/pod; kueue.sigs.k8s.io, "Run Plain Pods".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rempart.sovereignty.pool_pods import QUEUE

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""API versions of Kueue. Releases before 0.15 have only the second."""
LOCAL_QUEUES = "localqueues"
STOPPED = "TerminationTarget"
"""Condition of a pod that Kueue deletes, with its reason."""
_NEVER = re.compile(r"> maximum capacity \(|unavailable in ClusterQueue")
_LATER = re.compile(r"insufficient unused quota|more needed")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class LocalQueue:
    """A queue. `active`: whether it admits jobs, None if unknown. `why`: Kueue's reason."""

    active: bool | None
    why: str = ""

    @staticmethod
    def of(seen: Json) -> LocalQueue:
        """Read a LocalQueue."""
        for condition in (seen.get("status") or {}).get("conditions") or ():
            if condition.get("type") == "Active":
                return LocalQueue(
                    condition.get("status") == "True", _sentence(condition.get("reason"), condition.get("message"))
                )
        return LocalQueue(None)


def gated(pod: Json) -> bool:
    """Return whether a pod waits for Kueue to admit it."""
    gates = (pod.get("spec") or {}).get("schedulingGates") or ()
    return any(str(gate.get("name")).startswith(f"{GROUP}/") for gate in gates)


def name_of(thing: Json) -> str | None:
    """Return the queue of a pod or TrainJob, or None."""
    return (thing["metadata"].get("labels") or {}).get(QUEUE)


def managed(thing: Json) -> bool:
    """Return whether Kueue manages a pod (by label) or a TrainJob (by suspending it)."""
    labels = thing["metadata"].get("labels") or {}
    return labels.get(f"{GROUP}/managed") == "true" or "suspend" in (thing.get("spec") or {})


def suspended(job: Json) -> bool:
    """Return whether a TrainJob is suspended."""
    return bool((job.get("spec") or {}).get("suspend"))


def of_owner(kind: str, name: str) -> str:
    """Return the field selector of the event that names the Workload of a pod or TrainJob."""
    return f"involvedObject.kind={kind},involvedObject.name={name},reason=CreatedWorkload"


def of_workload(name: str) -> str:
    """Return the field selector of a Workload's events."""
    return f"involvedObject.kind=Workload,involvedObject.name={name}"


def workload(events: Iterable[Json]) -> str | None:
    """Return the Workload in these events, or None."""
    newest = max(events, key=_when, default=None)
    return str(newest.get("message") or "").rpartition("/")[2] or None if newest else None


def waits(queue: str, events: Iterable[Json] | None) -> str:
    """Return why a job waits in a queue, from its Workload's events; None if unreadable."""
    why = "Kueue's reason cannot be read" if events is None else _newest(events) or "Kueue states no reason"
    return f"LocalQueue {queue} has not admitted it: {why}"


def never(why: str) -> bool:
    """Return whether a queue can never admit the unchanged job that waits in it, by Kueue's reason.

    With several flavors Kueue gives a reason for each. If one flavor may have room later, the job waits.
    """
    return bool(_NEVER.search(why)) and not _LATER.search(why)


def stopped(queue: str, events: Iterable[Json] | None) -> str:
    """Return why a job lost its place in a queue, from its Workload's events; empty without a cause."""
    found = _newest(event for event in events or () if str(event.get("reason")).startswith(("Evicted", "Preempted")))
    return found and f"LocalQueue {queue} withdrew its place: {found}"


def _newest(events: Iterable[Json]) -> str:
    """Return reason and message of the last event; empty without an event."""
    newest = max(events, key=_when, default=None)
    return _sentence(newest.get("reason"), newest.get("message")) if newest else ""


def absent(pool: str, namespace: str, queue: str) -> str:
    """Return the message and remedy for a missing queue."""
    return (
        f"LocalQueue {queue} is not in namespace {namespace}, or Kueue is not installed. Create it "
        f"(docs/how-to/gpu-pools.md), or correct gpu_pools.{pool}.queue in rempart.yaml"
    )


def _sentence(reason: object, message: object) -> str:
    return f"{reason or ''}: {message or ''}".strip(": ")


def _when(event: Json) -> datetime:
    """Return the last time of an event, from either of Kubernetes' two event APIs."""
    series = (event.get("series") or {}).get("lastObservedTime")
    moment = series or event.get("lastTimestamp") or event.get("eventTime")
    moment = moment or event["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(moment) if moment else datetime.min.replace(tzinfo=UTC)
