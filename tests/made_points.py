"""Restore points of a few bytes, with the evidence that a backup leaves, for tests of their later life.

Their dumps lie beside the manifest, as in the first formats, so that a test can lose something.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from rempart.backup.points import points, retention
from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site

DATABASES = ("airflow", "ledger")


def make(
    platform: Platform,
    site: Site,
    at: datetime,
    *,
    dangling: Iterable[str] = (),
    shared: str | None = None,
    retain_until: datetime | None = None,
    locked: Collection[str] = (),
) -> str:
    """A point made at that time; its manifest also names the key `shared`. What is `locked` is so until then."""
    bucket, point = platform.config.buckets.backups, points.new_id(at, "abcdef")
    dumps = []
    for name in DATABASES:
        key = f"{points.prefix(point)}{name}.dump"
        site.write_new(bucket, key, b"dump", retain_until=retain_until if f"{name}.dump" in locked else None)
        dumps.append({"name": name, "key": key})
    if shared:
        dumps.append({"name": "shared", "key": shared})
    manifest = {
        "databases": dumps,
        "dangling": list(dangling),
        "format": points.FORMAT,
        "id": point,
        "objects": [],
        "source": "primary",
    }
    body = json.dumps(manifest, sort_keys=True).encode()
    until = retain_until if retention.MANIFEST in locked else None
    site.write_new(bucket, f"{points.prefix(point)}{retention.MANIFEST}", body, retain_until=until)
    platform.ledger.append(
        "restore-point", point, {"site": site.name, "manifest_sha256": hashlib.sha256(body).hexdigest()}
    )
    return point


def series(platform: Platform, site: Site, newest: datetime, count: int, step: timedelta) -> list[str]:
    """So many points, newest first."""
    return [make(platform, site, newest - step * number) for number in range(count)]


def under(site: Site, bucket: str, point: str) -> list[str]:
    """What is left of a point in any version or as a marker, without the prefix."""
    prefix = points.prefix(point)
    return [
        version.key.removeprefix(prefix) + (" (marker)" if version.marker else "")
        for version in site.versions(bucket, prefix)
    ]


def is_whole(site: Site, bucket: str, point: str) -> bool:
    """Whether everything that a point's manifest names is there to read."""
    there = {info.key.removeprefix(points.prefix(point)) for info in site.list(bucket, points.prefix(point))}
    return there >= {retention.MANIFEST, *(f"{name}.dump" for name in DATABASES)}
