"""Describe restore points and restore plans as lines for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta

from rempart.backup.points import restore_plan
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Manifest
from rempart.backup.points.restore_plan import Part, Selection
from rempart.flows.backup.point_report import age, size

SKEW = timedelta(minutes=10)
"""Tolerated clock difference.

A restore point from further in the future was created on a machine with a wrong clock.
"""


def restorable(links: Iterable[Link], present: Collection[str]) -> list[Link]:
    """Return the links of the points that are at the site, newest first."""
    return sorted((link for link in links if link.point in present), key=lambda link: -link.seq)


def listing(site: str, links: Iterable[Link], present: Collection[str], now: datetime) -> Iterator[str]:
    """Yield the restorable points, newest first."""
    there = restorable(links, present)
    yield f"{len(there)} restore points at site '{site}', verified by the signed chain, newest first"
    for link in there:
        yield f"{link.point}  made {_ago(now - link.at)}" + (
            "" if link.consistent else "  INCONSISTENT: restored only if named"
        )


def left_out(parts: Iterable[Part]) -> Iterator[str]:
    """Yield what the restore of these parts does not bring back."""
    models = [part.name for part in parts if part.kind == "model"]
    if models and Part("bucket", "artifacts") not in parts:
        yield (
            f"not included: plots and feature lists of the runs of {', '.join(models)}. They come back with "
            "--only bucket:artifacts"
        )


def undone(manifest: Manifest, parts: Iterable[Part]) -> str:
    """Return what the restore of these parts takes back: changes that are newer than the point."""
    since = f"newer than {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"
    databases = [part.name for part in parts if part.kind == "database"]
    if databases or not [*parts]:
        of = f"of {', '.join(databases)}" if databases else "of all databases: runs, models, champions, features"
        return f"undone    changes {of}, if they are {since}; objects that are newer stay"
    return f"undone    nothing: missing and damaged objects come back, and those {since} stay"


def explain(manifest: Manifest, selection: Selection, now: datetime, *, parts: bool = True) -> Iterator[str]:
    """Yield the content of a restore point, by part unless `parts` is false, and what the restore would do."""
    old = now - manifest.created_at
    yield f"restore point {manifest.id}, made at site '{manifest.source}' by version {manifest.code_version}"
    yield f"made      {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, {_ago(old)}"
    if old < -SKEW:
        yield (
            "warning   the creation time is in the future: the clock of this machine, or of the machine that "
            "created the restore point, is wrong"
        )
    for missing in manifest.dangling[:5]:
        yield f"LACKS     {missing}"
    if len(manifest.dangling) > 5:
        yield f"LACKS     and {len(manifest.dangling) - 5} more"
    for store in manifest.not_held:
        yield f"LACKS     {store}"
    for name, version in sorted(manifest.champions.items()) if parts else ():
        yield f"champion  {name} version {version} (its versions: --only model:{name})"
    for part, count, held in restore_plan.parts(manifest) if parts else ():
        yield f"part      {part!s:<34}{count:>16}{size(held):>12}"
    for scope, number in sorted(selection.withheld.items()):
        yield (
            f"erased    {number} objects of encryption scope {scope}: its key was destroyed, so they are not restored"
        )
    yield (
        f"to restore: {len(selection.databases)} databases ({size(selection.dump_bytes)}) and"
        f" {len(selection.objects)} objects ({size(selection.object_bytes)})"
    )


def _ago(span: timedelta) -> str:
    return age(span) if span < timedelta() else f"{age(span)} ago"
