"""Sandbox of a drill: created from its record at the backup site, kept for the next step, removed at the end."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime

from rempart.backup.drill import scratch
from rempart.backup.drill.checks import RestoreCheck, passed
from rempart.backup.drill.scratch import Scratch
from rempart.backup.drill.tracking_server import end_marked
from rempart.errors import BackupError
from rempart.flows.drill import drill_point, drill_steps
from rempart.flows.drill.drill_steps import StepResult, Tally
from rempart.flows.restore.fill import empty
from rempart.flows.restore.targets import Sandbox, live_names
from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

REMOVED = "the sandbox is removed"


def sandbox_of(platform: Platform, site: Site, space: Scratch) -> Sandbox:
    """Return the sandbox of a drill. Its databases belong to the role `drill`, its bucket is at the backup site."""
    live = live_names(platform.config, platform.connections)
    buckets = {"artifacts": space.bucket}
    return Sandbox(platform.database("drill"), site, space.databases, buckets, live, may_replace=True)


def remove_leftovers(platform: Platform, site: Site, drill_id: str) -> None:
    """Remove the leftovers of killed drills, and of an earlier run of this drill, at a site.

    Raises BackupError if another drill waits for its next step.
    """
    backups, now = platform.config.buckets.backups, platform.clock()
    for space in scratch.recorded(site, backups):
        if space.id != drill_id and space.is_reserved(now):
            raise BackupError(
                f"The sandbox of drill {space.id} waits for the drill's next step, until "
                f"{space.waits_until:%H:%M} UTC at the latest",
                "Wait until that drill has ended, then run again. If its run was stopped, clear the run's task "
                "`clean_up`.",
            )
    for space in scratch.recorded(site, backups):
        logger.info("removing leftovers of drill %s", space.id)
        _remove(sandbox_of(platform, site, space), backups, space)


def _remove(sandbox: Sandbox, backups: str, space: Scratch) -> bool:
    """Remove the server, databases, bucket and record of a drill, as far as they exist."""
    end_marked(space.id)
    empty(sandbox)
    scratch.forget(sandbox.site, backups, space)
    return True


def clean_up(platform: Platform, drill_id: str, point_id: str | None = None, *, patience: float = 0) -> StepResult:
    """Remove the scratch space of a drill, if any is left. Writes evidence of kind `drill-step` if there was.

    It is at the site where the restore began. If the site shows no record of it, the evidence of the restore has its
    names, until a removal is on record too: a killed run may have removed it, and a site may hide it. `point_id` is the
    restore point that the drill was asked for, `patience` the seconds to wait for a step that is being killed. Raises
    BackupError if a step of a drill is running.
    """
    began, backups, steps = platform.clock(), platform.config.buckets.backups, None
    point = point_id or "unknown"
    if (name := drill_steps.begun_at(platform.ledger, drill_id)) is None:
        logger.info("drill %s made nothing to remove", drill_id)
        return StepResult(drill_id, "clean up", point, 0.0, ())
    site = drill_point.open_site(platform, name)
    with suppress(BackupError):  # the restore did not end
        steps = drill_steps.read(platform.ledger, drill_id)
        point = steps.begun.point

    def left() -> Scratch | None:
        if space := scratch.read(site, backups, drill_id):
            return space
        if steps is None or not steps.begun.opened or (steps.clean_up and passed(steps.clean_up.checks)):
            return None
        return scratch.name_scratch(drill_id, steps.begun.facts["databases"])

    if left() is None:
        logger.info("drill %s left nothing to remove", drill_id)
        return StepResult(drill_id, "clean up", point, 0.0, ())
    tally = Tally()
    with scratch.only_drill(platform.database("drill"), patience):
        if (space := left()) is None:
            return StepResult(drill_id, "clean up", point, 0.0, ())
        if tally.attempt(REMOVED, lambda: _remove(sandbox_of(platform, site, space), backups, space)):
            tally.add(RestoreCheck(REMOVED, True, "databases, bucket and server"))
    result = StepResult(drill_id, "clean up", point, seconds(began, platform.clock()), tuple(tally.checks))
    return drill_steps.record(platform.ledger, result)


def seconds(began: datetime, ended: datetime) -> float:
    """Return the seconds between two times, rounded to milliseconds."""
    return round((ended - began).total_seconds(), 3)
