"""Age of rows, features and labels: what a schedule lets expect, what always came late, and what nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.monitoring import freshness, verdict
from rempart.monitoring.freshness import DataAge, Expected, NewestTimes
from rempart.monitoring.verdict import Window
from rempart.settings.champions.monitoring import Lateness

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DAILY = Expected(DAY)


def judged(age: timedelta, expected: Expected = DAILY, **rules: str) -> dict[str, DataAge]:
    found = freshness.judge(NewestTimes(NOW - age, NOW, NOW), expected, Lateness.model_validate(rules), NOW)
    return {each.what: each for each in found}


def test_two_missed_ingestions_are_late_and_one_is_not() -> None:
    assert judged(1.9 * DAY)["rows"].state == "fresh"
    late = judged(2.1 * DAY)
    assert [late[what].state for what in ("rows", "features", "labels")] == ["late", "fresh", "fresh"]
    assert late["rows"].limit == 2 * DAY


def test_data_that_was_late_at_the_training_or_pauses_at_weekends_is_on_time() -> None:
    assert judged(31 * DAY, Expected(DAY, rows=30 * DAY))["rows"].state == "fresh"
    assert judged(33 * DAY, Expected(DAY, rows=30 * DAY))["rows"].state == "late"
    assert judged(3.5 * DAY, Expected(DAY, pause=4 * DAY))["rows"].state == "fresh"
    assert judged(timedelta(hours=20), Expected(timedelta(minutes=5)))["rows"].state == "fresh"  # a day at least


def test_a_limit_of_the_file_counts_and_without_schedule_or_limit_nothing_is_late() -> None:
    by_hand = Expected(None)
    assert judged(900 * DAY, by_hand)["rows"].state == "no limit"
    assert not [*freshness.told(tuple(judged(900 * DAY, by_hand).values()))]
    assert judged(2 * DAY, by_hand, rows="1d")["rows"].state == "late"
    assert judged(2.1 * DAY, Expected(DAY, rows=30 * DAY), rows="1d")["rows"].state == "late"


@pytest.mark.parametrize("at", [None, NOW + timedelta(hours=1)])
def test_an_age_that_nobody_knows_is_never_fresh(at: datetime | None) -> None:
    found = freshness.judge(NewestTimes(at, at, at), DAILY, Lateness(), NOW)
    assert [(each.state, each.age) for each in found] == [("unknown", None)] * 3
    assert [*freshness.told(found)][2] == "the age of the newest label is not known"


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(0, 10**7))
def test_an_age_is_fresh_up_to_its_limit(age: int, interval: int, before: int) -> None:
    expected = Expected(timedelta(seconds=interval), rows=timedelta(seconds=before))
    found = judged(timedelta(seconds=age), expected)["rows"]
    assert found.limit is not None and found.limit >= DAY + expected.rows
    assert (found.state == "fresh") == (timedelta(seconds=age) <= found.limit)


def test_the_longest_time_between_ingestions_counts() -> None:
    assert freshness.interval("0 4 * * *", NOW) == DAY
    assert freshness.interval("0 4 * * 1-5", NOW) == 3 * DAY
    assert freshness.interval(None, NOW) is None


@pytest.mark.parametrize("day", range(7))
def test_a_weekend_without_an_ingestion_counts_whenever_it_is_looked_at(day: int) -> None:
    at = NOW + day * DAY
    assert freshness.interval("0 * * * 1-5", at) == timedelta(days=2, hours=1)
    assert freshness.interval("*/5 8-18 * * 1-5", at) == timedelta(days=2, hours=13, minutes=5)


def test_the_longest_pause_is_that_of_the_last_year() -> None:
    days = [0, 400, 401, 404, 405, 600]
    moments = np.array([np.datetime64("2024-01-01", "us") + np.timedelta64(day, "D") for day in days])
    assert freshness.pause(moments[::-1]) == 195 * DAY
    assert freshness.pause(moments[:-1]) == 3 * DAY
    assert freshness.pause(moments[:1]) == freshness.pause(moments[:0]) == timedelta()


def test_late_data_is_unknown_and_not_red() -> None:
    ages = tuple(judged(9 * DAY).values())
    found = verdict.conclude("3", Window("snapshot", "s1", None, None, 10), (), None, 30, ages)
    assert found.outcome == "unknown"
    assert found.reasons[1] == "late: the newest row is 9.0 days old, 2.0 days are expected at most"
    assert found.body()["freshness"][0] == {"what": "rows", "age": 777600.0, "limit": 172800.0, "state": "late"}
