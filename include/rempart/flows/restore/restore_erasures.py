"""Apply registered erasures to restored data before the service opens.

The whole register is applied, not only newer entries: an erasure may have been in progress when the restore point was
created. Applying an entry twice is harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points.erasures import Erasure
from rempart.backup.points.restore_plan import Selection, dataset_of
from rempart.counts import counted
from rempart.errors import BackupError, IntegrityError, RempartError
from rempart.flows.erasure import erase
from rempart.flows.erasure.erase_report import ErasureResult
from rempart.flows.erasure.erase_stores import open_stores
from rempart.flows.ingestion import derived_run
from rempart.flows.restore.restore_source import OpenPoint
from rempart.flows.shared import erasures, used_views
from rempart.flows.shared.platform import Platform
from rempart.ingestion.derived.inputs import ancestors
from rempart.ledger.port import Ledger

logger = logging.getLogger(__name__)

_FEATURES = ("feast_offline", "feast_online")


def register_of(point: OpenPoint, *, force: bool) -> list[Erasure]:
    """Return every verified entry of a site's register, with its key available.

    Raises IntegrityError for a file without a trusted signature, which may hide or forge an erasure. Raises KeyMissing,
    KeyWrong, KeyRotated or KeyDestroyed for an entry whose key is unavailable. With `force`, such a file is skipped
    with a warning. Raises SiteError if the site of the restore point does not answer.
    """
    sites = {site.name: site for site in (point.site, *point.others)}
    bucket = point.platform.config.buckets.backups
    entries, doubts, _ = erasures.registered(sites, bucket, point.trusted, point.site.name)
    for file, why in sorted(doubts.items()):
        told = f"{bucket}/{file} in the register of erasures is not trusted: {why}"
        if not force:
            raise IntegrityError(
                told,
                "Find out who wrote the file. If a key was rotated, pass its file with --trust. With --force "
                "the file is skipped: if the entry is genuine, the erased rows return.",
            )
        logger.warning("skipped: %s", told)
    kept = []
    for entry in entries:
        try:
            point.keys.of(entry.scope, entry.serial)
        except BackupError as error:
            if not force:
                raise
            logger.warning("skipped erasure %s, which cannot be applied: %s", entry.id, error.what)
        else:
            kept.append(entry)
    return kept


def concerned(entries: Sequence[Erasure], selection: Selection, ledger: Ledger) -> list[Erasure]:
    """Return the entries that the restored parts may undo: those of the restored data sets, or all if the feature
    stores or the ledger are restored. `ledger` tells from what the data sets were derived. Raises DatabaseUnavailable.
    """
    if selection.whole or any(database.name in (*_FEATURES, "ledger") for database in selection.databases):
        return list(entries)
    concerns = _datasets(selection, ledger)
    return [entry for entry in entries if entry.pipeline in concerns]


def _datasets(selection: Selection, ledger: Ledger) -> set[str]:
    """Return the restored data sets, those from which they were ever derived, and those that ever delivered labels or
    gave values of feature views.

    Their rows may be in derived data sets and in training sets.
    """
    restored = {dataset_of(obj.key) for obj in selection.objects if obj.bucket == "lake"}
    names, inputs = {name for name in restored if name}, derived_run.recorded_inputs(ledger)
    labels = {str(entry.body["pipeline"]) for entry in ledger.find("labels") if entry.subject in names}
    names |= labels | used_views.sources(ledger, names)
    return names.union(*(ancestors(name, inputs) for name in names))


def refuse_side_by_side(
    point: OpenPoint, entries: Sequence[Erasure], selection: Selection, ledger: Ledger, *, force: bool
) -> None:
    """Check that a side-by-side restore brings back no rows that were erased since the restore point.

    Raises BackupError, because erasures are not applied side by side. With `force` it is only a warning.
    """
    features, datasets = (
        any(database.name in _FEATURES for database in selection.databases),
        _datasets(selection, ledger),
    )
    newer = [entry for entry in entries if entry.at >= point.manifest.created_at]
    back = [entry.id for entry in newer if features or entry.pipeline in datasets]
    if not back:
        return
    told = f"{counted(len(back), 'erasure is', 'erasures are')} newer than the point ({', '.join(back[:3])})"
    if not force:
        raise BackupError(
            f"{told}: a side-by-side restore would hold those rows again",
            "Restore in place: the restore then erases the rows again. Or pass --force, and drop the restored "
            "data as soon as you have inspected it.",
        )
    logger.warning("%s: the side-by-side restore holds those rows again", told)


def _below(done: ErasureResult) -> Iterator[str]:
    """Yield what is left to do in derived pipelines."""
    for below in done.descendants:
        yield from below.pending


def apply_again(platform: Platform, point: OpenPoint, entries: Sequence[Erasure], home: str) -> Iterator[RestoreCheck]:
    """Apply the register to restored data. Return one check for each pipeline. `home` holds the restored objects.

    An error counts as a failed check with its reason.
    """
    pipelines = sorted({entry.pipeline for entry in entries})
    mine = {name: [entry for entry in entries if entry.pipeline == name] for name in pipelines}
    subjects = {name: len({who for entry in own for who in entry.subjects}) for name, own in mine.items()}
    what = {name: f"erasures of {name} applied again: {counted(subjects[name], 'subject')}" for name in pipelines}
    try:
        stores = open_stores(platform, home)
        silent = erasures.open_register(platform).write(stores.sites, entries, must=None)
    except RempartError as error:
        yield from (RestoreCheck(told, False, error.what) for told in what.values())
        return

    def secret_of(scope: str, serial: str) -> bytes:
        return point.keys.of(scope, serial).hash_key

    for name, told in what.items():
        try:
            (done,) = erase.apply_all(stores, mine[name], secret_of, silent=silent)
        except RempartError as error:
            yield RestoreCheck(told, False, error.what)
            continue
        locked = [*done.locked, *(key for below in done.descendants for key in below.locked)]
        here = [key for key in locked if key.endswith(f"at site '{home}'")]
        if blocked := [place for place in _below(done) if place.startswith("pipeline '") or place == home]:
            yield RestoreCheck(told, False, f"derived rows may still be there: {', '.join(blocked[:3])}")
            continue
        if done.left or here:
            yield RestoreCheck(
                told, False, f"rows or objects still found: {done.left + len(here)}; {', '.join(here[:3])}"
            )
            continue
        rows, later = sum(done.found.values()), sorted({*done.silent, *locked, *done.faults, *_below(done)})
        waits = f"; pending, run `rempart pipeline erase --again`: {', '.join(later[:3])}" if later else ""
        yield RestoreCheck(told, True, f"no row is found ({counted(rows, 'row was', 'rows were')} erased){waits}")
