"""Prune restore points: delete those that no rule keeps, with evidence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from rempart.backup.points import locking, points, pruning, retention
from rempart.backup.points.pruning import PrunedFolder
from rempart.counts import size
from rempart.errors import BackupError
from rempart.flows.backup import collect_garbage, forget_dumps, locks
from rempart.flows.backup.collect_garbage import CollectedGarbage
from rempart.flows.backup.locks import ExtendedLocks
from rempart.flows.backup.point_store import PointStore, open_store
from rempart.flows.backup.restore_points import Survey, survey_of
from rempart.flows.shared.keys import open_keyring
from rempart.flows.shared.leases import PATIENCE, points_lease, wait_for
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.port import Ledger
from rempart.settings.sections import BackupConfig

logger = logging.getLogger(__name__)

Forget = Callable[[Collection[retention.DumpSnapshot], Collection[str]], dict[str, int]]
"""Forget the dumps that no kept point needs, given the existing points. Return their number by scope."""


@dataclass(frozen=True)
class Pruned:
    """Result of a prune, or its plan with `dry_run`: deleted points, leftovers, and their bytes.

    `retained` points are locked until the given ISO time, `held` points got a hold at the last moment. `cleared` is the
    result of the daily garbage collection.
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
    cleared: CollectedGarbage | None = None


def prune(
    platform: Platform,
    *,
    dry_run: bool = True,
    where: str | None = None,
    patience: float = PATIENCE,
) -> Pruned:
    """Delete restore points that no rule keeps, leftovers of killed backups and prunes, and their dumps, in all
    versions.

    First extends the locks of what the other points need. Collects garbage once a day. Writes evidence of kind `prune`
    before the deletion (what is deleted, why the others stay) and after it (the result); none if there is nothing to
    delete. Locked points are reported with their date and tried again later. Waits `patience` seconds for a running
    backup or prune.

    Raises BackupError if a kept point cannot be read, because its needs are unknown, or if something that it needs is
    hidden; LockLapses before any deletion if a lock could not be extended; LeaseHeld, SiteError.
    """
    store = open_store(platform, where)
    site = store.site
    if dry_run:
        return _look(store.ledger, survey_of(store))[0]
    forget = partial(
        forget_dumps.forget,
        store,
        partial(open_keyring, platform),
        partial(repository_of, platform.config, platform.connections, site.name),
    )
    with wait_for(platform.continuity, points_lease(site.name), patience):
        survey = survey_of(store)
        extended = locks.extend(store, _lasting(survey), _outliving(store.rules, survey))
        locks.refuse_hidden(site, extended)
        done, extended = _delete(store, survey, extended, forget)
        collect_garbage.delete_spent(store, extended.spent)
        cleared = None
        if collect_garbage.is_due(extended.known, store.clock()):
            cleared = collect_garbage.collect(store, extended.known)
            if cleared.sealed or cleared.old:
                evidence = {"state": "cleared", "retained": done.retained, "cleared": asdict(cleared)}
                store.ledger.append("prune", site.name, evidence)
        locks.settle(store, extended, store.clock() if cleared else None)
        return replace(done, cleared=cleared)


def _lasting(survey: Survey) -> list[str]:
    """Return the points that a rule keeps beyond their first lock."""
    return [point for point, why in survey.plan.keep.items() if set(why) - {retention.YOUNG, retention.LOCKED}]


def _outliving(rules: BackupConfig, survey: Survey) -> list[str]:
    """Return the points whose sealed objects' locks end soon although the points are kept."""
    return [
        point
        for point in _lasting(survey)
        if locking.outlives(points.created_at(point), survey.sealed_for.get(point), survey.at, rules.locked)
    ]


def _look(ledger: Ledger, survey: Survey) -> tuple[Pruned, list[str], list[str], dict[str, str]]:
    """Plan the deletions: points, leftovers, and points that are still locked."""
    locked = _known_locks(ledger, survey.site, survey.at)
    doomed = [point for point in survey.plan.prune if point not in locked]
    left = [point for point in survey.leftovers if point not in locked]
    size = sum(point.bytes for point in survey.points if point.id in doomed) + sum(
        survey.leftovers[folder] for folder in left
    )
    planned = _pruned(survey, True, [PrunedFolder(folder) for folder in (*doomed, *left)], locked, size)
    return planned, doomed, left, locked


