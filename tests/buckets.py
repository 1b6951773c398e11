"""Buckets of a test's own at both sites of the stack, for backups."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from rempart.flows.shared.platform import Platform
from rempart.settings import sections


@contextmanager
def own_buckets(platform: Platform, what: str) -> Iterator[sections.Buckets]:
    """Empty lake, artifacts and backups; that of the backups stays afterwards, for it holds what is locked."""
    mark = f"{what}-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in (buckets.lake, buckets.artifacts):
            site.ensure_bucket(name, versioned=True)
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)
    yield buckets
    for site in sites:
        for name in (buckets.lake, buckets.artifacts):
            site.drop_bucket(name)
