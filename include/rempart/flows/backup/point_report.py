"""Restore points as lines for people: what there is, why it is kept, what was pruned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rempart.backup.points.holds import Hold
from rempart.backup.points.points import valid_id
from rempart.backup.points.retention import FLOOR, FUTURE, GRACE, HELD, LOCKED, YOUNG
from rempart.errors import BackupError
from rempart.flows.backup.prune import Pruned
from rempart.flows.backup.restore_points import PointStatus, Survey

_MEANS = {
    "newest": f"it is one of the {FLOOR} newest, which are kept whatever the rules say",
    "newest good": "it is the newest of which nothing speaks against it",
    "hourly": "it stands for its hour",
    "daily": "it stands for its day",
    "weekly": "it stands for its week",
    "monthly": "it stands for its month",
    YOUNG: f"it is younger than {GRACE.total_seconds() / 3600:.0f} h",
    FUTURE: "its time is later than now: the clock of the machine that made it was wrong, or the one here is",
    HELD: "somebody holds it",
    LOCKED: "its lock has not ended: nobody can delete it (backup.locked)",
}


def size(count: int) -> str:
    """Bytes for people: `512 B`, `12.3 MiB`."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def age(span: timedelta) -> str:
    """A span for people: `35 min`, `7 h`, `12 days`; `in 2 h` for one that lies ahead."""
    if span < timedelta():
        return f"in {age(-span)}"
    minutes = int(span.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 60 // 24} days"


def list_lines(found: Survey) -> Iterator[str]:
    """Every point, newest first, then what is odd at the site."""
    if not found.points:
        yield f"Site '{found.site}' holds no restore point."
    else:
        together = size(sum(one.bytes for one in found.points))
        yield f"{len(found.points)} restore points at site '{found.site}', {together}, newest first"
        yield f"{'id':<34}{'age':>9}{'size':>12}  {'drill':<18}why it is kept"
    for one in found.points:
        why = ", ".join(one.reasons) or "NOT KEPT: the next prune deletes it"
        yield f"{one.id:<34}{age(found.at - one.created_at):>9}{size(one.bytes):>12}  {_drill(one, found.at):<18}{why}"
        for doubt in one.doubts:
            yield f"    {doubt}"
    for point, count in found.leftovers.items():
        yield f"{point}: {size(count)} of a backup or prune that was cut off: the next prune deletes it"
    yield from _hidden_lines(found.hidden)


def _drill(one: PointStatus, now: datetime) -> str:
    if one.proof is None:
        return "-"
    return f"{'passed' if one.proof[0] else 'FAILED'} {age(max(now - one.proof[1], timedelta()))} ago"


def _hidden_lines(hidden: tuple[str, ...]) -> Iterator[str]:
    for point in hidden:
        yield (
            f"{point}: somebody deleted its manifest; the site still has it, under a delete marker. It is not pruned."
            " Find out who did; then `rempart points repair` brings it back, or delete the whole folder."
        )


def explain_lines(found: Survey, point: str) -> Iterator[str]:
    """All that is known of one point. Raises BackupError if the site has no such point."""
    one = next((one for one in found.points if one.id == valid_id(point)), None)
    if one is None:
        raise BackupError(
            f"Site '{found.site}' has no restore point {point}", "Take one that `rempart points list` shows."
        )
    yield f"{one.id} at site '{found.site}'"
    yield f"made      {one.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(found.at - one.created_at)} ago"
    yield f"holds     {one.databases} databases and names {one.objects} objects; {size(one.bytes)} of its own"
    yield f"drill     {_drill(one, found.at) if one.proof else 'no drill has restored it'}"
    for doubt in one.doubts:
        yield f"in doubt  {doubt}"
    for reason in one.reasons:
        yield f"kept      {reason}: {_MEANS[reason]}"
    if one.hold:
        yield f"held      {hold_line(one.hold)}"
    if not one.reasons:
        yield "kept      no: no rule keeps it, and the next prune deletes it"


def hold_line(hold: Hold) -> str:
    since = f"{hold.since:%Y-%m-%d %H:%M} UTC" if hold.since else "a time that is not known"
    return f"by {hold.who} since {since}: {hold.why}"


def prune_lines(done: Pruned) -> Iterator[str]:
    """What a prune did, or would do."""
    verb = "would be deleted" if done.dry_run else "deleted"
    for point in done.deleted:
        yield f"{verb}: {point}"
    for point in done.leftovers:
        yield f"{verb}: {point} (left by a backup or prune that was cut off)"
    for point, until in done.retained.items():
        yield f"retained: {point}, locked until {datetime.fromisoformat(until):%Y-%m-%d %H:%M} UTC"
    for point in done.held:
        yield f"not touched: {point} was held meanwhile"
    yield from _hidden_lines(done.hidden)
    if done.cleared:
        one = done.cleared
        yield f"gone for good: {one.sealed} sealed objects, {one.old} old versions ({size(one.bytes)})"
    gone = len(done.deleted) + len(done.leftovers)
    yield f"site '{done.site}': {gone} {verb} ({size(done.bytes)}), {done.kept} restore points kept"
