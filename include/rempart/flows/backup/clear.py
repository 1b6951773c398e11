"""Once a day, delete for good at the backup site what no restore point needs and no lock holds any more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

from rempart.backup.points import clearing, holds, locking, sealing
from rempart.backup.points.clearing import Named, fingerprint
from rempart.backup.points.locking import Known, Listed
from rempart.backup.points.pruning import delete_unless_locked
from rempart.backup.watch import heartbeat
from rempart.errors import BackupError
from rempart.flows.shared.abreast import abreast
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform
from rempart.sites.port import ObjectInfo, Site

WORKERS = 16
FOLDERS = (locking.REPOSITORIES, heartbeat.PREFIX, "locks/", holds.FOLDER)
"""Where objects are replaced or hidden, and old versions pile up; the chain, keys and points are not among them."""
SHORTEST = timedelta(days=4)
"""Old versions can be read for so long at least, whatever `backup.locked` says."""
SPENT = timedelta(hours=1)
Say = Callable[[str], object]


@dataclass(frozen=True)
class ClearedVersions:
    """What was deleted for good: `sealed` objects that no point names, `old` versions, and their `bytes`.

    `retained` sealed objects are not needed, and locked still.
    """

    sealed: int = 0
    old: int = 0
    bytes: int = 0
    retained: int = 0


def is_due(platform: Platform, known: Known) -> bool:
    """Whether a day has passed since the last time."""
    return known.cleared is None or platform.clock() - known.cleared >= clearing.EVERY


def clear(platform: Platform, site: Site, known: Known, say: Say = lambda line: None) -> ClearedVersions:
    """Delete sealed objects that no point names, and old versions; a bounded number of each.

    A lock is met calmly: the site says until when, and another day follows. Raises BackupError, before anything is
    deleted, when the manifest of a point is not as it is on record or cannot be read: what it needs is then not known;
    SiteError.
    """
    free = _unneeded(platform, site)
    old = _old(platform, site, known)
    outcomes = list(abreast([*((one,) for one in free), *old], lambda group: _delete(platform, site, group), WORKERS))
    sealed, rest = outcomes[: len(free)], outcomes[len(free) :]
    done = ClearedVersions(
        sum(count for count, _ in sealed),
        sum(count for count, _ in rest),
        sum(size for _, size in outcomes),
        sum(not count for count, _ in sealed),
    )
    if done.sealed or done.old:
        say(f"cleared: {done.sealed} sealed objects, {done.old} old versions, {done.bytes:,} bytes")
    return done


def sweep(platform: Platform, site: Site, spent: Listed) -> None:
    """Delete the locks that restic gave back an hour ago: it takes some at every call, and each listing meets them."""
    old = clearing.old_versions(spent, (), platform.clock(), SPENT)
    for _ in abreast(old, lambda group: _delete(platform, site, group), WORKERS):
        pass


def _delete(platform: Platform, site: Site, group: Collection[ObjectInfo]) -> tuple[int, int]:
    """How many versions were deleted, in order, until one is locked, and their bytes."""
    count, size = 0, 0
    for one in group:
        if delete_unless_locked(site, platform.config.buckets.backups, one, platform.clock()):
            break
        count, size = count + 1, size + one.size
    return count, size


def _unneeded(platform: Platform, site: Site) -> list[ObjectInfo]:
    bucket, now = platform.config.buckets.backups, platform.clock()
    candidates = clearing.lapsed(site.versions(bucket, sealing.PREFIX), now, kept_for(platform.config.backup.keep))
    if not candidates:  # and so no manifest is read
        return []
    return clearing.unneeded(candidates, needed(platform, site), f"{now:%Y-%m-%d}")


def needed(platform: Platform, site: Site) -> set[int]:
    """Fingerprints of every sealed version that a point at the site names, whether it is to be kept or hidden.

    The first version of each manifest counts, for it is written once. Raises BackupError for one that is not as it is
    on record.
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
            raise _not_known(point, "its manifest is not the one on record")
    return found


def _old(platform: Platform, site: Site, known: Known) -> list[tuple[ObjectInfo, ...]]:
    kept = max(locking.span(platform.config.backup.locked), SHORTEST)
    found: list[tuple[ObjectInfo, ...]] = []
    for folder in FOLDERS:
        listed = locking.listed(site.versions(platform.config.buckets.backups, folder))
        found += clearing.old_versions(listed, known.until.keys(), platform.clock(), kept)
    return found


def _not_known(point: str, why: str) -> BackupError:
    return BackupError(
        f"No sealed object was deleted, for what restore point {point} needs is not known: {why}",
        "Bring its manifest back, or delete the point's folder by hand; then run the prune again.",
    )
