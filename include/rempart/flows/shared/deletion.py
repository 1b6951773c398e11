"""Delete all objects below a prefix for good: every version, and the copies that a reconciliation kept aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rempart.backup.points.pruning import delete_unless_locked
from rempart.ingestion import erasing
from rempart.sites.port import ObjectInfo, Site


@dataclass(frozen=True)
class Deleted:
    """Result of a deletion: keys of deleted versions and their number; for locked ones until when, by key."""

    keys: tuple[str, ...] = ()
    versions: int = 0
    locked: tuple[tuple[str, datetime], ...] = ()


def versions_below(site: Site, bucket: str, prefix: str) -> list[ObjectInfo]:
    """Return every version of the objects below a prefix, and of their copies that a reconciliation kept aside.

    Raises SiteError.
    """
    aside = (info for info in site.versions(bucket, erasing.CONFLICTS) if erasing.original(info.key).startswith(prefix))
    return [*site.versions(bucket, prefix), *aside]


def delete_below(
    site: Site, bucket: str, prefix: str, now: datetime, *, keep_newest: Callable[[str], bool] = lambda key: False
) -> Deleted:
    """Delete the versions of all objects below a prefix, by key. `keep_newest`: keys whose newest version stays.

    Raises SiteError.
    """
    oldest_first = versions_below(site, bucket, prefix)[::-1]
    newest = {info.key: info for info in oldest_first}
    keys, locked, count = dict[str, None](), list[tuple[str, datetime]](), 0
    for info in sorted(oldest_first, key=lambda info: info.key):  # so no hidden version shows
        if info is newest[info.key] and keep_newest(info.key):
            continue
        if until := delete_unless_locked(site, bucket, info, now):
            locked.append((info.key, until))
        else:
            keys[info.key], count = None, count + 1
    return Deleted(tuple(keys), count, tuple(locked))
