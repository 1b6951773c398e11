"""Measure the content of each bucket of a site, and find locks that end soon.

Write evidence of kind `usage`: counts only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from rempart.backup.points import locking
from rempart.counts import size
from rempart.errors import ConfigError, ObjectMissing, RempartError, SiteUnavailable
from rempart.flows.backup.locks import read_known
from rempart.flows.doctor.doctor_site import least_protected
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Config
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.usage import SOON, Lock, lapsing, measure

logger = logging.getLogger(__name__)

ASKED = 500
"""Limit of locks requested in one bucket, those that should end first."""
NAMED = 10
"""Limit of locks named in a record; it counts all."""
WORKERS = 16
Protects = Literal["evidence", "restore-points"]


def measure_site(platform: Platform, name: str) -> dict[str, Any]:
    """Walk every bucket of rempart.yaml at a site. Return the body of the record.

    No body is read, and no key of a data bucket is stored. A failed bucket is recorded with its reason and raised
    afterwards: SiteError, IntegrityError. Raises SiteUnavailable and records nothing if the site does not answer;
    ConfigError, PlacementDenied.
    """
    config = platform.config
    if name not in config.sites:
        raise ConfigError(f"There is no site '{name}'", f"Use one of: {', '.join(config.sites)}.")
    site = platform.site(name, least_protected(platform, name))
    began, now = time.monotonic(), platform.clock()
    buckets: dict[str, Any] = {}
    locks: dict[str, Any] = {}
    faults: list[RempartError] = []
    for logical, bucket in config.buckets.model_dump().items():
        kept = logical in ("evidence", "checkpoints")
        oldest: tuple[ObjectInfo, ...] = ()
        try:
            used, oldest = measure(
                site.versions(bucket), after=now - config.evidence.retention, most=ASKED if kept else 0
            )
        except ObjectMissing:
            continue  # this site has no such bucket
        except RempartError as error:
            buckets[bucket] = _noted(error, faults)
            continue
        buckets[bucket] = asdict(used)
        logger.info(
            "%s at '%s': %d objects (%s), %d old versions (%s)",
            bucket,
            name,
            used.objects,
            size(used.bytes),
            used.old_versions,
            size(used.old_bytes),
        )
        try:
            if kept and oldest:
                locks[bucket] = _told("evidence", _ask(site, bucket, oldest), now)
            elif (
                logical == "backups"
                and config.backup.locked
                and (points := _of_points(config, site, platform.trusted_keys().values(), now))
            ):
                locks[bucket] = points
        except RempartError as error:
            protects: Protects = "evidence" if kept else "restore-points"
            locks[bucket] = {"protects": protects} | _noted(error, faults)
    seconds = round(time.monotonic() - began, 3)
    body = {"endpoint": site.endpoint, "seconds": seconds, "buckets": buckets, "locks": locks}
    platform.ledger.append("usage", name, body)
    for fault in faults[:1]:
        raise fault
    return body


def _noted(error: RempartError, faults: list[RempartError]) -> dict[str, str]:
    """Return the record's entry for a failed bucket. Raises SiteUnavailable: the site is asked again later."""
    if isinstance(error, SiteUnavailable):
        raise error
    faults.append(error)
    return {"why": error.what}


def _ask(site: Site, bucket: str, versions: tuple[ObjectInfo, ...]) -> list[Lock]:
    def lock(info: ObjectInfo) -> Lock:
        until = site.retained_until(bucket, info.key, info.version_id) if info.version_id else None
        return Lock(f"{bucket}/{info.key}", until)

    return list(bounded_map(versions, lock, WORKERS))


def _of_points(config: Config, site: Site, trusted: Collection[bytes], now: datetime) -> dict[str, Any] | None:
    """Return the locks needed by kept points, as known since their last extension; None without points."""
    bucket = config.buckets.backups
    known = read_known(site, bucket, trusted)
    if known is None and not any(site.list(bucket, locking.POINTS)):
        return None
    if known is None:
        return {
            "protects": "restore-points",
            "why": (f"{bucket}/{locking.FILE} does not exist: nothing was pruned yet"),
        }
    found = [Lock(f"{bucket}/{key}", until) for (key, _), until in known.until.items()]
    found += [
        Lock(f"{bucket}/{locking.POINTS}{point} (sealed objects)", until) for point, until in known.sealed.items()
    ]
    return _told("restore-points", found, now, config)


def _told(protects: Protects, locks: list[Lock], now: datetime, config: Config | None = None) -> dict[str, Any]:
    """Return the locks about to end: less than half of `backup.locked`, or SOON, is left."""
    within = min(SOON, config.backup.locked / 2) if config else SOON
    soon = lapsing(locks, now + within)
    ends = min((lock.until for lock in locks if lock.until), default=None)
    return {
        "protects": protects,
        "looked_at": len(locks),
        "within_seconds": within.total_seconds(),
        "lapsing": len(soon),
        "first_ends": ends.isoformat() if ends else None,
        "named": [
            {"name": lock.name, "until": lock.until.isoformat() if lock.until else None} for lock in soon[:NAMED]
        ],
    }
