"""Red findings of the heartbeat check, and their names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.watch.heartbeat import Heartbeat
from rempart.backup.watch.heartbeat_check import SKEW, HeartbeatVerdict, Limit, ReceivedHeartbeat, Unheard, judge, span
from rempart.backup.watch.rpo import of_heartbeats

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)

spans = st.timedeltas(timedelta(), timedelta(days=30))
limits = st.builds(Limit, spans, st.none() | spans, st.none() | spans)
heard = st.builds(
    lambda age, stored, told: ReceivedHeartbeat(Heartbeat("k", NOW - age, told), NOW - stored),
    st.timedeltas(timedelta(days=-2), timedelta(days=60)),
    st.timedeltas(timedelta(days=-2), timedelta(days=60)),
    st.fixed_dictionaries(
        {},
        optional={
            "ok": st.booleans() | st.none(),
            "consistent": st.booleans(),
            "created_at": spans.map(lambda age: str(NOW - age)) | st.text(max_size=5),
            "lag_seconds": st.floats(0, 1e12) | st.text(max_size=3),
        },
    ),
)
unheard = st.builds(Unheard, st.sampled_from(["unreadable", "missing", "forged"]), st.just("why"))


def checked(seen: ReceivedHeartbeat | Unheard, limit: Limit, now: datetime = NOW) -> HeartbeatVerdict:
    (verdict,) = judge({"k": seen}, {"k": limit}, now)
    return verdict


def beat(age: timedelta = MINUTE, stored: timedelta | None = None, **told: object) -> ReceivedHeartbeat:
    return ReceivedHeartbeat(Heartbeat("k", NOW - age, told), NOW - (age if stored is None else stored))


@given(st.dictionaries(st.text(max_size=3), heard | unheard), st.dictionaries(st.text(max_size=3), limits))
def test_each_limit_gets_one_verdict_whatever_was_heard(
    seen: dict[str, ReceivedHeartbeat | Unheard], wanted: dict[str, Limit]
) -> None:
    verdicts = judge(seen, wanted, NOW)
    assert [verdict.kind for verdict in verdicts] == list(wanted)
    for verdict in verdicts:
        assert verdict.detail
        if verdict.kind not in seen:
            assert verdict.state == "missing"


@given(heard | unheard, limits)
def test_nothing_is_green_that_is_not_known_to_be_well(seen: ReceivedHeartbeat | Unheard, limit: Limit) -> None:
    verdict = checked(seen, limit)
    if not verdict.ok:
        return
    assert isinstance(seen, ReceivedHeartbeat)
    told = seen.heartbeat
    assert -SKEW <= NOW - told.at <= limit.max_interval
    assert abs(seen.stored - told.at) <= SKEW
    assert told.facts.get("ok") is not False and told.facts.get("consistent") is not False
    if limit.rpo is not None:
        assert NOW - datetime.fromisoformat(told.facts["created_at"]) <= limit.rpo
    if limit.lag is not None:
        assert timedelta(seconds=told.facts["lag_seconds"]) <= limit.lag


@given(heard, limits, spans)
def test_silence_does_not_turn_green_by_waiting(seen: ReceivedHeartbeat, limit: Limit, more: timedelta) -> None:
    before, later = checked(seen, limit), checked(seen, limit, NOW + more)
    if not before.ok and before.state != "skew":  # what seemed to be in the future no longer is
        assert not later.ok


@given(st.timedeltas(timedelta(), timedelta(days=3)), st.timedeltas(SECOND, timedelta(days=3)))
def test_it_is_late_exactly_after_its_silence(max_interval: timedelta, more: timedelta) -> None:
    assert checked(beat(max_interval), Limit(max_interval)).ok
    assert checked(beat(max_interval + more), Limit(max_interval)).state == "late"


def test_how_late_is_told() -> None:
    verdict = checked(beat(3 * HOUR + 5 * MINUTE), Limit(HOUR))
    assert verdict.state == "late" and "late by 2 h 5 min" in verdict.detail and verdict.at == NOW - 185 * MINUTE


@given(st.timedeltas(SKEW + SECOND, timedelta(days=400)))
def test_clocks_that_differ_are_named_as_such(skew: timedelta) -> None:
    for seen in (
        beat(-skew),  # the platform's clock is ahead, and so is the site's, or this machine's is behind
        beat(timedelta(), stored=skew),  # the platform's is ahead of the site's
        beat(skew, stored=timedelta()),  # it is behind: or an old heartbeat was put back
        beat(timedelta(), stored=-skew),  # the site's is ahead
    ):
        verdict = checked(seen, Limit(timedelta(days=4000)))
        assert verdict.state == "skew" and "clock" in verdict.detail, verdict


def test_within_two_minutes_clocks_may_differ() -> None:
    assert checked(beat(-SKEW), Limit(HOUR)).ok
    assert checked(beat(timedelta(), stored=SKEW), Limit(HOUR)).ok


@pytest.mark.parametrize(
    ("told", "limit", "state", "why"),
    [
        ({"ok": False}, Limit(HOUR), "failed", "the last run failed"),
        ({"consistent": False}, Limit(HOUR), "failed", "not consistent"),
        ({"hidden": 3}, Limit(HOUR), "failed", "rempart backup repair"),
        ({"hidden": 0}, Limit(HOUR), "fresh", "ago"),
        ({"created_at": str(NOW - 2 * HOUR)}, Limit(HOUR, rpo=HOUR), "behind", "restore point is 2 h old"),
        ({"created_at": str(NOW - HOUR)}, Limit(HOUR, rpo=HOUR), "fresh", "ago"),
        ({}, Limit(HOUR, rpo=HOUR), "behind", "it lacks"),
        ({"created_at": "yesterday"}, Limit(HOUR, rpo=HOUR), "behind", "it lacks"),
        ({"lag_seconds": 901}, Limit(HOUR, lag=15 * MINUTE), "behind", "lags by 15 min 1 s"),
        ({"lag_seconds": 900}, Limit(HOUR, lag=15 * MINUTE), "fresh", "ago"),
        ({"lag_seconds": True}, Limit(HOUR, lag=15 * MINUTE), "behind", "it lacks"),
    ],
)
def test_what_a_heartbeat_tells_is_judged_too(told: dict[str, Any], limit: Limit, state: str, why: str) -> None:
    verdict = checked(beat(**told), limit)
    assert (verdict.state, why in verdict.detail) == (state, True), verdict


def test_nothing_that_is_wrong_hides_something_else() -> None:
    verdict = checked(beat(2 * HOUR, lag_seconds=4000, ok=False), Limit(HOUR, lag=HOUR))
    assert verdict.state == "failed" and "late by 1 h" in verdict.detail and "lags" in verdict.detail


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90000, "1 d 1 h"), (-5, "5 s"), (86400, "1 d")],
)
def test_a_length_of_time_is_told_in_its_two_largest_units(seconds: int, told: str) -> None:
    assert span(timedelta(seconds=seconds)) == told


def told_by(kind: str, age: timedelta, **facts: Any) -> ReceivedHeartbeat:
    return ReceivedHeartbeat(Heartbeat(kind, NOW - age, facts), NOW - age)


PAIR = "replication/a-b"
WATCHED = {"backup": Limit(HOUR, rpo=HOUR), PAIR: Limit(HOUR, lag=HOUR)}
FRESH = told_by("backup", MINUTE, created_at=str(NOW - 20 * MINUTE))


@pytest.mark.parametrize(
    ("backup", "pair", "told"),
    [
        (
            FRESH,
            told_by(PAIR, MINUTE, lag_seconds=0),
            "RPO 20 min (objective 1 h): the age of the newest consistent restore",
        ),
        (
            FRESH,
            told_by(PAIR, 10 * MINUTE, lag_seconds=3600),
            "RPO 1 h 10 min (objective 1 h), MISSED: the possible lag of the replica of a-b",
        ),
        (FRESH, Unheard("missing", "why"), "RPO unknown (objective 1 h): the lag of a-b"),
        (
            told_by("backup", MINUTE, consistent=False, created_at=str(NOW)),
            FRESH,
            "RPO unknown (objective 1 h): no consist",
        ),
    ],
)
def test_the_platforms_rpo_is_the_worse_of_point_and_lag(
    backup: ReceivedHeartbeat, pair: ReceivedHeartbeat | Unheard, told: str
) -> None:
    figure = of_heartbeats({"backup": backup, PAIR: pair}, WATCHED, NOW)
    assert figure and figure.line().startswith(told) and figure.ok == ("MISSED" not in told and "unknown" not in told)
    assert of_heartbeats({}, {"drill": Limit(HOUR)}, NOW) is None
