"""Describe restore points and restore plans as lines for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from rempart.backup.points import restore_plan
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Manifest
from rempart.backup.points.restore_plan import Part, Selection
from rempart.counts import counted, size
from rempart.flows.backup.point_report import age

_RUNBOOK = "docs/runbooks/current-snapshot-is-gone.md"
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
            "" if link.consistent else "  INCOMPLETE: restored only if you name it with --point"
        )


def left_out(parts: Iterable[Part]) -> Iterator[str]:
    """Yield what the restore of these parts does not bring back."""
    models = [part.name for part in parts if part.kind == "model"]
    if models and Part("bucket", "artifacts") not in parts:
        yield (
            f"not included: plots in MLflow's runs of {', '.join(models)}. They come back with --only bucket:artifacts"
        )


def undone(manifest: Manifest, parts: Iterable[Part], older: Sequence[str] = ()) -> Iterator[str]:
    """Yield what the restore of these parts takes back: changes that are newer than the point.

    `older`: pipelines whose current snapshot becomes an older one.
    """
    for name in older:
        yield (
            f"undone    the current snapshot of {name}: that of the point takes its place, without later rows. "
            f"To deliver such rows again, follow step 3 of {_RUNBOOK}"
        )
    since = f"newer than {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC"
    databases = [part.name for part in parts if part.kind == "database"]
    if databases or not [*parts]:
        of = f"of {', '.join(databases)}" if databases else "of all databases: runs, models, champions, features"
        yield f"undone    changes {of}, if they are {since}; objects that are newer stay"
    else:
        what = "nothing else" if older else "nothing"
        yield f"undone    {what}: missing and damaged objects come back, and those {since} stay"


def explain(
    manifest: Manifest,
    selection: Selection,
    now: datetime,
    *,
    parts: bool = True,
    wanted: Sequence[Part] = (),
    newer: Iterable[str] = (),
    lacking: int | None = None,
) -> Iterator[str]:
    """Yield the content of a restore point, by part unless `parts` is false, and what the restore would do.

    `wanted`: the parts to restore; by default all. `newer`: lines about what the point does not hold.
    `lacking`: how many of the objects are not in place, from listings; None if that is not known.
    """
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
    if parts:
        yield from wanted_parts(manifest, wanted) if wanted else _all_parts(manifest)
    for scope, number in sorted(selection.withheld.items()):
        yield (
            f"erased    {number} objects of encryption scope {scope}: its key was destroyed, so they are not restored"
        )
    yield from newer
    there = "those in place stay"
    if lacking is not None:
        in_place = len(selection.objects) - lacking
        there = f"missing or of another size: {lacking:,}; in place: {in_place:,}, each is read, and stays if intact"
    yield (
        f"to restore: {counted(len(selection.databases), 'database')} ({size(selection.dump_bytes)}) and"
        f" {counted(len(selection.objects), 'object')} ({size(selection.object_bytes)}); {there}"
    )


def _all_parts(manifest: Manifest) -> Iterator[str]:
    for name, version in sorted(manifest.champions.items()):
        yield f"champion  {name} version {version} (its versions: --only model:{name})"
    for part, count, held in restore_plan.parts(manifest):
        yield f"part      {part!s:<34}{count:>16}{size(held):>12}"


def wanted_parts(manifest: Manifest, wanted: Sequence[Part]) -> Iterator[str]:
    """Yield the parts to restore, and in one line those that stay as they are."""
    facts = {part: (count, held) for part, count, held in restore_plan.parts(manifest)}
    for part in dict.fromkeys(wanted):
        count, held = facts.get(part, ("", None))  # of a model, the last line counts the objects
        yield f"restore   {part!s:<34}{count:>16}{'' if held is None else size(held):>12}".rstrip()
    inner = {"lake": "dataset", "artifacts": "model"}
    stay = []
    for part in facts:
        if part.kind == "dataset" or part in wanted:
            continue
        within = [str(other) for other in wanted if part.kind == "bucket" and other.kind == inner[part.name]]
        stay.append(f"{part} except {' and '.join(within)}" if within else str(part))
    if stay:
        yield f"untouched {', '.join(stay)}"


def _ago(span: timedelta) -> str:
    return age(span) if span < timedelta() else f"{age(span)} ago"
