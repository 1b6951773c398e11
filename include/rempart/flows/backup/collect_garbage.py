"""Collect garbage at the backup site once a day: delete data that no restore point needs and no lock protects."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from rempart.backup.points import garbage as unneeded
from rempart.backup.points import holds, locking, sealing
from rempart.backup.points.garbage import Named, fingerprint
from rempart.backup.points.locking import Known, Listed
from rempart.backup.points.pruning import delete_unless_locked
from rempart.backup.watch import heartbeat
from rempart.errors import BackupError
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform
from rempart.sites.port import ObjectInfo, Site

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


def is_due(platform: Platform, known: Known) -> bool:
    """Return whether the last collection is a day ago."""
    return known.cleared is None or platform.clock() - known.cleared >= unneeded.EVERY


def collect(platform: Platform, site: Site, known: Known) -> CollectedGarbage:
    """Delete sealed objects that no point names, and old versions; at most a fixed number of each.

    A locked version is skipped and tried again another day. Raises BackupError before any deletion if a manifest is
    unreadable or differs from its record, because the objects that it needs are unknown; SiteError.
    """
    free = _unneeded(platform, site)
    old = _old(platform, site, known)
    outcomes = list(
        bounded_map([*((info,) for info in free), *old], lambda group: _delete(platform, site, group), WORKERS)
    )
    sealed, rest = outcomes[: len(free)], outcomes[len(free) :]
    done = CollectedGarbage(
        sum(count for count, _ in sealed),
        sum(count for count, _ in rest),
        sum(size for _, size in outcomes),
        sum(not count for count, _ in sealed),
    )
    if done.sealed or done.old:
        logger.info("deleted %d sealed objects and %d old versions (%.1f MB)", done.sealed, done.old, done.bytes / 1e6)
    return done


def delete_spent(platform: Platform, site: Site, spent: Listed) -> None:
    """Delete the lock files that restic released an hour ago.

    It makes one at every call, and they slow down listings.
    """
    old = unneeded.old_versions(spent, (), platform.clock(), SPENT)
    for _ in bounded_map(old, lambda group: _delete(platform, site, group), WORKERS):
        pass


def _delete(platform: Platform, site: Site, group: Collection[ObjectInfo]) -> tuple[int, int]:
    """Delete versions in order until one is locked. Return their number and bytes."""
    count, size = 0, 0
    for info in group:
        if delete_unless_locked(site, platform.config.buckets.backups, info, platform.clock()):
            break
        count, size = count + 1, size + info.size
    return count, size


def _unneeded(platform: Platform, site: Site) -> list[ObjectInfo]:
    bucket, now = platform.config.buckets.backups, platform.clock()
    candidates = unneeded.lapsed(site.versions(bucket, sealing.PREFIX), now, kept_for(platform.config.backup.keep))
    if not candidates:  # and so no manifest is read
        return []
    return unneeded.unneeded(candidates, needed(platform, site), f"{now:%Y-%m-%d}")


def needed(platform: Platform, site: Site) -> set[int]:
    """Return fingerprints of every sealed version that a restore point at the site names, kept or hidden.

    The first version of each manifest counts, because a manifest is written once. Raises BackupError if it differs from
    its record.
    """
    bucket, found, first = platform.config.buckets.backups, set[int](), dict[str, ObjectInfo]()
    for info in site.versions(bucket, locking.POINTS):
        if info.key.endswith("/manifest.json") and not info.marker:
            first[info.key] = info
    for key, info in first.items():
        point = key.split("/")[1]
        records = platform.ledger.find("restore-point", point, limit=1)
        with site.open(bucket, key, version_id=info.version_id) as stream:
            named = Named(stream)
            try:
                found.update(fingerprint((sealed, version)) for sealed, version, _ in named)
            except ValueError as cause:
                raise _not_known(point, f"{cause}") from cause
        if records and str(records[0].body["manifest_sha256"]) != named.sha256:
            raise _not_known(point, "its manifest differs from its record")
    return found


def _old(platform: Platform, site: Site, known: Known) -> list[tuple[ObjectInfo, ...]]:
    kept = max(locking.span(platform.config.backup.locked), SHORTEST)
    found: list[tuple[ObjectInfo, ...]] = []
    for folder in FOLDERS:
        listed = locking.listed(site.versions(platform.config.buckets.backups, folder))
        found += unneeded.old_versions(listed, known.until.keys(), platform.clock(), kept)
    return found


def _not_known(point: str, why: str) -> BackupError:
    return BackupError(
        f"No sealed object was deleted, because the needs of restore point {point} are unknown: {why}",
        "Run `rempart points repair` to restore its manifest, or delete the folder of the point by hand; then "
        "run the prune again.",
    )
