"""Add up how long the pods of a Spark job ran, and what that cost by the contract of their pool. Pure.

The times are the cluster's. Executors that came and went between two looks of the platform are not in the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Ran:
    """Where and when a pod ran. `until`: when it ended, else when it was last seen."""

    pod: str
    role: str
    node: str
    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        return max((self.until - self.since).total_seconds(), 0.0)

    def as_json(self) -> dict[str, Any]:
        return {"pod": self.pod, "role": self.role, "node": self.node, "seconds": round(self.seconds, 3)}


def look(known: Mapping[str, Ran], pod: Mapping[str, Any], role: str, now: datetime) -> dict[str, Ran]:
    """Return what is known by uid, with a pod (an API object) as it is seen at a moment. A pod without a node is not in
    it.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    node, uid = (pod.get("spec") or {}).get("nodeName"), str(metadata["uid"])
    begun = status.get("startTime")
    if not node or not begun:
        return dict(known)
    ends = [
        (each.get("state") or {}).get("terminated", {}).get("finishedAt")
        for each in status.get("containerStatuses") or ()
    ]
    over = status.get("phase") in ("Succeeded", "Failed")
    until = max((datetime.fromisoformat(end) for end in ends if end), default=now) if over else now
    seen = Ran(str(metadata["name"]), role, str(node), datetime.fromisoformat(begun), until)
    before = known.get(uid)
    return {**known, uid: replace(seen, until=max(seen.until, before.until)) if before and not over else seen}


def cost(price_per_hour: float | None, seconds: float) -> dict[str, Any]:
    """Return the cost of pods that ran so many seconds together; without a declared price it says so."""
    if price_per_hour is None:
        return {"euros": None, "why": "no price declared (gpu_pools: price_per_executor_hour)"}
    return {"euros": round(seconds / SECONDS_PER_HOUR * price_per_hour, 6), "price_per_executor_hour": price_per_hour}


def total(attempts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what attempts took and cost together. `euros` is None if the price of one of them is not known."""
    counted = list(attempts)
    euros = [(attempt.get("cost") or {}).get("euros") for attempt in counted]
    known = [float(each) for each in euros if each is not None]
    return {
        "pod_seconds": round(sum(attempt.get("pod_seconds") or 0 for attempt in counted), 3),
        "euros": round(sum(known), 6) if len(known) == len(euros) else None,
    }
