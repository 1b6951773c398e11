"""The base backup and segments that reach a moment, the names of gaps, and the segments that may be deleted."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rempart.backup.pitr import recovery, wal
from rempart.backup.pitr.wal import Archive, Base, Entry, Segment
from rempart.errors import BackupError

SIZE = 16 << 20
T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ARCHIVE = Archive("platform-point_in_time-7d", "0001", "77")
MINUTE = timedelta(minutes=1)


def at(minutes: float) -> datetime:
    return T0 + minutes * MINUTE


def segment(number: int, commit: datetime | None, timeline: int = 1) -> Segment:
    name = wal.segment_name(timeline, number, SIZE)
    return Segment(timeline, number, commit, Entry(ARCHIVE, name, commit, "0" * 64))


def base(number: int, timeline: int = 1) -> Base:
    """A base that needs one segment, that of its number, and ended half a minute after that minute."""
    began = at(number)
    return Base(
        "77",
        timeline,
        number * SIZE + 40,
        number * SIZE + 300,
        began,
        began + MINUTE / 2,
        f"s{number}",
        1,
        SIZE,
        "18.6",
    )


def stream(first: int, last: int, timeline: int = 1) -> list[Segment]:
    """Segment N holds the commits of minute N, of which the last comes 50 s after its begin."""
    return [segment(number, at(number + 5 / 6), timeline) for number in range(first, last + 1)]


def held(bases, segments, course=None):
    return recovery.holdings(course or recovery.course_of(1), bases, segments)


@example({0}, {39, 40}, 2330)
@given(
    st.sets(st.integers(0, 30), min_size=1, max_size=5), st.sets(st.integers(0, 40), max_size=8), st.integers(0, 2400)
)
def test_a_route_is_whole_and_goes_just_beyond_the_moment_or_the_refusal_names_what_is_missing(bases, lost, seconds):
    until = at(seconds / 60)
    mine = held([base(first) for first in bases], [first for first in stream(0, 40) if first.number not in lost])
    try:
        found = recovery.route(mine, until)
    except BackupError as refused:
        earlier = [first for first in bases if base(first).ended <= until]
        gaps = [number for number in sorted(lost) if earlier and number >= max(earlier)]
        if gaps and set(range(gaps[0], 41)) - lost:  # segments follow it: it is a gap, and not the archive's end
            assert wal.segment_name(1, gaps[0], SIZE) in refused.what
        assert not any(span.begin <= until < span.end for span in recovery.spans(mine))
        return
    numbers = [piece.number for piece in found.segments]
    assert numbers == list(range(found.base.first, numbers[-1] + 1)) and not set(numbers) & lost
    assert found.base.ended <= until and found.base.first == max(first for first in bases if base(first).ended <= until)
    assert found.reach > until and numbers[-1] >= found.base.last
    assert all(piece.last_commit <= until for piece in found.segments[:-1] if piece.number >= found.base.last)
    assert any(span.begin <= until < span.end for span in recovery.spans(mine))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True), st.integers(0, 90), st.integers(5, 40))
def test_what_goes_is_needed_by_no_moment_of_the_window(numbers, now, keep):
    bases, segments = [base(number) for number in numbers], stream(0, now)
    kept = recovery.kept_bases(bases, keep * MINUTE, at(now))
    assert max(bases, key=lambda kept_base: kept_base.ended) in kept
    assert sum(kept_base.ended <= at(now - keep) for kept_base in kept) <= 1
    left = [piece for piece in segments if recovery.is_needed(piece, kept)]
    before, after = held(bases, segments), held(kept, left)
    for minute in range(max(0, now - keep), now):
        for until in (at(minute), at(minute + 0.6)):
            try:
                wanted = recovery.route(before, until)
            except BackupError:
                continue
            assert recovery.route(after, until) == wanted


def test_the_end_of_the_archive_is_reached_without_a_moment_and_no_moment_behind_it_is():
    mine = held([base(3)], [*stream(3, 6), segment(7, None)])
    end = recovery.route(mine, None)
    assert end.until is None and end.reach == at(6 + 5 / 6) and len(end.segments) == 5
    with pytest.raises(BackupError, match="not before the last commit") as refused:
        recovery.route(mine, end.reach)
    assert "--until latest" in refused.value.hint
    with pytest.raises(BackupError, match="there is none"):
        recovery.route(held([], stream(0, 3)), at(1))


def test_a_quiet_server_has_segments_without_a_commit_and_they_are_no_gap():
    mine = held([base(0)], [segment(0, None), segment(1, None), segment(2, at(9))])
    assert [piece.number for piece in recovery.route(mine, at(5)).segments] == [0, 1, 2]
    [span] = recovery.spans(mine)
    assert (span.begin, span.end, span.broken) == (base(0).ended, at(9), False)


def test_a_gap_divides_the_window_until_the_next_base():
    mine = held([base(0), base(1), base(6)], [piece for piece in stream(0, 9) if piece.number != 4])
    first, second = recovery.spans(mine)
    assert (first.begin, first.end, first.broken, len(first.bases)) == (base(0).ended, at(3 + 5 / 6), True, 2)
    assert first.missing == wal.segment_name(1, 4, SIZE)
    assert (second.begin, second.end, second.broken) == (base(6).ended, at(9 + 5 / 6), False)
    with pytest.raises(BackupError, match=f"{first.missing}, which is needed .* is missing"):
        recovery.route(mine, at(5))


def test_a_base_without_its_own_segments_serves_nothing():
    mine = held([base(2)], stream(3, 9))
    assert recovery.spans(mine) == ()
    with pytest.raises(BackupError, match=wal.segment_name(1, 2, SIZE)):
        recovery.route(mine, at(5))


def test_after_a_recovery_the_new_timeline_counts_and_the_old_one_can_be_asked_for():
    """Timeline 2 left timeline 1 in the middle of segment 5, when 1 had come to segment 8 already."""
    left = 5 * SIZE + 1000
    second = recovery.course_of(2, wal.read_history(f"1\t{left >> 32:X}/{left & 0xFFFFFFFF:X}\twhy\n".encode(), "x"))
    segments = [*stream(0, 8), *stream(5, 9, timeline=2)]
    mine = held([base(1)], segments, second)
    assert [piece.timeline for piece in recovery.route(mine, at(9)).segments] == [1] * 4 + [2] * 5
    old = held([base(1)], segments)
    assert {piece.timeline for piece in recovery.route(old, at(8)).segments} == {1}
    assert not second.has(base(7)) and second.has(base(4)) and second.has(base(7, timeline=2))
    lacks = held([base(1)], [piece for piece in segments if (piece.timeline, piece.number) != (2, 6)], second)
    with pytest.raises(BackupError, match=wal.segment_name(2, 6, SIZE)):
        recovery.route(lacks, at(8))


def test_a_base_is_due_on_a_new_timeline_and_when_the_last_is_old():
    day = timedelta(days=1)
    assert recovery.base_is_due([], 1, day, at(0))
    assert not recovery.base_is_due([base(0)], 1, day, at(60))
    assert recovery.base_is_due([base(0)], 2, day, at(60))
    assert recovery.base_is_due([base(0)], 1, day, at(24 * 60))
