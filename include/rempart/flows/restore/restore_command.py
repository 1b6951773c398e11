"""Run `rempart restore` in three steps: find the restore points of a site, open one, restore it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.drill import anomalies
from rempart.backup.points import points
from rempart.backup.points.restore_plan import Selection
from rempart.counts import counted
from rempart.deployment.setup.paths import Stack
from rempart.deployment.setup.terminal import duration
from rempart.errors import IntegrityError, ObjectMissing, RempartError, StackError
from rempart.flows.governance import evidence
from rempart.flows.restore import (
    repair,
    restore_active,
    restore_erasures,
    restore_newer,
    restore_objects,
    restore_report,
)
from rempart.flows.restore.restore import RestoreResult, restore
from rempart.flows.restore.restore_source import (
    FoundPoints,
    OpenPoint,
    Wish,
    detached,
    find,
    identity_of,
    open_point,
    plan,
    trusted_of,
)
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import classification_of, open_platform
from rempart.flows.shared.replication_pairs import physical_bucket
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)


def secrets_of(wish: Wish, identity: Path | None, trust: Sequence[Path]) -> dict[str, str]:
    """Return the secrets of a restore point, for a platform that is about to be restored.

    Raises the errors of `look` and `prepare`.
    """
    platform = detached()
    wish = wish if wish.site else replace(wish, site=platform.config.backup.site)
    trusted = trusted_of(trust, lambda: open_platform().trusted_keys())
    point = open_point(find(platform, wish, trusted), wish, identity_of(platform, identity))
    logger.info("read the secrets of restore point %s at site '%s'", point.link.point, point.site.name)
    return point.secrets()


@dataclass(frozen=True)
class SitePoints:
    """The restore points of a site."""

    wish: Wish
    found: FoundPoints

    def listing(self) -> Iterator[str]:
        """Yield the restorable points as lines for people."""
        found = self.found
        return restore_report.listing(found.site.name, found.links, found.present, found.platform.clock())

    def document(self) -> dict[str, Any]:
        """Return the restorable points for a JSON document, newest first."""
        links = restore_report.restorable(self.found.links, self.found.present)
        points = [{"id": link.point, "created_at": link.at, "consistent": link.consistent} for link in links]
        return {"site": self.found.site.name, "at": self.found.platform.clock(), "points": points}


@dataclass(frozen=True)
class Prepared:
    """An opened restore point, and the plan of its restore."""

    wish: Wish
    found: FoundPoints
    point: OpenPoint
    selection: Selection

    def lines(self, *, yes: bool) -> Iterator[str]:
        """Yield the content of the restore point and the plan as lines for people.

        With `yes`, the parts are left out, because the plan listed them, and the restore reports the erasures itself.
        """
        manifest, parts = self.point.manifest, self.wish.parts
        newer, older, runs = ((), (), False) if self.wish.aside else self._newer()
        lacking = self._lacking() if runs and self.selection.objects else None
        now = self.point.platform.clock()
        yield from restore_report.explain(
            manifest, self.selection, now, parts=not yes, wanted=parts, newer=newer, lacking=lacking
        )
        yield from restore_report.left_out(parts)
        if not self.wish.aside:
            yield from restore_report.undone(manifest, parts, older)
        for doubt in doubts(self.found, self.point):
            yield (
                f"WARNING   {doubt}. Find out whether this is an attack: docs/runbooks/restore-drill.md,"
                " 'After an attack'"
            )
        if not yes and (register := restore_erasures.register_of(self.point, force=self.wish.force)):
            yield f"erased    erasures on record: {len(register)}; the restore erases their subjects again"
        if self.wish.active:
            left = f"changes at '{manifest.source}' after the restore point are lost"
            yield f"'{self.wish.active}' would become the active site, after each object is verified there; {left}"

    def _lacking(self) -> int | None:
        """Return how many objects are not in place at the site that receives them; None if that cannot be told.

        Restoring does not need it.
        """
        try:
            platform = open_platform()
            name = self.wish.active or self.point.manifest.source
            site, bucket = platform.site_to_read(name, classification_of(load_all())), physical_bucket
            counting = partial(restore_objects.lacking, site, partial(bucket, platform.config), self.selection.objects)
            return time_limit.answer_of_site(counting, f"list the objects at site '{name}'")
        except (RempartError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
            why = error.what if isinstance(error, RempartError) else type(error).__name__
            logger.warning("how many objects are in place is not known: %s", why)
            return None

    def _newer(self) -> tuple[Sequence[str], Sequence[str], bool]:
        """Return lines about what the restore point does not hold, or why the running platform cannot tell.

        Then the pipelines whose current snapshot becomes an older one, and whether the platform could tell.
        """
        try:
            found = restore_newer.look(open_platform().ledger, self.point.manifest.created_at, self.wish.parts)
        except (RempartError, OSError, LookupError, TypeError, ValueError) as error:  # restoring does not need it
            why = error.what if isinstance(error, RempartError) else type(error).__name__
            told = f"newer     UNKNOWN: what came after this restore point: {why}"
            return [told], restore_newer.replaced(self.selection), False
        return [*restore_newer.lines(found)], restore_newer.older(found, self.selection), True


def look(stack: Stack, wish: Wish, trust: Sequence[Path] = (), wait: float = 0.0) -> SitePoints:
    """Find the restore points of a site (default: `backup.site`). Nothing is changed.

    `wait` is the number of seconds to wait in containers until MLflow and Airflow are started on the restored stores.
    Raises StackError for `wait` outside containers, and the errors of `restore_source.find`.
    """
    if wait and not stack.containers:
        raise StackError(
            "--wait works only in containers: on this machine Rempart starts MLflow and Airflow itself",
            "Leave out --wait.",
        )
    platform = detached()
    wish = wish if wish.site else replace(wish, site=platform.config.backup.site)
    restore_active.check(platform.config, wish)
    trusted = trusted_of(trust, lambda: open_platform().trusted_keys())
    if hidden := repair.warning(platform, wish.site, trusted):
        logger.warning("%s", hidden)
    return SitePoints(wish, find(platform, wish, trusted))


def prepare(looked: SitePoints, identity: Path | None = None) -> Prepared:
    """Open the restore point. Raises the errors of `restore_source.open_point` and `plan`."""
    wish, found = looked.wish, looked.found
    point = open_point(found, wish, identity_of(found.platform, identity))
    return Prepared(wish, found, point, plan(point, wish))


def carry_out(stack: Stack, prepared: Prepared, wait: float = 0.0, took: float = 0.0) -> Iterator[str]:
    """Restore, and yield the result as lines for people. `took`: seconds of the preparation.

    Raises the errors of `restore.restore`.
    """
    wish = prepared.wish
    yield from lines(restore(stack, prepared.point, wish, prepared.selection, patience=wait, preparation=took))
    if not wish.aside and (lost := evidence.lost_exports(open_platform())):
        yield lost
    if wish.active and (why := restore_active.no_backup(open_platform(), wish.active)):
        yield why


def doubts(found_points: FoundPoints, point: OpenPoint) -> tuple[str, ...]:
    """Return anomalies of a restore point, compared with the complete point before it; empty if there is no such
    point.
    """
    before = [link for link in found_points.links if link.seq < point.link.seq and link.consistent]
    for link in reversed([link for link in before if link.point in found_points.present]):
        try:
            clean = points.read(
                found_points.site, found_points.platform.config.buckets.backups, link.point, link.manifest_sha256
            )
        except (IntegrityError, ObjectMissing):
            continue
        return anomalies.judge(clean, replace(point.manifest, dangling=()))  # its missing objects are already listed
    return ()


def lines(result: RestoreResult) -> Iterator[str]:
    """Yield the result of a restore as lines for people."""
    parts = {name: round(seconds, 1) for name, seconds in result.steps.items()}
    total = max(round(result.rto_seconds, 1), round(sum(parts.values()), 1))
    if rest := round(total - sum(parts.values()), 1):
        parts["other"] = rest  # of a continued restore, the time between its runs as well
    yield f"seconds: {total} = " + " + ".join(f"{name} {seconds}" for name, seconds in parts.items())
    took = f"{result.rto_seconds:.{1 if result.rto_seconds < 10 else 0}f} s"
    yield (
        f"restore point {result.point} is restored: {counted(len(result.databases), 'database')}, "
        f"{counted(result.objects, 'object')}, "
        f"in {took}; the restore point was {duration(result.rpo_seconds)} old"
    )
