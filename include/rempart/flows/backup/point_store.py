"""The restore points of one site: opened once by a flow, and passed to its steps instead of the platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rempart.coordination.active import backup_site
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform, classification_of
from rempart.ledger.keys import Signer
from rempart.ledger.port import Ledger
from rempart.settings.pipelines import load_all
from rempart.settings.sections import BackupConfig
from rempart.sites.port import Site


@dataclass(frozen=True)
class PointStore:
    """Restore points in a bucket of an open site, their rules, the ledger, the clock, and the keys that sign.

    `elsewhere` opens each configured site by name when a copy is looked for there.
    """

    site: Site
    bucket: str
    rules: BackupConfig
    ledger: Ledger
    clock: Callable[[], datetime]
    signer: Callable[[], Signer]
    trusted_keys: Callable[[], dict[str, bytes]]
    elsewhere: Mapping[str, Callable[[], Site]] = field(default_factory=dict)

    @property
    def kept(self) -> timedelta:
        """Return how long the rules keep a restore point at most."""
        return kept_for(self.rules.keep)


def store_at(platform: Platform, site: Site) -> PointStore:
    """Return the restore points of a site that is open already."""
    config, classification = platform.config, classification_of(load_all())
    return PointStore(
        site,
        config.buckets.backups,
        config.backup,
        platform.ledger,
        platform.clock,
        platform.signer,
        platform.trusted_keys,
        platform.openers(classification),
    )


def open_site(platform: Platform, where: str | None) -> Site:
    """Return the site of restore points: the current backup site unless named. Raises PlacementDenied."""
    active = platform.active().site
    where = where or backup_site(platform.config, active)
    replica_of = active if active != where else None
    return platform.site(where, classification_of(load_all()), "restore-point", replica_of=replica_of)


def open_store(platform: Platform, where: str | None = None) -> PointStore:
    """Return the restore points of the current backup site, unless another is named. Raises PlacementDenied."""
    return store_at(platform, open_site(platform, where))
