"""How old an online value is, and what counts as a difference between the two stores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.features.freshness import records
from rempart.features.freshness.comparison import EntitySet, ViewRow, compare, same_row, same_value
from rempart.features.freshness.judgement import CLOCKS_DIFFER, ViewContent, judge

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - made aware
spans = st.timedeltas(timedelta(), timedelta(days=5000))
contents = st.builds(ViewContent, st.just("v"), st.integers(0, 10), st.none() | moments, st.none() | moments)


@given(st.none() | contents, st.none() | spans, moments, st.booleans())
def test_only_a_known_age_within_a_limit_is_fresh(
    content: ViewContent | None, limit: timedelta | None, now: datetime, known: bool
) -> None:
    judged = judge(content, limit, now, known=known)
    assert judged.limit == limit
    assert (judged.state == "unknown" and judged.age is None) or known
    if judged.state == "fresh":
        assert content is not None and limit is not None and judged.age is not None
        assert timedelta() <= judged.age <= limit
        assert None not in (content.newest, content.loaded_at)
    if judged.state == "stale":
        assert limit is not None and judged.age is not None and judged.age > limit
    if judged.state == "never loaded":
        assert content is None or content.loaded_at is None
    assert (judged.age is None) == (judged.state in ("unknown", "never loaded"))


@given(contents, spans, moments, spans)
def test_an_age_grows_by_the_time_that_passes_and_what_is_stale_stays_so(
    content: ViewContent, limit: timedelta, now: datetime, later: timedelta
) -> None:
    before, after = judge(content, limit, now), judge(content, limit, now + later)
    if before.state == "stale":
        assert after.state == "stale"
    if before.age and after.age:
        assert after.age - before.age == later


@pytest.mark.parametrize(
    ("newest", "loaded_at", "state", "age"),
    [
        (NOW - 3 * HOUR, NOW - HOUR, "stale", 3 * HOUR),
        (NOW - HOUR, NOW - HOUR, "fresh", HOUR),
        (NOW + 99 * HOUR, NOW - 3 * HOUR, "stale", 3 * HOUR),
        (None, NOW - HOUR, "unknown", None),
        (NOW, None, "never loaded", None),
        (NOW, NOW + CLOCKS_DIFFER, "fresh", timedelta()),
        (NOW, NOW + CLOCKS_DIFFER + timedelta(seconds=1), "unknown", None),
    ],
    ids=["old", "new", "planned events are as old as their load", "no entity", "not loaded", "clocks", "clock of 2027"],
)
def test_an_age_counts_from_the_newest_event_and_never_from_after_the_load(
    newest: datetime | None, loaded_at: datetime | None, state: str, age: timedelta | None
) -> None:
    judged = judge(ViewContent("v", 1, newest, loaded_at), 2 * HOUR, NOW)
    assert (judged.state, judged.age) == (state, age)


@given(contents)
def test_a_record_gives_back_what_was_measured(content: ViewContent) -> None:
    body = {"views": records.contents([content])}
    assert records.content_of("v", body) == content
    assert records.content_of("w", body) is None


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | moments
rows = st.builds(ViewRow, st.fixed_dictionaries({"a": values, "b": values}), moments)
sides = st.dictionaries(st.integers(0, 9) | st.text(max_size=2), rows)


def everything(side: dict[Any, ViewRow]) -> EntitySet:
    return EntitySet(len(side), sum(hash(entity) for entity in side))


@given(sides)
def test_two_equal_sides_differ_in_nothing(side: dict[Any, ViewRow]) -> None:
    found = compare("v", side, dict(side), everything(side), everything(side))
    assert (found.entities, found.compared) == (0, len(side))


@given(sides, sides)
def test_every_difference_is_counted_once(offline: dict[Any, ViewRow], online: dict[Any, ViewRow]) -> None:
    found = compare("v", offline, online, everything(offline), everything(online))
    differing = {e for e in offline.keys() & online.keys() if not same_row(offline[e], online[e])}
    wrong = differing | (offline.keys() ^ online.keys())
    assert (found.differing, found.missing + found.extra) == (len(differing), len(offline.keys() ^ online.keys()))
    assert found.entities == len(wrong)


def test_other_entities_outside_of_the_sample_are_a_difference() -> None:
    both = {1: ViewRow({"a": 1}, NOW)}
    assert compare("v", both, both, EntitySet(3, 7), EntitySet(5, 9)).entities == 2
    assert compare("v", both, both, EntitySet(3, 7), EntitySet(3, 8)).entities == 1


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (float("nan"), float("nan"), True),
        (float("nan"), None, False),
        (float("nan"), 0.0, False),
        (None, None, True),
        (None, "", False),
        (None, False, False),
        (1, 1.0, False),
        (1, True, False),
        ("1", 1, False),
        (0.1 + 0.2, 0.3, False),
        (NOW, datetime.fromisoformat("2026-03-01T13:00:00+01:00"), True),
    ],
)
def test_values_are_compared_with_their_types(left: object, right: object, same: bool) -> None:
    assert same_value(left, right) is same is same_value(right, left)


def test_no_text_of_a_row_shows_a_value() -> None:
    assert "marie" not in repr(ViewRow({"name": "marie"}, NOW))
