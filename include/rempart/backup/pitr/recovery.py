"""Compute which base backup and segments reach a moment, which moments are recoverable, and what may be deleted. Pure.

PostgreSQL stops a recovery before the first commit later than the requested moment. So a moment is reachable if a base
backup ended before it, and the segments from there have no gap up to one with a later commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rempart.backup.pitr.wal import Base, Segment, segment_name
from rempart.errors import BackupError

SKEW = timedelta(minutes=15)
"""The clocks of server and archive may differ by this; see `backup.points.retention`."""


@dataclass(frozen=True)
class Course:
    """A timeline with its ancestors, oldest first: each with the position at which it begins."""

    parts: tuple[tuple[int, int], ...]

    @property
    def timeline(self) -> int:
        return self.parts[-1][0]

    def ends(self, timeline: int) -> int | None:
        """Return where the course leaves a timeline; None for the last timeline.

        Raises ValueError for a foreign timeline.
        """
        at = [number for number, _ in self.parts].index(timeline)
        return self.parts[at + 1][1] if at + 1 < len(self.parts) else None

    def has(self, base: Base) -> bool:
        """Return whether a base backup lies on the course: on one of its timelines, before the course left it."""
        if base.timeline not in [timeline for timeline, _ in self.parts]:
            return False
        ends = self.ends(base.timeline)
        return ends is None or base.end <= ends


def course_of(timeline: int, ancestors: Sequence[tuple[int, int]] = ()) -> Course:
    """Return the course that ends in a timeline, from its history (`wal.read_history`)."""
    begins = [0, *(ended for _, ended in ancestors)]
    return Course(tuple(zip([*(ancestor for ancestor, _ in ancestors), timeline], begins, strict=True)))


@dataclass(frozen=True)
class Holdings:
    """An archive's content along one course: base backups by their end, segments by number."""

    course: Course
    bases: tuple[Base, ...]
    segments: Mapping[int, Segment] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Recoverable moments without a gap: from `begin` to `end` (the last commit), with these base backups.

    `missing` is the first missing segment. With `broken`, later segments exist, so it is a gap and not the end.
    """

    begin: datetime
    end: datetime
    bases: tuple[Base, ...]
    missing: str
    broken: bool


@dataclass(frozen=True)
class Route:
    """The route to a moment: a base backup and these segments in order. `until` None: to the end of the archive."""

    base: Base
    segments: tuple[Segment, ...]
    until: datetime | None
    reach: datetime


def holdings(course: Course, bases: Iterable[Base], segments: Iterable[Segment]) -> Holdings:
    """Return an archive's content along a course. Of a segment on several timelines, the youngest timeline's counts."""
    ours = sorted((base for base in bases if course.has(base)), key=lambda base: base.ended)
    if not ours:
        return Holdings(course, ())
    size, chosen = ours[0].segment_bytes, dict[int, Segment]()
    first = {timeline: begins // size for timeline, begins in course.parts}
    last = {timeline: course.ends(timeline) for timeline, _ in course.parts}
    for segment in segments:
        if segment.timeline not in first or segment.number < first[segment.timeline]:
            continue
        ends = last[segment.timeline]
        if ends is not None and segment.number > ends // size:
            continue
        before = chosen.get(segment.number)
        if before is None or before.timeline < segment.timeline:
            chosen[segment.number] = segment
    return Holdings(course, tuple(ours), chosen)


def _run(held: Holdings, base: Base) -> Iterator[Segment]:
    """Return the segments from a base backup's first up to the first gap."""
    number = base.first
    while number in held.segments:
        yield held.segments[number]
        number += 1


def _missing(held: Holdings, base: Base, number: int) -> str:
    timeline = max(
        number_of_timeline for number_of_timeline, begins in held.course.parts if begins // base.segment_bytes <= number
    )
    return segment_name(timeline, number, base.segment_bytes)


