"""Make another site the active one as part of a restore, if the former active site is lost.

The restore replaces the first steps of a failover: nobody writes, every object was verified, and objects that only the
lost site had are lost. `flows.failover.fail_over` takes the remaining steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rempart.backup.points.points import Manifest
from rempart.coordination.active import Active, backup_site
from rempart.coordination.failover import Step, Switchover, outcome_of_drain
from rempart.errors import BackupError, ConfigError, RempartError
from rempart.flows.failover.fail_over import fail_over
from rempart.flows.restore.restore_source import Wish
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all

NO_BACKUP = "NO BACKUP"


def check(config: Config, wish: Wish) -> None:
    """Check that the site is declared, and that the restore is complete and in place.

    Raises ConfigError, BackupError.
    """
    if wish.active is None:
        return
    if wish.active not in config.sites:
        raise ConfigError(
            f"Site '{wish.active}' is not declared in rempart.yaml", f"Use one of: {', '.join(config.sites)}."
        )
    if wish.parts or wish.aside:
        raise BackupError(
            f"Only a complete restore in place can make '{wish.active}' the active site",
            "Leave out --only and --aside, or leave out --active.",
        )


def switchover(manifest: Manifest, target: str, objects: int, began: datetime, now: datetime) -> Switchover:
    """Return the switchover of a failover whose steps before the switch are already done by a restore. Pure.

    `began` is the start of the restore; the age of the restore point is measured at that time.
    """
    age = (began - manifest.created_at).total_seconds()
    drain = outcome_of_drain(
        answered=False, complete=False, accepted=True, lag_seconds=age, known_at=manifest.created_at
    )
    unknown = f"changes at '{manifest.source}' after restore point {manifest.id}"
    found: dict[Step, Mapping[str, Any]] = {
        "fence": {"ok": True, "writers": "none: no service of the platform ran"},
        "drain": {**drain, "unknown": unknown, "point": manifest.id},
        "verify": {"ok": True, "objects": objects, "read_back": objects, "wrong": [], "wrong_count": 0},
        "switch": {"ok": True},
    }
    told = {"seconds": 0.0, "at": now.isoformat(timespec="microseconds")}
    steps: dict[Step, Mapping[str, Any]] = {step: {**outcome, **told} for step, outcome in found.items()}
    return Switchover(f"restore-{manifest.id}", "failover", manifest.source, target, True, steps=steps)


def switch(platform: Platform, manifest: Manifest, target: str, objects: int, began: datetime) -> Active:
    """Make `target` the active site in the restored databases, once, before anything uses them.

    Ends any switchover that was unfinished when the restore point was made. Raises LeaseHeld, DatabaseUnavailable.
    """
    sites = platform.continuity.active_sites(platform.config.active_site)
    with sites.hold_lease(f"restore to {target}") as lease:
        now = sites.active()
        if (now.site, now.state) == (target, "active"):
            return now
        made = switchover(manifest, target, objects, began, platform.clock())
        return sites.advance(lease, now, Active(0, target, "active", made))


def resume(platform: Platform, target: str) -> None:
    """Take the last step of the switchover once MLflow runs: allow writes, switch MLflow, write evidence of kind
    `failover`.

    Raises the errors of `fail_over`.
    """
    fail_over(platform, target, dry_run=False, accept_loss=True)


def no_backup(platform: Platform, active: str) -> str | None:
    """Return why no restore point can be written while a site is active, or None."""
    config, where = platform.config, "nowhere"
    try:
        where = backup_site(config, active)
        site = platform.site(where, classification_of(load_all()), "restore-point", replica_of=active)
        time_limit.answer_of_site(
            lambda: next(iter(site.list(config.buckets.backups, "chain/")), None),
            f"list the restore points at site '{where}'",
        )
    except RempartError as error:
        return (
            f"{NO_BACKUP} while '{active}' is the active site: they would go to '{where}': {error.what}. Declare "
            "a site of another operator under `sites` in rempart.yaml, set it as backup.site, start "
            "backup_platform"
        )
    return None


def lines(platform: Platform) -> Iterator[str]:
    """Yield the active site if a switchover moved the platform, and whether backups work there.

    Yield nothing if unknown.
    """
    try:
        active = platform.active().site
    except RempartError:
        return
    if active == platform.config.active_site:
        return
    yield f"'{active}' is the active site; rempart.yaml names '{platform.config.active_site}'"
    if why := no_backup(platform, active):
        yield why
