"""Judge whether rows, features and labels still arrive. Pure.

An age is compared with a limit of the pipeline file. Without one, the limit is what the schedule lets expect: how old
the newest row already was when the champion was trained, and then twice the time between two ingestions, or the longest
pause between two rows of the training data's last year. So data that always comes late, or only on working days, is on
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from rempart.settings.champions.monitoring import Lateness

What = Literal["rows", "features", "labels"]
State = Literal["fresh", "late", "no limit", "unknown"]
"""State of an age. Without a limit it is not judged; an age that is not known is never fresh."""
LEAST = timedelta(days=1)
"""The shortest derived limit."""
LOOK_AHEAD, EVERY = timedelta(days=35), timedelta(hours=12)
"""How far the longest time between two starts of a schedule is looked for, and in which steps."""
YEAR = timedelta(days=365)
CLOCKS_DIFFER = timedelta(minutes=2)
"""A time that is further in the future than this is of another clock: the age is then unknown."""


@dataclass(frozen=True)
class NewestTimes:
    """Moment of the newest row (UTC), time of the load of the features, and when the newest label became known.

    None: there is none by now.
    """

    rows: datetime | None
    features: datetime | None
    labels: datetime | None


@dataclass(frozen=True)
class Expected:
    """What lets expect the next data.

    `interval`: longest time between two ingestions by the schedule; None without one. `pause`: longest pause between
    two rows of the training data. `rows`, `labels`: ages of the newest row and label when the champion was trained.
    """

    interval: timedelta | None
    pause: timedelta = timedelta()
    rows: timedelta = timedelta()
    labels: timedelta = timedelta()


@dataclass(frozen=True)
class DataAge:
    """An age, its limit, and whether it is late. None: the age is not known, or there is no limit."""

    what: What
    age: timedelta | None
    limit: timedelta | None
    state: State

    def body(self) -> dict[str, Any]:
        """Return its part of a record; times in seconds."""
        return {"what": self.what, "age": _seconds(self.age), "limit": _seconds(self.limit), "state": self.state}


def judge(newest: NewestTimes, expected: Expected, rules: Lateness, now: datetime) -> tuple[DataAge, ...]:
    """Return the age of rows, features and labels at `now` (UTC), in this order."""
    usual = max(LEAST, 2 * expected.interval, expected.pause) if expected.interval else None
    given: tuple[tuple[What, datetime | None, timedelta | None, timedelta], ...] = (
        ("rows", newest.rows, rules.rows, expected.rows),
        ("features", newest.features, rules.features, timedelta()),
        ("labels", newest.labels, rules.labels, expected.labels),
    )
    return tuple(
        _judged(what, at, limit if limit is not None else usual and usual + before, now)
        for what, at, limit, before in given
    )


def _judged(what: What, at: datetime | None, limit: timedelta | None, now: datetime) -> DataAge:
    if at is None or at - now > CLOCKS_DIFFER:
        return DataAge(what, None, limit, "unknown")
    age = max(now - at, timedelta())
    return DataAge(what, age, limit, "no limit" if limit is None else "fresh" if age <= limit else "late")


def interval(cron: str | None, now: datetime) -> timedelta | None:
    """Return the longest time between two starts of a schedule; None without a schedule.

    It is that of the next eight, and of the nights, weekends and parts of a month without a start until LOOK_AHEAD.
    """
    if cron is None:
        return None
    from croniter import croniter

    now = now.astimezone(UTC)
    times = croniter(cron, now)
    starts: list[datetime] = [times.get_next(datetime) for _ in range(9)]
    found = max(later - earlier for earlier, later in pairwise(starts))
    for step in range(LOOK_AHEAD // EVERY):  # a shorter time than LEAST does not count, so nothing is missed
        start: datetime = croniter(cron, now + step * EVERY).get_prev(datetime)
        following: datetime = croniter(cron, start).get_next(datetime)
        found = max(found, following - start)
    return found


def pause(moments: Any) -> timedelta:
    """Return the longest pause between two of some moments, of the year before the newest.

    `moments`: array of datetime64[us], in any order.
    """
    import numpy as np

    ordered = np.sort(moments)
    ordered = ordered[ordered >= ordered[-1] - np.timedelta64(YEAR)] if len(ordered) else ordered
    if len(ordered) < 2:
        return timedelta()
    longest: timedelta = np.diff(ordered).max().astype("timedelta64[us]").astype(timedelta)
    return longest


def told(ages: Sequence[DataAge]) -> Iterator[str]:
    """Yield a sentence for each age that is late or not known."""
    names = {"rows": "the newest row", "features": "the load of the features", "labels": "the newest label"}
    for each in ages:
        if each.state == "late" and each.age is not None and each.limit is not None:
            yield f"late: {names[each.what]} is {_length(each.age)} old, {_length(each.limit)} are expected at most"
        elif each.state == "unknown":
            yield f"the age of {names[each.what]} is not known"


def _length(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} hours"


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else length.total_seconds()
