"""Alerts over several rounds: their recipients and repetitions, also when a recipient is unreachable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.watch.alarm import after, due
from rempart.backup.watch.heartbeat_check import HeartbeatVerdict

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
REMIND = timedelta(hours=4)
KINDS = ("backup", "drill")
rounds = st.lists(
    st.tuples(
        st.timedeltas(timedelta(minutes=1), timedelta(hours=3)),
        st.tuples(st.booleans(), st.booleans()),
        st.booleans(),
    ),
    max_size=40,
)


def verdicts(*greens: bool) -> list[HeartbeatVerdict]:
    return [HeartbeatVerdict(kind, "fresh" if ok else "late", "d") for kind, ok in zip(KINDS, greens, strict=True)]


@given(rounds)
def test_a_recipient_always_knows_what_is_red_and_is_not_told_twice(
    steps: list[tuple[timedelta, tuple[bool, bool], bool]],
) -> None:
    told: dict[str, datetime] = {}
    knows: dict[str, datetime] = {}  # red, as he was told, and when
    now = NOW
    for passed, greens, reachable in steps:
        now += passed
        found = verdicts(*greens)
        news = due(told, found, now, REMIND)
        for change in news:
            last = knows.get(change.verdict.kind)
            assert {"red": last is None, "green again": last is not None}.get(change.what, True)
            if change.what == "still red":
                assert last and now - last >= REMIND
        if not reachable:
            continue
        told = after(told, news, found, now)
        for change in news:
            if change.what == "green again":
                del knows[change.verdict.kind]
            else:
                knows[change.verdict.kind] = now
        assert set(knows) == {alarm.kind for alarm in found if not alarm.ok}
        assert all(now - at < REMIND for at in knows.values())
        assert due(told, found, now, REMIND) == ()


def test_red_once_again_after_four_hours_and_green_once() -> None:
    told: dict[str, datetime] = {}
    heard = []
    for minutes, green in [(0, True), (5, False), (10, False), (244, False), (245, False), (250, True), (255, True)]:
        now, found = NOW + timedelta(minutes=minutes), verdicts(green, True)
        news = due(told, found, now, REMIND)
        told = after(told, news, found, now)
        heard += [(minutes, change.what) for change in news]
    assert heard == [(5, "red"), (245, "still red"), (250, "green again")]


def test_a_clock_that_is_set_back_does_not_silence_a_reminder() -> None:
    (news,) = due({"backup": NOW}, verdicts(False, True), NOW - timedelta(days=300), REMIND)
    assert news.what == "still red"


def test_what_is_watched_no_more_is_forgotten() -> None:
    assert after({"replication/a-b": NOW}, (), verdicts(True, True), NOW) == {}
