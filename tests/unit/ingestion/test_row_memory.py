"""What an incremental extraction takes: no commit within the overlap is skipped, and no row is taken twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import IngestError
from rempart.ingestion.sources import row_memory
from rempart.ingestion.sources.row_memory import RowMemory, digest, microseconds, moment

NOW = microseconds(datetime(2026, 1, 1, tzinfo=UTC))
OVERLAP = timedelta(minutes=10)
SECOND = 1_000_000


def read(table: list[tuple[int | None, bytes]], memory: RowMemory, most: int | None = None) -> list[bytes]:
    """Read a table as a database does."""
    wanted = [row for row in table if row[0] is None or memory.since is None or row[0] >= memory.since]
    return list(memory.new(sorted(wanted, key=lambda row: (row[0] is None, row[0] or 0, row[1])), most))


def test_moments_are_microseconds() -> None:
    assert moment(NOW) == datetime(2026, 1, 1, tzinfo=UTC)
    assert microseconds(moment(-1)) == -1


# changes: (start in seconds, seconds until the commit), each within the overlap
changes = st.lists(st.tuples(st.integers(0, 7200), st.integers(0, 599)), max_size=40)


@given(changes=changes, runs=st.lists(st.integers(0, 8000), min_size=1, max_size=8))
def test_each_commit_within_the_overlap_is_taken_exactly_once(changes: list[tuple[int, int]], runs: list[int]) -> None:
    state, taken = {}, []
    for at in [*sorted(runs), 9000]:
        table = [(start * SECOND, b"%d" % n) for n, (start, wait) in enumerate(changes) if start + wait <= at]
        memory = RowMemory(state, OVERLAP, at * SECOND)
        taken += read(table, memory)
        state = memory.after()
    assert sorted(taken) == sorted(b"%d" % n for n in range(len(changes)))


bounded_rows = st.lists(st.tuples(st.none() | st.integers(0, 900), st.integers(0, 3)), max_size=20)


@given(
    tables=st.lists(bounded_rows, min_size=1, max_size=4),
    most=st.integers(1, 12),
    overlap=st.sampled_from([OVERLAP, timedelta(0), None]),
)
def test_bounded_runs_take_each_row_once_and_never_half_a_cursor(
    tables: list[list[tuple[int | None, int]]], most: int, overlap: timedelta | None
) -> None:
    """After each run more rows are there; those that a run finds were committed before its latest moment."""
    state, taken, rows, at = {}, [], list[tuple[int | None, bytes]](), 0
    for more in [*tables, *([] for _ in range(90))]:
        for second, repeated in more:
            micros = None if second is None else (at + second) * SECOND
            rows += [(micros, b"%d" % (len(rows) + n)) for n in range(1 + repeated)]
        at += 900  # what comes later has a higher cursor, so no overlap is needed
        memory = RowMemory(state, overlap, at * SECOND)
        found = read(rows, memory, most)
        taken += found
        if not memory.complete:
            assert sum(len(row) + 1 for row in found) >= most
            whole = {micros for micros, row in rows if row in taken and micros is not None}
            assert all(row in taken for micros, row in rows if micros in whole)
        state = memory.after()
    assert memory.complete and found == []
    assert sorted(taken) == sorted(row for _, row in rows)


@pytest.mark.parametrize("overlap", [OVERLAP, None])
def test_rows_that_a_bounded_run_did_not_reach_are_still_remembered(overlap: timedelta | None) -> None:
    first = RowMemory({}, overlap, NOW)
    read([(NOW, b"a"), (None, b"without a cursor")], first)
    late = [(NOW - n * SECOND, b"late %d" % n) for n in range(1, 3)]
    table = [(NOW, b"a"), (None, b"without a cursor"), *late]
    second = RowMemory(first.after(), overlap, NOW)
    assert read(table, second, 1) == [b"late 2"]
    third = RowMemory(second.after(), overlap, NOW)
    assert read(table, third, 1) == [b"late 1"]
    assert third.complete


@given(cursors=st.lists(st.none() | st.integers(-(10**12), 10**12), max_size=30))
def test_nothing_new_takes_nothing_and_keeps_the_state(cursors: list[int | None]) -> None:
    table = [(micros, b"%d" % n) for n, micros in enumerate(cursors)]
    for overlap in (OVERLAP, None):
        first = RowMemory({}, overlap, NOW)
        assert len(read(table, first)) == len(table)
        again = RowMemory(first.after(), overlap, NOW)
        assert read(table, again) == []
        assert again.after() == first.after()


def test_a_row_of_the_future_does_not_hide_the_rows_before_it() -> None:
    table = [(NOW, b"a"), (NOW + 10**12, b"of tomorrow")]
    first = RowMemory({}, OVERLAP, NOW)
    assert read(table, first) == [b"a", b"of tomorrow"]
    second = RowMemory(first.after(), OVERLAP, NOW + SECOND)
    assert read([*table, (NOW + SECOND, b"b")], second) == [b"b"]


def test_a_changed_row_is_taken_again() -> None:
    first = RowMemory({}, OVERLAP, NOW)
    read([(NOW, b"a")], first)
    assert read([(NOW, b"changed")], RowMemory(first.after(), OVERLAP, NOW)) == [b"changed"]


def test_only_rows_that_are_read_again_are_remembered() -> None:
    memory = RowMemory({}, OVERLAP, NOW)
    read([(NOW - n * 3600 * SECOND, b"%d" % n) for n in range(1000)], memory)
    assert len(memory.after()[row_memory.ROWS]) == 16
    assert memory.after()[row_memory.CURSOR] == str(NOW)


@pytest.mark.parametrize("overlap", [OVERLAP, None])
def test_too_many_rows_to_remember_are_an_error(monkeypatch: pytest.MonkeyPatch, overlap: timedelta | None) -> None:
    monkeypatch.setattr(row_memory, "MOST", 3)
    with pytest.raises(IngestError, match="more than 3 rows"):
        read([(NOW, b"%d" % n) for n in range(4)], RowMemory({}, overlap, NOW))


@given(st.lists(st.binary(max_size=4), max_size=50), st.binary(max_size=4))
def test_packed_digests_find_what_they_hold(rows: list[bytes], other: bytes) -> None:
    packed = row_memory.Digests(row_memory._sorted(b"".join(map(digest, rows))))
    assert len(packed) == len(rows)
    assert all(packed[packed.place(digest(row)) or 0] == digest(row) for row in rows)
    assert (packed.place(digest(other)) is not None) == (other in rows)
