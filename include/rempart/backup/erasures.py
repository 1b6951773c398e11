"""Erasures on record at the backup site: whom a restore must not bring back. `erasures/<id>.json` in its bucket.

Each is JSON of {"at": ISO time, "pipeline": name, ...}, with pseudonymous ids alone; it outlives the databases.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from rempart.sites.port import Site

PREFIX = "erasures/"


@dataclass(frozen=True)
class Erasure:
    """One record; without a time it cannot be read, and counts as newer than any point."""

    key: str
    at: datetime | None
    pipeline: str


def read(site: Site, bucket: str) -> list[Erasure]:
    """Every erasure on record, by key. Raises SiteError."""
    return [_parse(info.key, site.read(bucket, info.key)) for info in site.list(bucket, PREFIX)]


def _parse(key: str, body: bytes) -> Erasure:
    try:
        plain = json.loads(body)
        at = datetime.fromisoformat(plain["at"])
        return Erasure(key, at if at.tzinfo else None, str(plain["pipeline"]))
    except (ValueError, KeyError, TypeError):
        return Erasure(key, None, "?")


def since(found: list[Erasure], moment: datetime) -> list[Erasure]:
    """Those that a point of that moment does not know of."""
    return [one for one in found if one.at is None or one.at >= moment]
