"""What a restore could take, and would do, as lines for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta

from rempart.backup.points import restoring
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Manifest
from rempart.backup.points.restoring import Selection
from rempart.flows.backup.point_report import age, size

SKEW = timedelta(minutes=10)
"""Clocks differ by this much; a point from later than that was made by a clock that was wrong."""


def listing(site: str, links: Iterable[Link], present: Collection[str], now: datetime) -> Iterator[str]:
    """The points that can be restored, newest first."""
    there = sorted((link for link in links if link.point in present), key=lambda link: -link.seq)
    yield f"{len(there)} restore points at site '{site}' that the signed chain vouches for, newest first"
    for link in there:
        yield f"{link.point}  made {_ago(now - link.at)}" + (
            "" if link.consistent else "  INCONSISTENT: taken only where named"
        )


def explain(manifest: Manifest, selection: Selection, now: datetime) -> Iterator[str]:
    """What a point holds and what would be restored."""
    old = now - manifest.created_at
    yield f"restore point {manifest.id}, made at site '{manifest.source}' by version {manifest.code_version}"
    yield f"made      {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, {_ago(old)}"
    if old < -SKEW:
        yield "warning   it was made later than now: this clock is wrong, or was that of the machine that made it"
    for missing in manifest.dangling[:5]:
        yield f"LACKS     {missing}"
    if len(manifest.dangling) > 5:
        yield f"LACKS     and {len(manifest.dangling) - 5} more"
    for one in manifest.not_held:
        yield f"LACKS     {one}"
    for name, version in sorted(manifest.champions.items()):
        yield f"champion  {name} version {version} (its versions: --only model:{name})"
    for part, count, held in restoring.parts(manifest):
        yield f"part      {part!s:<34}{count:>16}{size(held):>12}"
    for domain, number in sorted(selection.withheld.items()):
        yield f"erased    {number} objects of domain {domain}: its key was destroyed, they stay gone"
    yield (
        f"to restore: {len(selection.databases)} databases ({size(selection.dump_bytes)}) and"
        f" {len(selection.objects)} objects ({size(selection.object_bytes)})"
    )


def _ago(span: timedelta) -> str:
    return age(span) if span < timedelta() else f"{age(span)} ago"
