"""Prune restore points: delete at the backup site what no rule keeps, and leave evidence of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from rempart.backup.points import locking, points, pruning, retention
from rempart.backup.points.pruning import Cleared
from rempart.errors import BackupError
from rempart.flows.backup import clear, forget_dumps, locks
from rempart.flows.backup.clear import ClearedVersions
from rempart.flows.backup.locks import Extended
from rempart.flows.backup.restore_points import Survey, open_site, survey_of
from rempart.flows.shared.pairs import PATIENCE, turn_of_points, wait_for
from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site

Say = Callable[[str], object]


@dataclass(frozen=True)
class Pruned:
    """What a prune deleted, or with `dry_run` would: points, leftovers, and their bytes.

    `retained` are under a lock until then (ISO), `held` those that a hold saved at the last moment. `cleared`: what no
    point needs and went for good, once a day.
    """

    site: str
    dry_run: bool
    deleted: tuple[str, ...]
    leftovers: tuple[str, ...]
    bytes: int
    retained: dict[str, str]
    held: tuple[str, ...]
    hidden: tuple[str, ...]
    kept: int
    cleared: ClearedVersions | None = None


def prune(
    platform: Platform,
    *,
    dry_run: bool = True,
    where: str | None = None,
    patience: float = PATIENCE,
    say: Say = lambda line: None,
) -> Pruned:
    """Delete the points that no rule keeps, in every version, what dead backups and prunes left, and their dumps.

    Before that the locks of what the others need are extended, and once a day what no point needs goes for good.
    Evidence of kind `prune` is written before anything is deleted (what, and why the others stay) and after (what
    became of it); none when there is nothing to delete. What is locked is told with its date and tried again after
    that. A backup or another prune at work is waited for so many seconds.

    Raises BackupError when a point that is kept cannot be read, for then nobody knows what it needs, or when something
    is hidden that it needs; LockLapses for a lock that could not be extended, before anything is deleted; LeaseHeld,
    SiteError.
    """
    site = open_site(platform, where)
    if dry_run:
        return _look(platform, survey_of(platform, site))[0]
    with wait_for(platform, turn_of_points(site.name), patience, say):
        found = survey_of(platform, site)
        extended = locks.extend(platform, site, _lasting(found), _outliving(platform, found), say)
        locks.refuse_hidden(site, extended)
        done, extended = _delete(platform, site, found, extended, say)
        clear.sweep(platform, site, extended.spent)
        cleared = None
        if clear.is_due(platform, extended.known):
            cleared = clear.clear(platform, site, extended.known, say)
            if cleared.sealed or cleared.old:
                evidence = {"state": "cleared", "retained": done.retained, "cleared": asdict(cleared)}
                platform.ledger.append("prune", site.name, evidence)
        locks.settle(platform, site, extended, platform.clock() if cleared else None)
        return replace(done, cleared=cleared)


def _lasting(found: Survey) -> list[str]:
    """The points that a rule keeps beyond their first lock."""
    return [point for point, why in found.plan.keep.items() if set(why) - {retention.YOUNG, retention.LOCKED}]


def _outliving(platform: Platform, found: Survey) -> list[str]:
    """Those of them that are kept until the locks of their sealed objects are about to end."""
    locked = platform.config.backup.locked
    return [
        point
        for point in _lasting(found)
        if locking.outlives(points.created_at(point), found.sealed_for.get(point), found.at, locked)
    ]


def _look(platform: Platform, found: Survey) -> tuple[Pruned, list[str], list[str], dict[str, str]]:
    """What would be deleted; points, leftovers, and what was met under a lock that still holds."""
    locked = _known_locks(platform, found.site, found.at)
    doomed = [point for point in found.plan.prune if point not in locked]
    left = [point for point in found.leftovers if point not in locked]
    size = sum(one.bytes for one in found.points if one.id in doomed) + sum(found.leftovers[one] for one in left)
    planned = _pruned(found, True, [Cleared(one) for one in (*doomed, *left)], locked, size)
    return planned, doomed, left, locked


def _delete(platform: Platform, site: Site, found: Survey, extended: Extended, say: Say) -> tuple[Pruned, Extended]:
    bucket = platform.config.buckets.backups
    planned, doomed, left, locked = _look(platform, found)
    if not (doomed or left):
        return replace(planned, dry_run=False), extended
    _check_readable(found)
    tried = retention.RetentionPlan(found.plan.keep, tuple(doomed))
    facts = {"site": site.name, "retained": locked}
    intended = {"points": doomed, "leftovers": left, "why": "no rule keeps them"}
    rules = {**platform.config.backup.keep.model_dump(mode="json"), "floor": retention.FLOOR}
    kept = {point: list(why) for point, why in found.plan.keep.items()}
    platform.ledger.append(
        "prune", site.name, {**facts, "state": "begins", "deletes": intended, "keeps": kept, "rules": rules}
    )
    cleared: list[Cleared] = []

    def note(one: Cleared) -> None:
        cleared.append(one)
        say(_line(one))

    state, forgotten = "broke off", dict[str, int]()
    try:
        pruning.prune(site, bucket, tried, found.needed, found.at, leftovers=left, dry_run=False, say=note)
        gone = {one.id for one in cleared if not one.whole}
        standing = {one.id for one in found.points if one.id not in gone} | set(found.hidden)
        extended = locks.note_pruning(platform, site, extended)
        forgotten = forget_dumps.forget(platform, site.name, found.snapshots, standing, say)
        state = "ended"
    finally:
        result = _pruned(found, False, cleared, locked, sum(one.bytes for one in cleared))
        outcome = {"deleted": {one.id: one.bytes for one in cleared if one.deleted}, "held": list(result.held)}
        outcome |= {"state": state, "dumps_forgotten": forgotten, "retained": result.retained}
        platform.ledger.append("prune", site.name, {**facts, **outcome})
    return result, extended


def _pruned(found: Survey, dry_run: bool, cleared: Iterable[Cleared], locked: dict[str, str], size: int) -> Pruned:
    known = tuple(cleared)
    retained = {one.id: one.retained_until.isoformat() for one in known if one.retained_until}
    gone = [one.id for one in known if not (one.whole or one.id in retained)]
    return Pruned(
        found.site,
        dry_run,
        tuple(point for point in gone if point not in found.leftovers),
        tuple(point for point in gone if point in found.leftovers),
        size,
        locked | retained,
        tuple(one.id for one in known if one.held),
        found.hidden,
        len(found.plan.keep),
    )


def _known_locks(platform: Platform, site: str, now: datetime) -> dict[str, str]:
    """What the last prune met under a lock that still holds: it is not tried, and not recorded, every half hour."""
    records: list[Any] = platform.ledger.find("prune", site, limit=1)
    known = records[0].body["retained"] if records else {}
    return {str(point): str(until) for point, until in known.items() if datetime.fromisoformat(until) > now}


def _check_readable(found: Survey) -> None:
    for point in found.unreadable[:1]:
        doubt = next(one.doubts[0] for one in found.points if one.id == point)
        raise BackupError(
            f"Restore point {point} at site '{found.site}' is to be kept, and {doubt}. Nothing was pruned, for what it"
            f" needs is not known (so for {len(found.unreadable)} in all)",
            f"Find out who changed it. An earlier version of points/{point}/{retention.MANIFEST} may be whole; else"
            " delete that folder by hand.",
        )


def _line(one: Cleared) -> str:
    if one.held:
        return f"{one.id}: held meanwhile, not touched"
    if one.retained_until:
        return f"{one.id}: retained until {one.retained_until:%Y-%m-%d %H:%M} UTC"
    return f"{one.id}: deleted"
