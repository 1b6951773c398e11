"""Open the restic repositories of the platform's databases: one for each encryption scope and key."""

from __future__ import annotations

from collections.abc import Callable

from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import prefix_of
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.settings.config import Config, Connections

RepositoryOf = Callable[[ScopeKey], Repository]
"""Open the repository of a scope's key at one site."""


def repository_of(config: Config, connections: Connections, site: str, key: ScopeKey) -> Repository:
    """Return the restic repository of a scope's key at a declared site. Raises ConnectionMissing, BackupError."""
    place = config.sites[site]
    return Repository(
        site,
        connections(place.connection),
        place.region,
        config.buckets.backups,
        prefix_of(key.scope, key.serial),
        key.restic_password,
    )
