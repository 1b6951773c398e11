"""Which base and segments bring a server to a moment, which moments an archive holds, and what of it may go. Pure.

PostgreSQL stops a recovery before the first commit that is later than the moment asked for. So a moment can be reached
where a base ended before it and the segments from there on are without a gap up to one that holds a later commit.
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
        """Where the course leaves a timeline; None for the last one. Raises ValueError for one that is no part."""
        at = [number for number, _ in self.parts].index(timeline)
        return self.parts[at + 1][1] if at + 1 < len(self.parts) else None

    def has(self, base: Base) -> bool:
        """Whether a base lies on it: its timeline is a part, and was not left before the base's end."""
        if base.timeline not in [timeline for timeline, _ in self.parts]:
            return False
        ends = self.ends(base.timeline)
        return ends is None or base.end <= ends


def course_of(timeline: int, ancestors: Sequence[tuple[int, int]] = ()) -> Course:
    """The course that ends in a timeline, by its history (`wal.read_history`)."""
    begins = [0, *(ended for _, ended in ancestors)]
    return Course(tuple(zip([*(ancestor for ancestor, _ in ancestors), timeline], begins, strict=True)))


@dataclass(frozen=True)
class Holdings:
    """What one archive holds along one course: bases in the order in which they ended, segments by number."""

    course: Course
    bases: tuple[Base, ...]
    segments: Mapping[int, Segment] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Moments that can be reached without a gap: from `begin` to `end` (the last commit), from these bases.

    `missing` is the first segment that is not there; with `broken`, later ones are: it is a gap and not the end.
    """

    begin: datetime
    end: datetime
    bases: tuple[Base, ...]
    missing: str
    broken: bool


@dataclass(frozen=True)
class Route:
    """How a moment is reached: from a base, by these segments in order. `until` None: to the end of the archive."""

    base: Base
    segments: tuple[Segment, ...]
    until: datetime | None
    reach: datetime


def holdings(course: Course, bases: Iterable[Base], segments: Iterable[Segment]) -> Holdings:
    """What of an archive lies on a course. Of a segment on several timelines the course's youngest counts."""
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
    """The segments from a base's first on, up to the first that is missing."""
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
    """The moments that can be reached, oldest first. A base whose own segments are not all there opens none."""
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
    """How to reach a moment; None: as far as the archive goes. Raises BackupError, which says what there is instead."""
    earlier = [base for base in held.bases if until is None or base.ended <= until]
    if not earlier:
        raise BackupError(
            f"{_said(until)} is before the archive's first base backup"
            + (f", which ended {_clock(held.bases[0].ended)}" if held.bases else ": there is none"),
            f"Moments that it holds: {_told(held)}. Before them there are only restore points: `rempart points list`.",
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
            f"WAL segment {_missing(held, base, after)} is missing, and {_said(until)} lies behind it (base backup of "
            f"{_clock(base.ended)})",
            f"Moments that can be reached: {_told(held)}. A copy of the segment that somebody has, or the server's own "
            "pg_wal, may be used by hand: docs/runbooks/restore-to-a-second.md.",
        )
    if until is not None:
        raise BackupError(
            f"{_said(until)} is not before the last commit that the archive holds, {_clock(reach)}",
            "Say `--until latest` for all that it holds. If the server still runs, wait: a segment is closed every "
            "backup.point_in_time.wal_every.",
        )
    return Route(base, tuple(taken), None, reach)


def _told(held: Holdings) -> str:
    return "; ".join(f"{_clock(span.begin)} to {_clock(span.end)}" for span in spans(held)) or "none"


def _said(until: datetime | None) -> str:
    return _clock(until) if until else "the end of the archive"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def base_is_due(bases: Iterable[Base], timeline: int, every: timedelta, now: datetime) -> bool:
    """Whether a base backup is to be taken: none is on the server's timeline, or the newest began too long ago."""
    return all(base.timeline != timeline or now - base.began >= every for base in bases)


def kept_bases(bases: Iterable[Base], keep: timedelta, now: datetime) -> tuple[Base, ...]:
    """The bases that moments of the window need: those in it, and the newest before it. The newest always stays."""
    ordered = sorted(bases, key=lambda base: base.ended)
    before = [base for base in ordered if base.ended <= now - keep]
    return tuple(ordered[max(0, len(before) - 1) :])


def is_needed(segment: Segment, bases: Sequence[Base]) -> bool:
    """Whether a base that is kept may need a segment. What was written before the oldest of them is not needed."""
    if not bases:
        return False
    oldest = min(bases, key=lambda base: base.first)
    if segment.number < oldest.first:
        return False
    return segment.last_commit is None or segment.last_commit >= oldest.began - SKEW
