"""Delete what retention does not keep: in every version, the manifest first, and calm before a lock."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from rempart.backup.points import holds, points
from rempart.backup.points.retention import MANIFEST, SKEW, RetentionPlan, check_floor
from rempart.errors import SessionExpired, SiteError, SiteUnavailable
from rempart.sites.port import ObjectInfo, Site


@dataclass(frozen=True)
class PrunedFolder:
    """Result for one folder: versions `deleted` and their `bytes`, and versions kept by a lock or because they are
    needed.

    `retained_until` is the latest of the locks, or None. With `whole` nothing of the point itself was deleted. `held`:
    the point was held before, so it was skipped.
    """

    id: str
    deleted: int = 0
    bytes: int = 0
    retained_until: datetime | None = None
    whole: bool = False
    held: bool = False


def prune(
    site: Site,
    bucket: str,
    plan: RetentionPlan,
    needed: Collection[str],
    now: datetime,
    *,
    leftovers: Collection[str] = (),
    dry_run: bool = True,
    report: Callable[[PrunedFolder], object] | None = None,
) -> tuple[PrunedFolder, ...]:
    """Clear the folders of leftovers and of points to prune, oldest first; keys that are `needed` stay, wherever.

    `report` gets each outcome at once. A point that is still locked is no error: its outcome says until when. A run
    that broke off, by an error or a kill, leaves a point whole, or without a manifest: then it is a leftover, and a
    later run clears the rest. Raises
    BackupError for a plan that goes below the floor, SiteError.
    """
    check_floor(plan)
    ids = sorted({*leftovers, *plan.prune} - plan.keep.keys())
    if dry_run:
        return tuple(PrunedFolder(point, whole=True) for point in ids)
    cleared = []
    for point in ids:
        cleared.append(_clear(site, bucket, point, needed, now))
        if report:
            report(cleared[-1])
    return tuple(cleared)


def _clear(site: Site, bucket: str, point: str, needed: Collection[str], now: datetime) -> PrunedFolder:
    if holds.is_held(site, bucket, point):
        return PrunedFolder(point, whole=True, held=True)
    prefix, deleted, size = points.prefix(point), 0, 0
    found = [version for version in site.versions(bucket, prefix) if version.key not in needed]
    # oldest first: while any version of the manifest is left, its newest one is, and nothing that was under it shows
    manifest = [version for version in reversed(found) if version.key == f"{prefix}{MANIFEST}"]
    for held in manifest:
        if until := delete_unless_locked(site, bucket, held, now):
            return PrunedFolder(point, deleted, size, until, whole=True)
        deleted, size = deleted + 1, size + held.size
    latest: datetime | None = None
    for version in found:
        if version in manifest:
            continue
        if until := delete_unless_locked(site, bucket, version, now):
            latest = max(until, latest or until)
        else:
            deleted, size = deleted + 1, size + version.size
    return PrunedFolder(point, deleted, size, latest)


def delete_unless_locked(site: Site, bucket: str, info: ObjectInfo, now: datetime) -> datetime | None:
    """Delete a version; until when it is locked if it is. Raises SiteError when it is refused without a lock."""
    try:
        site.delete(bucket, info.key, version_id=info.version_id)
    except (SiteUnavailable, SessionExpired):
        raise
    except SiteError:
        until = _lock(site, bucket, info)
        if until is None or until < now - SKEW:
            raise
        return until
    return None


def _lock(site: Site, bucket: str, info: ObjectInfo) -> datetime | None:
    """Return until when a version is locked; None also without locks: then the refusal has another cause."""
    if info.marker or info.version_id is None:
        return None
    try:
        return site.retained_until(bucket, info.key, info.version_id)
    except (SiteUnavailable, SessionExpired):
        raise
    except SiteError:
        return None
