"""Measure a bucket and the locks that end soon, in one pass over a listing, in constant memory. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.sites.port import ObjectInfo

SOON = timedelta(days=7)
"""A lock that ends within this time is about to lapse."""


@dataclass(frozen=True)
class Usage:
    """A bucket's current objects, the old versions that lie under them, bytes of both, and delete markers."""

    objects: int
    bytes: int
    old_versions: int
    old_bytes: int
    markers: int


def measure(
    versions: Iterable[ObjectInfo], *, after: datetime | None = None, most: int = 0
) -> tuple[Usage, tuple[ObjectInfo, ...]]:
    """Return the totals of a listing of all versions, each key's together and newest first.

    With `most`, also that many bodies written after a moment, oldest first: locks of equal length end in that order.
    """
    objects = size = old_versions = old_bytes = markers = 0
    oldest: list[tuple[float, int, ObjectInfo]] = []
    last: str | None = None
    for number, version in enumerate(versions):
        if version.marker:
            markers += 1
        elif version.key != last:
            objects, size = objects + 1, size + version.size
        else:
            old_versions, old_bytes = old_versions + 1, old_bytes + version.size
        last = version.key
        if version.marker or not most or (after and version.modified <= after):
            continue
        if len(oldest) < most:
            heapq.heappush(oldest, (-version.modified.timestamp(), number, version))
        elif version.modified < oldest[0][2].modified:  # the youngest gives way
            heapq.heapreplace(oldest, (-version.modified.timestamp(), number, version))
    found = tuple(version for _, _, version in sorted(oldest, key=lambda entry: (-entry[0], entry[1])))
    return Usage(objects, size, old_versions, old_bytes, markers), found


@dataclass(frozen=True)
class Lock:
    """End of a version's lock as its site reports it; None: anyone with the site's key can delete it now."""

    name: str
    until: datetime | None


def lapsing(locks: Iterable[Lock], by: datetime) -> tuple[Lock, ...]:
    """Return the locks that end by then, the first to end first."""
    found = [lock for lock in locks if lock.until is None or lock.until <= by]
    return tuple(
        sorted(found, key=lambda lock: (lock.until is not None, lock.until and lock.until.timestamp(), lock.name))
    )
