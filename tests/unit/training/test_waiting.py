"""The time that jobs waited for a pool, from the records of their placements."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.waiting import LAST, Waiting, waiting_times

SECONDS = st.floats(0, 1e6, allow_nan=False)
PLACEMENTS = st.lists(st.tuples(st.sampled_from(["gpu-a", "gpu-b", "gpu-c"]), SECONDS), max_size=90)


def record(pool: Any, waited: Any = None) -> dict[str, Any]:
    return {"job_id": "j", "ran": {"pool": pool} | ({} if waited is None else {"waited": waited})}


@given(PLACEMENTS)
def test_of_each_pool_the_median_of_its_last_twenty(placed: list[tuple[str, float]]) -> None:
    found = waiting_times(record(*job) for job in placed)
    assert found.keys() == {pool for pool, _ in placed}
    for pool, waiting in found.items():
        last = [seconds for name, seconds in placed if name == pool][:LAST]
        assert waiting == Waiting(statistics.median(last), len(last))
        assert min(last) <= waiting.seconds <= max(last) and waiting.jobs <= LAST


@given(PLACEMENTS, st.sampled_from(["gpu-a", "gpu-b", "gpu-c"]))
def test_another_pools_jobs_change_nothing(placed: list[tuple[str, float]], pool: str) -> None:
    alone = waiting_times(record(*job) for job in placed if job[0] == pool)
    assert alone.get(pool) == waiting_times(record(*job) for job in placed).get(pool)


@pytest.mark.parametrize("waited", [None, "40", True, -1, float("nan"), float("inf"), [1]])
def test_what_is_no_waiting_time_does_not_count(waited: Any) -> None:
    assert waiting_times([record("gpu-a", waited)]) == {}
    assert waiting_times([record("gpu-a", waited), record("gpu-a", 7)]) == {"gpu-a": Waiting(7.0, 1)}


@pytest.mark.parametrize("body", [{}, {"ran": None}, {"ran": "x"}, record(None, 3)])
def test_a_record_of_no_pool_does_not_count(body: dict[str, Any]) -> None:
    assert waiting_times([body]) == {}


@pytest.mark.parametrize(
    ("seconds", "jobs", "text"),
    [
        (2400, 20, "about 40 min by the last 20 jobs"),
        (12.4, 1, "about 12 s by the last job"),
        (9000, 2, "about 2.5 h by the last 2 jobs"),
    ],
)
def test_it_is_told_in_words(seconds: float, jobs: int, text: str) -> None:
    assert Waiting(seconds, jobs).text() == text
