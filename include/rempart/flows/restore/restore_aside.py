"""Restore parts of a restore point beside the running platform, or remove them: the DAG `restore_to_sandbox`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rempart.backup.points.restore_plan import Selection, check_suffix, parse_part
from rempart.deployment.setup.paths import Stack
from rempart.flows.backup.point_store import open_site
from rempart.flows.restore import restore_report
from rempart.flows.restore.restore import RestoreResult, remove, restore
from rempart.flows.restore.restore_source import OpenPoint, Wish, find, open_point, plan
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.platform import Platform

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SideBySideRestore:
    """Result of a side-by-side restore or removal (`did`), or its plan with `dry_run`.

    `databases` and `buckets` carry their names with the suffix. `result` is the result of a finished restore.
    """

    did: str
    dry_run: bool
    point: str
    site: str
    databases: tuple[str, ...]
    buckets: tuple[str, ...]
    objects: int
    object_bytes: int
    result: RestoreResult | None = None


def restore_aside(
    platform: Platform,
    stack: Stack,
    *,
    aside: str,
    point: str | None = None,
    parts: Sequence[str] = (),
    removing: bool = False,
    force: bool = False,
    dry_run: bool = True,
) -> SideBySideRestore:
    """Restore parts (default: all) of a restore point into databases and buckets whose names end in `aside`.

    With `removing`, drop these databases and buckets instead. The restore uses the platform's own identity and public
    keys, and changes nothing else of the running platform. Raises BackupError for an invalid part, suffix or restore
    point, and the errors of `restore`.
    """
    wanted = tuple(parse_part(part) for part in parts)
    wish = Wish(open_site(platform, None).name, point, wanted, check_suffix(aside), force)
    opened = open_point(find(platform, wish, platform.trusted_keys()), wish, own_identity(platform.connections))
    selection = plan(opened, wish)
    for line in restore_report.explain(opened.manifest, selection, platform.clock()):
        logger.info("%s", line)
    planned = _planned(opened, selection, aside, "remove" if removing else "restore", dry_run=dry_run)
    for name in (*planned.databases, *planned.buckets):
        logger.info("%s%s: %s", "to be " if dry_run else "", "removed" if removing else "restored", name)
    if dry_run:
        return planned
    if removing:
        remove(stack, opened, wish, selection, lambda: platform)
        removed = [*planned.databases, *planned.buckets]
        platform.ledger.append("restore", planned.point, {"ok": True, "aside": aside, "removed": removed})
        return planned
    result = restore(stack, opened, wish, selection, live=lambda: platform, runs=True)
    return replace(planned, result=result)


def _planned(point: OpenPoint, selection: Selection, aside: str, did: str, *, dry_run: bool) -> SideBySideRestore:
    config = point.platform.config
    buckets = sorted({str(getattr(config.buckets, obj.bucket)) for obj in selection.objects})
    return SideBySideRestore(
        did,
        dry_run,
        point.manifest.id,
        point.site.name,
        tuple(f"{database.name}_{aside}" for database in selection.databases),
        tuple(f"{bucket}-{aside}" for bucket in buckets),
        len(selection.objects),
        selection.object_bytes,
    )
