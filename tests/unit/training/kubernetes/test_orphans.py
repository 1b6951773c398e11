"""Orphans: a pod is deleted only if it is known that no task waits for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.kubernetes.orphans import AWAITED, YOUNG, JobFacts, PodSeen, judge
from rempart.training.placement import Attempt

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
OPEN, ENDED = Attempt(1, "a", NOON), Attempt(1, "a", NOON, "capacity", NOON)


def pod(age: timedelta = timedelta(hours=1), terminating: bool = False) -> PodSeen:
    return PodSeen("a", "train-x-1", "u", "x", 1, NOON - age, terminating)


@pytest.mark.parametrize(
    ("known", "orphan", "why"),
    [
        (JobFacts(None), True, "not recorded"),
        (JobFacts(ENDED, "deferred"), True, "ended: capacity"),
        (JobFacts(OPEN, "failed"), True, "its task is failed"),
        (JobFacts(OPEN, None), True, "its task is gone"),
        (JobFacts(OPEN, "deferred"), False, "its task is deferred"),
        (JobFacts(unknown="the site did not answer"), False, "not checked"),
    ],
)
def test_what_an_orphan_is(known: JobFacts, orphan: bool, why: str) -> None:
    found = judge(pod(), known, NOON)
    assert (found.orphan, why in found.why) == (orphan, True)


@given(
    st.timedeltas(timedelta(0), timedelta(days=9)),
    st.booleans(),
    st.sampled_from([None, OPEN, ENDED]),
    st.sampled_from([None, "failed", "success", *sorted(AWAITED)]),
    st.none() | st.just("no answer"),
)
def test_nothing_unknown_young_or_awaited_is_deleted(
    age: timedelta, terminating: bool, attempt: Attempt | None, state: str | None, unknown: str | None
) -> None:
    found = judge(pod(age, terminating), JobFacts(attempt, state, unknown), NOON)
    if found.orphan:
        assert age >= YOUNG and not terminating and unknown is None
        assert not (attempt is OPEN and state in AWAITED)
