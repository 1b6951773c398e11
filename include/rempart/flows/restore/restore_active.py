"""A restore that makes another site the active one: the backup site serves, where the one before is lost.

The journey of a failover with its first steps taken by the restore: nobody writes, the objects were verified one by
one, and what the lost site had beside them is lost. What is left of it, `flows.failover.fail_over` takes as it takes
any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from rempart.backup.points.points import Manifest
from rempart.coordination.active import Active, backup_site
from rempart.coordination.failover import Journey, Step, outcome_of_drain
from rempart.errors import BackupError, ConfigError, RempartError
from rempart.flows.failover.fail_over import fail_over
from rempart.flows.restore.restore_source import Wish
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all

NO_BACKUP = "NO BACKUP"
Say = Callable[[str], object]


def check(config: Config, wish: Wish) -> None:
    """Raises ConfigError for a site that is not declared, BackupError where a part cannot move the platform."""
    if wish.active is None:
        return
    if wish.active not in config.sites:
        raise ConfigError(f"There is no site '{wish.active}'", f"Declared: {', '.join(config.sites)}.")
    if wish.parts or wish.aside:
        raise BackupError(
            f"Only a restore of everything, into place, can make '{wish.active}' the active site",
            "Leave out --only and --aside, or --active.",
        )


def journey(manifest: Manifest, target: str, objects: int, began: datetime, now: datetime) -> Journey:
    """The failover that a restore has taken up to its switch. Pure.

    `began`: when the restore did, which is what the age of the point is counted to.
    """
    age = (began - manifest.created_at).total_seconds()
    drain = outcome_of_drain(
        answered=False, complete=False, accepted=True, lag_seconds=age, known_at=manifest.created_at
    )
    unknown = f"what '{manifest.source}' got after restore point {manifest.id} is not in it"
    found: dict[Step, Mapping[str, Any]] = {
        "fence": {"ok": True, "writers": "none: nothing of the platform ran"},
        "drain": {**drain, "unknown": unknown, "point": manifest.id},
        "verify": {"ok": True, "objects": objects, "read_back": objects, "wrong": [], "wrong_count": 0},
        "switch": {"ok": True},
    }
    told = {"seconds": 0.0, "at": now.isoformat(timespec="microseconds")}
    steps: dict[Step, Mapping[str, Any]] = {step: {**outcome, **told} for step, outcome in found.items()}
    return Journey(f"restore-{manifest.id}", "failover", manifest.source, target, True, steps=steps)


def switch(platform: Platform, manifest: Manifest, target: str, objects: int, began: datetime) -> Active:
    """Make `target` the active site of the restored databases, which nothing works on yet; done once.

    Whatever journey the point was made in is over by it. Raises LeaseHeld, DatabaseUnavailable.
    """
    sites = platform.continuity.active_sites(platform.config.active_site)
    with sites.turn(f"restore to {target}") as lease:
        now = sites.active()
        if (now.site, now.state) == (target, "active"):
            return now
        made = journey(manifest, target, objects, began, platform.clock())
        return sites.advance(lease, now, Active(0, target, "active", made))


def resume(platform: Platform, target: str, say: Say) -> None:
    """The switch's last step, once MLflow runs: writes are taken, MLflow writes there, evidence of kind `failover`.

    Raises as `fail_over`.
    """
    fail_over(platform, target, dry_run=False, accept_loss=True, say=say)


def no_backup(platform: Platform, active: str) -> str | None:
    """Why no restore point can be written while a site is the active one; None if one can."""
    config, where = platform.config, "nowhere"
    try:
        where = backup_site(config, active)
        site = platform.site(where, classification_of(load_all()), "restore-point", beside=active)
        next(iter(site.list(config.buckets.backups, "chain/")), None)
    except RempartError as error:
        return (
            f"{NO_BACKUP} while '{active}' is the active site: restore points would go to '{where}': {error.what}."
            " Declare a site of another operator under `sites` in rempart.yaml, name it as backup.site, start"
            " backup_platform"
        )
    return None


def lines(platform: Platform) -> Iterator[str]:
    """Where the platform is, if it was moved, and whether it can be backed up there; nothing while that is unknown."""
    try:
        active = platform.active().site
    except RempartError:
        return
    if active == platform.config.active_site:
        return
    yield f"'{active}' is the active site; rempart.yaml names '{platform.config.active_site}'"
    if why := no_backup(platform, active):
        yield why
