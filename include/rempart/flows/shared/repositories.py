"""Open the restic repositories of the platform's databases: one for each encryption scope and key."""

from __future__ import annotations

from pathlib import Path

from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import prefix_of
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.flows.shared.platform import Platform


def repository_of(platform: Platform, site: str, key: ScopeKey, cache: Path | None = None) -> Repository:
    """Return the restic repository of a scope's key at a declared site. Raises ConnectionMissing, BackupError."""
    place = platform.config.sites[site]
    return Repository(
        site,
        platform.connections(place.connection),
        place.region,
        platform.config.buckets.backups,
        prefix_of(key.scope, key.serial),
        key.restic_password,
        cache=cache,
    )
