"""Collect garbage at the backup site once a day: delete data that no restore point needs and no lock protects."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.backup.points import garbage as unneeded
from rempart.backup.points import holds, locking, sealing
from rempart.backup.points.garbage import Named, fingerprint
from rempart.backup.points.locking import KnownLocks, ListedVersions
from rempart.backup.points.pruning import delete_unless_locked
from rempart.backup.watch import heartbeat
from rempart.counts import size
from rempart.errors import BackupError
from rempart.flows.backup.point_store import PointStore
from rempart.flows.shared.bounded_map import bounded_map
from rempart.sites.port import ObjectInfo

logger = logging.getLogger(__name__)

WORKERS = 16
FOLDERS = (locking.REPOSITORIES, heartbeat.PREFIX, "locks/", holds.FOLDER)
"""Prefixes where objects are overwritten or hidden, so that old versions accumulate.

Chain, keys and points are excluded.
"""
SHORTEST = timedelta(days=4)
"""Minimum time for which old versions stay readable, independent of `backup.locked`."""
SPENT = timedelta(hours=1)


@dataclass(frozen=True)
class CollectedGarbage:
    """Result of a garbage collection: deleted `sealed` objects that no point names, `old` versions, and their `bytes`.

    `retained` sealed objects are not needed but still locked.
    """

    sealed: int = 0
    old: int = 0
    bytes: int = 0
    retained: int = 0


def is_due(known: KnownLocks, now: datetime) -> bool:
    """Return whether the last collection is a day ago."""
    return known.cleared is None or now - known.cleared >= unneeded.EVERY


def collect(store: PointStore, known: KnownLocks) -> CollectedGarbage:
    """Delete sealed objects that no point names, and old versions; at most a fixed number of each.

    A locked version is skipped and tried again another day. Raises BackupError before any deletion if a manifest is
    unreadable or differs from its record, because the objects that it needs are unknown; SiteError.
    """
    free, old = _unneeded(store), _old(store, known)
    outcomes = list(bounded_map([*((info,) for info in free), *old], lambda group: _delete(store, group), WORKERS))
    sealed, rest = outcomes[: len(free)], outcomes[len(free) :]
    done = CollectedGarbage(
        sum(count for count, _ in sealed),
        sum(count for count, _ in rest),
        sum(size for _, size in outcomes),
        sum(not count for count, _ in sealed),
    )
    if done.sealed or done.old:
        logger.info("deleted %d sealed objects and %d old versions (%s)", done.sealed, done.old, size(done.bytes))
    return done


def delete_spent(store: PointStore, spent: ListedVersions) -> None:
    """Delete the lock files that restic released an hour ago.

    It makes one at every call, and they slow down listings.
    """
    old = unneeded.old_versions(spent, (), store.clock(), SPENT)
    for _ in bounded_map(old, lambda group: _delete(store, group), WORKERS):
        pass


def _delete(store: PointStore, group: Collection[ObjectInfo]) -> tuple[int, int]:
    """Delete versions in order until one is locked. Return their number and bytes."""
    count, size = 0, 0
    for info in group:
        if delete_unless_locked(store.site, store.bucket, info, store.clock()):
            break
        count, size = count + 1, size + info.size
    return count, size


def _unneeded(store: PointStore) -> list[ObjectInfo]:
    now = store.clock()
    candidates = unneeded.lapsed(store.site.versions(store.bucket, sealing.PREFIX), now, store.kept)
    if not candidates:  # no candidate, so no manifest is read
        return []
    return unneeded.unneeded(candidates, needed(store), f"{now:%Y-%m-%d}")


def needed(store: PointStore) -> set[int]:
    """Return fingerprints of every sealed version that a restore point at the site names, kept or hidden.

    The first version of each manifest counts, because a manifest is written once. Raises BackupError if it differs from
    its record.
    """
    found, first = set[int](), dict[str, ObjectInfo]()
    for info in store.site.versions(store.bucket, locking.POINTS):
        if info.key.endswith("/manifest.json") and not info.marker:
            first[info.key] = info
    for key, info in first.items():
        point = key.split("/")[1]
        records = store.ledger.find("restore-point", point, limit=1)
        with store.site.open(store.bucket, key, version_id=info.version_id) as stream:
            named = Named(stream)
            try:
                found.update(fingerprint((sealed, version)) for sealed, version, _ in named)
            except ValueError as cause:
                raise _not_known(point, f"{cause}") from cause
        if records and str(records[0].body["manifest_sha256"]) != named.sha256:
            raise _not_known(point, "its manifest differs from its record")
    return found


def _old(store: PointStore, known: KnownLocks) -> list[tuple[ObjectInfo, ...]]:
    kept = max(locking.span(store.rules.locked), SHORTEST)
    found: list[tuple[ObjectInfo, ...]] = []
    for folder in FOLDERS:
        listed = locking.listed(store.site.versions(store.bucket, folder))
        found += unneeded.old_versions(listed, known.until.keys(), store.clock(), kept)
    return found


def _not_known(point: str, why: str) -> BackupError:
    return BackupError(
        f"No sealed object was deleted, because the needs of restore point {point} are unknown: {why}",
        "Run `rempart backup repair` to restore its manifest, or delete the folder of the point by hand; then "
        "run the prune again.",
    )
