"""Compute how long jobs waited for a pool: the median of its last recorded placements. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LAST = 20
"""Placements of each pool that count."""
RECORDS = 500
"""Newest placement records that are looked through, of all pools together."""


@dataclass(frozen=True)
class Waiting:
    """Median seconds between the order to a pool and the node that took the job, and of how many jobs."""

    seconds: float
    jobs: int

    def text(self) -> str:
        """Return the waiting time as text: "about 40 min by the last 20 jobs"."""
        return f"about {_length(self.seconds)} by the last {f'{self.jobs} jobs' if self.jobs > 1 else 'job'}"


def waiting_times(placements: Iterable[Mapping[str, Any]]) -> dict[str, Waiting]:
    """Return the known waiting time of each pool.

    `placements` are bodies of placement records, newest first. A record without `waited` (seconds) is ignored. Only
    jobs that ran in a pool are recorded: a job that moved to another pool is not in its median.
    """
    found: dict[str, list[float]] = {}
    for body in placements:
        ran = body.get("ran")
        if not isinstance(ran, Mapping) or not isinstance(ran.get("pool"), str):
            continue
        seconds, of_pool = _seconds(ran.get("waited")), found.setdefault(ran["pool"], [])
        if seconds is not None and len(of_pool) < LAST:
            of_pool.append(seconds)
    return {pool: Waiting(statistics.median(times), len(times)) for pool, times in found.items() if times}


def _seconds(value: Any) -> float | None:
    """Return a duration written as a number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _length(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