def spans(held: Holdings) -> tuple[Span, ...]:
    """Return the recoverable spans, oldest first. A base backup that lacks one of its own segments starts none."""
    found: list[Span] = []
    for base in held.bases:
        run = list(_run(held, base))
        after = base.first + len(run)
        if after <= base.last:
            continue
        end = max([base.ended, *(segment.last_commit for segment in run if segment.last_commit)])
        missing, broken = _missing(held, base, after), any(number > after for number in held.segments)
        if found and found[-1].missing == missing:
            found[-1] = Span(found[-1].begin, end, (*found[-1].bases, base), missing, broken)
        else:
            found.append(Span(base.ended, end, (base,), missing, broken))
    return tuple(found)


def route(held: Holdings, until: datetime | None) -> Route:
    """Return the route to a moment (None: the end). Raises BackupError with the recoverable moments."""
    earlier = [base for base in held.bases if until is None or base.ended <= until]
    if not earlier:
        raise BackupError(
            f"recover to {_limit(until)}: this is before the archive's first base backup"
            + (f", which ended {_clock(held.bases[0].ended)}" if held.bases else ", and there is none"),
            f"Recoverable moments: {_told(held)}. Earlier moments exist only as restore points: `rempart backup list`.",
        )
    base = earlier[-1]
    taken: list[Segment] = []
    reach = base.ended
    for segment in _run(held, base):
        taken.append(segment)
        reach = max(reach, segment.last_commit or reach)
        if until is not None and reach > until and segment.number >= base.last:
            return Route(base, tuple(taken), until, reach)
    after = base.first + len(taken)
    if after <= base.last or any(number > after for number in held.segments):
        raise BackupError(
            f"recover to {_limit(until)}: WAL segment {_missing(held, base, after)}, which is needed after the "
            f"base backup of {_clock(base.ended)}, is missing",
            f"Choose a recoverable moment: {_told(held)}. To use another copy of the segment, or the server's own "
            "pg_wal, see docs/runbooks/restore-to-a-second.md.",
        )
    if until is not None:
        raise BackupError(
            f"recover to {_limit(until)}: this is not before the last commit in the archive, {_clock(reach)}",
            "Pass `--until latest` for the whole archive. If the server still runs, wait: a segment is closed "
            "every backup.point_in_time.wal_every.",
        )
    return Route(base, tuple(taken), None, reach)


def _told(held: Holdings) -> str:
    return "; ".join(f"{_clock(span.begin)} to {_clock(span.end)}" for span in spans(held)) or "none"


def _limit(until: datetime | None) -> str:
    return _clock(until) if until else "the end of the archive"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def base_is_due(bases: Iterable[Base], timeline: int, every: timedelta, now: datetime) -> bool:
    """Return whether a base backup is due: the timeline has none, or the newest is too old."""
    return all(base.timeline != timeline or now - base.began >= every for base in bases)


def continues_at(bases: Iterable[Base], segments: Iterable[Segment]) -> int | None:
    """Return the number of the segment that continues an archive without a gap; None for an empty archive.

    A base backup needs its own segments, also if none has arrived yet. An archive that has a gap after its newest base
    backup continues at the gap; segments of a timeline that the server left fill none.
    """
    newest = max(bases, key=lambda base: base.ended, default=None)
    numbers = {segment.number for segment in segments if newest is None or segment.timeline == newest.timeline}
    if newest is None:
        return max(numbers) + 1 if numbers else None
    number = newest.first
    while number in numbers:
        number += 1
    return number


def kept_bases(bases: Iterable[Base], keep: timedelta, now: datetime) -> tuple[Base, ...]:
    """Return the base backups that the window needs: those in it and the newest before it. The newest always stays."""
    ordered = sorted(bases, key=lambda base: base.ended)
    before = [base for base in ordered if base.ended <= now - keep]
    return tuple(ordered[max(0, len(before) - 1) :])


def is_needed(segment: Segment, bases: Sequence[Base]) -> bool:
    """Return whether a kept base backup may need a segment. WAL before the oldest base backup is not needed."""
    if not bases:
        return False
    oldest = min(bases, key=lambda base: base.first)
    if segment.number < oldest.first:
        return False
    return segment.last_commit is None or segment.last_commit >= oldest.began - SKEW
