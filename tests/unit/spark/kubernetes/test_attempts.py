"""A Spark job goes from pool to pool, has no number twice, and ends."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rempart.spark.kubernetes.attempts import (
    LOST,
    Adopt,
    Begin,
    DriverSeen,
    GiveUp,
    TriedAttempt,
    next_attempt,
)
from rempart.spark.order import ATTEMPTS

POOLS = ("a", "b", "c")
OUTCOMES = st.sampled_from(["capacity", "interrupted", "unreachable", "denied"])


@given(
    st.lists(st.sampled_from(POOLS), unique=True),
    st.lists(OUTCOMES, min_size=9, max_size=9),
    st.sets(st.integers(1, 9)),
)
def test_attempts_end_and_each_has_a_number_of_its_own(
    pools: list[str], outcomes: list[Any], recorded: set[int]
) -> None:
    tried: list[TriedAttempt] = []
    for outcome in outcomes:
        step = next_attempt(pools, [], tried, recorded)
        if isinstance(step, GiveUp):
            assert step.why
            lost = sum(attempt.outcome in LOST for attempt in tried)
            assert lost == ATTEMPTS or {attempt.pool for attempt in tried} == set(pools)
            assert (step.outcome == "denied") == (bool(tried) and all(each.outcome == "denied" for each in tried))
            return
        assert isinstance(step, Begin) and step.number not in recorded | {each.number for each in tried}
        assert not any(each.pool == step.pool and each.outcome not in LOST for each in tried)
        tried.append(TriedAttempt(step.pool, step.number, outcome, "why"))
    raise AssertionError("it never gives up")


def test_a_driver_that_runs_is_adopted_and_one_that_is_on_record_is_not() -> None:
    drivers = [DriverSeen("a", 1, False), DriverSeen("b", 2, True)]
    assert next_attempt(POOLS, drivers, []) == Adopt("b", 2)
    assert next_attempt(POOLS, drivers, [], [2]) == Begin("a", 3)
    assert next_attempt(["a"], drivers, []) == Begin("a", 3)  # pool b is not allowed any more
    assert next_attempt(POOLS, drivers, [TriedAttempt("b", 2, "interrupted", "evicted")]) == Begin("a", 3)
