"""Erasures and a restore: whom the register names is taken out of what was restored, before the service opens.

All of the register is applied, not only what is newer than the point: an erasure may have been under way when it was
made. What is not there is not looked for twice, so nothing is lost by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rempart.backup.drill.checks import Check
from rempart.backup.points.erasures import Erasure
from rempart.backup.points.restoring import Selection, dataset_of
from rempart.errors import BackupError, IntegrityError, RempartError
from rempart.flows.erasure import erase
from rempart.flows.restore.restore_source import OpenPoint
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform

Say = Callable[[str], object]
_FEATURES = ("feast_offline", "feast_online")


def register_of(point: OpenPoint, *, i_know: bool, say: Say) -> list[Erasure]:
    """Every entry that a site's register has, verified, with its key at hand.

    Raises IntegrityError for a file that nobody trusted signed, since it may hide an erasure, or make one up;
    KeyMissing and its like for an entry whose key is gone. With `i_know` such a file is passed by, and told. Raises
    SiteError if the site of the point does not answer.
    """
    sites = {site.name: site for site in (point.site, *point.others)}
    bucket = point.platform.config.buckets.backups
    entries, doubts, _ = erasures.registered(sites, bucket, point.trusted, point.site.name)
    for file, why in sorted(doubts.items()):
        told = f"{bucket}/{file} in the register of erasures is not to be believed: {why}"
        if not i_know:
            raise IntegrityError(
                told,
                "Find out who wrote it. If a key was rotated, add its file with --trust. With --i-know it is passed by:"
                " whom it names comes back, if it is true.",
            )
        say(f"warning: {told}; it is passed by")
    kept = []
    for one in entries:
        try:
            point.keys.of(one.domain, one.serial)
        except BackupError as error:
            if not i_know:
                raise
            say(f"warning: erasure {one.id} cannot be applied and is passed by: {error.what}")
        else:
            kept.append(one)
    return kept


def concerned(entries: Sequence[Erasure], selection: Selection) -> list[Erasure]:
    """The entries that what is restored may undo: of its datasets; all, with the feature stores or the ledger."""
    if selection.whole or any(one.name in (*_FEATURES, "ledger") for one in selection.databases):
        return list(entries)
    return [one for one in entries if one.pipeline in _datasets(selection)]


def _datasets(selection: Selection) -> set[str | None]:
    return {dataset_of(one.key) for one in selection.objects if one.bucket == "lake"}


def refuse_beside(
    point: OpenPoint, entries: Sequence[Erasure], selection: Selection, *, i_know: bool, say: Say
) -> None:
    """Raises BackupError where rows erased since the point would stand beside the platform: they are not removed there.

    With `i_know` it is told.
    """
    features, datasets = any(one.name in _FEATURES for one in selection.databases), _datasets(selection)
    newer = [one for one in entries if one.at >= point.manifest.created_at]
    back = [one.id for one in newer if features or one.pipeline in datasets]
    if not back:
        return
    told = f"{len(back)} erasures are newer than the point ({', '.join(back[:3])})"
    if not i_know:
        raise BackupError(
            f"{told}: what is restored beside the platform would hold those rows again",
            "Restore into place, where they are removed; or say --i-know, and drop it as soon as you have looked.",
        )
    say(f"warning: {told}: what is restored beside the platform holds those rows again")


def apply_again(
    platform: Platform, point: OpenPoint, entries: Sequence[Erasure], home: str, say: Say
) -> Iterator[Check]:
    """Apply the register to what was restored: one check for each pipeline. `home`: the site of the restored objects.

    What raises is a failed check that says why.
    """
    sites, _ = erasures.open_sites(platform, home)
    silent = erasures.register(platform, sites, entries, must=None)

    def secret_of(domain: str, serial: str) -> bytes:
        return point.keys.of(domain, serial).hash_key

    for name in sorted({one.pipeline for one in entries}):
        mine = [one for one in entries if one.pipeline == name]
        what = f"erasures of {name} applied again: {len({who for one in mine for who in one.subjects})} subjects"
        try:
            (done,) = erase.apply_all(platform, mine, secret_of, home=home, silent=silent, say=say)
        except RempartError as error:
            yield Check(what, False, error.what)
            continue
        here = [key for key in done.locked if key.endswith(f"at site '{home}'")]
        if done.left or here:
            yield Check(what, False, f"{done.left + len(here)} are still found; {', '.join(here[:3])}")
            continue
        rows, later = sum(done.found.values()), sorted({*done.silent, *done.locked})
        waits = f"; pending, `rempart erase --again`: {', '.join(later[:3])}" if later else ""
        yield Check(what, True, f"none is found ({rows} rows were){waits}")
