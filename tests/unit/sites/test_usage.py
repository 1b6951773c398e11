"""The totals of a bucket: compared with a plain count for any history, and a million keys in constant memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.sites.port import ObjectInfo
from rempart.sites.usage import Lock, Usage, lapsing, measure

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HISTORIES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=6),
    st.lists(st.tuples(st.booleans(), st.integers(0, 10**12), st.integers(0, 10**6)), min_size=1, max_size=6),
    max_size=12,
)
"""Of each key its versions, the newest first: whether it is a marker, its size, its age in seconds."""


def listing(histories: dict[str, list[tuple[bool, int, int]]]) -> Iterator[ObjectInfo]:
    for key, versions in sorted(histories.items()):
        for number, (marker, size, age) in enumerate(versions):
            modified = NOW - timedelta(seconds=age)
            yield ObjectInfo(key, 0 if marker else size, modified, f"{key}-{number}", marker=marker)


@given(HISTORIES)
def test_it_is_what_a_plain_count_says(histories: dict[str, list[tuple[bool, int, int]]]) -> None:
    current = [versions[0][1] for versions in histories.values() if not versions[0][0]]
    bodies = [size for versions in histories.values() for marker, size, _ in versions if not marker]
    markers = sum(marker for versions in histories.values() for marker, _, _ in versions)
    found, _ = measure(listing(histories))
    old = len(bodies) - len(current)
    assert found == Usage(len(current), sum(current), old, sum(bodies) - sum(current), markers)


@given(HISTORIES, st.integers(1, 8), st.integers(0, 10**6))
def test_the_bodies_to_ask_about_are_the_oldest_that_should_be_locked(
    histories: dict[str, list[tuple[bool, int, int]]], most: int, retention: int
) -> None:
    after = NOW - timedelta(seconds=retention)
    _, found = measure(listing(histories), after=after, most=most)
    wanted = sorted(
        version.modified for version in listing(histories) if not version.marker and version.modified > after
    )
    assert [body.modified for body in found] == wanted[:most]


def test_a_million_keys_are_not_held() -> None:
    page = [ObjectInfo(f"key/{n}", 3, NOW - timedelta(seconds=n), "1") for n in range(1000)]
    tracemalloc.start()
    try:
        found, oldest = measure((object_info for _ in range(1000) for object_info in page), most=500)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert (found.objects, found.bytes, len(oldest)) == (1_000_000, 3_000_000, 500)


def test_a_lock_that_is_not_there_lapses_first() -> None:
    late, soon = Lock("late", NOW + timedelta(days=9)), Lock("soon", NOW + timedelta(days=2))
    none, over = Lock("none", None), Lock("over", NOW - timedelta(days=1))
    assert lapsing([late, soon, none, over], NOW + timedelta(days=7)) == (none, over, soon)