def _delete(store: PointStore, survey: Survey, extended: ExtendedLocks, forget: Forget) -> tuple[Pruned, ExtendedLocks]:
    site, ledger = store.site, store.ledger
    planned, doomed, left, locked = _look(ledger, survey)
    if not (doomed or left):
        return replace(planned, dry_run=False), extended
    _check_readable(survey)
    tried = retention.RetentionPlan(survey.plan.keep, tuple(doomed))
    facts = {"site": site.name, "retained": locked}
    intended = {"points": doomed, "leftovers": left, "why": "no rule keeps it"}
    rules = {**store.rules.keep.model_dump(mode="json"), "floor": retention.FLOOR}
    kept = {point: list(why) for point, why in survey.plan.keep.items()}
    ledger.append("prune", site.name, {**facts, "state": "begins", "deletes": intended, "keeps": kept, "rules": rules})
    cleared: list[PrunedFolder] = []

    def note(folder: PrunedFolder) -> None:
        cleared.append(folder)
        _log(folder)

    state, forgotten = "broke off", dict[str, int]()
    try:
        pruning.prune(site, store.bucket, tried, survey.needed, survey.at, leftovers=left, dry_run=False, report=note)
        gone = {folder.id for folder in cleared if not folder.whole}
        standing = {point.id for point in survey.points if point.id not in gone} | set(survey.hidden)
        extended = locks.note_pruning(store, extended)
        forgotten = forget(survey.snapshots, standing)
        state = "ended"
    finally:
        result = _pruned(survey, False, cleared, locked, sum(folder.bytes for folder in cleared))
        outcome = {
            "deleted": {folder.id: folder.bytes for folder in cleared if folder.deleted},
            "held": list(result.held),
        }
        outcome |= {"state": state, "dumps_forgotten": forgotten, "retained": result.retained}
        ledger.append("prune", site.name, {**facts, **outcome})
    return result, extended


def _pruned(
    survey: Survey, dry_run: bool, cleared: Iterable[PrunedFolder], locked: dict[str, str], size: int
) -> Pruned:
    known = tuple(cleared)
    retained = {folder.id: folder.retained_until.isoformat() for folder in known if folder.retained_until}
    gone = [folder.id for folder in known if not (folder.whole or folder.id in retained)]
    return Pruned(
        survey.site,
        dry_run,
        tuple(point for point in gone if point not in survey.leftovers),
        tuple(point for point in gone if point in survey.leftovers),
        size,
        locked | retained,
        tuple(folder.id for folder in known if folder.held),
        survey.hidden,
        len(survey.plan.keep),
    )


def _known_locks(ledger: Ledger, site: str, now: datetime) -> dict[str, str]:
    """Return the points that the last prune found locked, so that they are not tried and recorded every half hour."""
    records: list[Any] = ledger.find("prune", site, limit=1)
    known = records[0].body["retained"] if records else {}
    return {str(point): str(until) for point, until in known.items() if datetime.fromisoformat(until) > now}


def _check_readable(survey: Survey) -> None:
    for point in survey.unreadable[:1]:
        doubt = next(status.doubts[0] for status in survey.points if status.id == point)
        raise BackupError(
            f"Restore point {point} at site '{survey.site}' must be kept, but {doubt}. Nothing was pruned, because "
            f"the needs of {len(survey.unreadable)} such points are unknown",
            f"Find out who changed it. Restore an earlier version of points/{point}/{retention.MANIFEST} if it is "
            "intact; otherwise delete that folder by hand.",
        )


def _log(cleared: PrunedFolder) -> None:
    if cleared.held:
        logger.info("kept %s: it was put under legal hold meanwhile", cleared.id)
    elif cleared.retained_until:
        logger.info("kept %s: it is locked until %s", cleared.id, cleared.retained_until.isoformat(" ", "minutes"))
    else:
        logger.info("deleted %s: %d objects (%s)", cleared.id, cleared.deleted, size(cleared.bytes))
