"""Describe restore points as lines for people: the list, the reasons to keep each, the result of a prune."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rempart.backup.points.holds import Hold
from rempart.backup.points.points import valid_id
from rempart.backup.points.retention import FLOOR, FUTURE, GRACE, HELD, LOCKED, YOUNG
from rempart.counts import size
from rempart.errors import BackupError
from rempart.flows.backup.prune import Pruned
from rempart.flows.backup.restore_points import PointStatus, Survey
from rempart.settings.retention_rules import Keep

_MEANS = {
    "newest": f"it is one of the {FLOOR} newest, which are always kept",
    "newest good": "it is the newest without a finding",
    **{rule: f"it is the {rule} point" for rule in Keep.periods()},
    YOUNG: f"it is younger than {GRACE.total_seconds() / 3600:.0f} h",
    FUTURE: "it is from the future: this clock is wrong, or the clock of its machine was",
    HELD: "it has a hold",
    LOCKED: "it is locked until later (backup.locked)",
}


def age(span: timedelta) -> str:
    """Format a duration for people: `35 min`, `7 h`, `12 days`, or `in 2 h` for the future."""
    if span < timedelta():
        return f"in {age(-span)}"
    minutes = int(span.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 60 // 24} days"


def list_lines(survey: Survey) -> Iterator[str]:
    """Yield every restore point, newest first, then anomalies of the site."""
    if not survey.points:
        yield f"Site '{survey.site}' holds no restore point."
    else:
        yield f"{len(survey.points)} restore points at site '{survey.site}', newest first"
        yield "restores: size of the databases and objects that a point brings back; points share them at the site"
        yield "own: size of what belongs to this point alone, such as its manifest"
        yield f"{'id':<34}{'age':>9}{'restores':>12}{'own':>12}  {'drill':<18}kept because"
    for status in survey.points:
        why = ", ".join(status.reasons) or "NOT KEPT: the next prune deletes it"
        yield (
            f"{status.id:<34}{age(survey.at - status.created_at):>9}{_restores(status):>12}"
            f"{size(status.bytes):>12}  {_drill(status, survey.at):<18}{why}"
        )
        for doubt in status.doubts:
            yield f"    {doubt}"
    for point, count in survey.leftovers.items():
        yield f"{point}: {size(count)} of an interrupted backup or prune: the next prune deletes it"
    yield from _hidden_lines(survey.hidden)


def _restores(point: PointStatus) -> str:
    return "-" if point.restores is None else size(point.restores)


def _drill(point: PointStatus, now: datetime) -> str:
    if point.proof is None:
        return "-"
    return f"{'passed' if point.proof[0] else 'FAILED'} {age(max(now - point.proof[1], timedelta()))} ago"


def _hidden_lines(hidden: tuple[str, ...]) -> Iterator[str]:
    for point in hidden:
        yield (
            f"{point}: its manifest was deleted; the site still has it under a delete marker. The point is not "
            "pruned. Find out who deleted it; then run `rempart backup repair`, or delete the whole folder."
        )


def explain_lines(survey: Survey, point: str) -> Iterator[str]:
    """Yield all facts about one restore point. Raises BackupError if the site does not have it."""
    status = next((listed for listed in survey.points if listed.id == valid_id(point)), None)
    if status is None:
        raise BackupError(
            f"Site '{survey.site}' has no restore point {point}", "Choose a restore point from `rempart backup list`."
        )
    yield f"{status.id} at site '{survey.site}'"
    yield f"made      {status.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(survey.at - status.created_at)} ago"
    yield f"holds     {status.databases} databases and {status.objects} objects: it restores {_restores(status)}"
    yield f"own       {size(status.bytes)}, such as its manifest; the rest is shared with other points at the site"
    yield f"drill     {_drill(status, survey.at) if status.proof else 'never drilled'}"
    for doubt in status.doubts:
        yield f"in doubt  {doubt}"
    for reason in status.reasons:
        yield f"kept      {reason}: {_MEANS[reason]}"
    if status.hold:
        yield f"held      {hold_line(status.hold)}"
    if not status.reasons:
        yield "kept      no: no rule keeps it; the next prune deletes it"


def hold_line(hold: Hold) -> str:
    since = f"{hold.since:%Y-%m-%d %H:%M} UTC" if hold.since else "unknown time"
    return f"by {hold.who} since {since}: {hold.why}"


def prune_lines(done: Pruned) -> Iterator[str]:
    """Yield the result of a prune, or its plan."""
    verb = "would be deleted" if done.dry_run else "deleted"
    for point in done.deleted:
        yield f"{verb}: {point}"
    for point in done.leftovers:
        yield f"{verb}: {point} (left by an interrupted backup or prune)"
    for point, until in done.retained.items():
        yield f"retained: {point}, locked until {datetime.fromisoformat(until):%Y-%m-%d %H:%M} UTC"
    for point in done.held:
        yield f"skipped: {point} got a hold meanwhile"
    yield from _hidden_lines(done.hidden)
    if done.cleared:
        cleared = done.cleared
        yield f"purged: {cleared.sealed} sealed objects, {cleared.old} old versions ({size(cleared.bytes)})"
    gone = len(done.deleted) + len(done.leftovers)
    yield f"site '{done.site}': {gone} {verb} ({size(done.bytes)}), {done.kept} restore points kept"
