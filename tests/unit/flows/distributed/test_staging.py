"""Small deliveries share a task, and no delivery is read by two tasks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.distributed.staging import groups


@given(st.lists(st.integers(0, 200 << 20), max_size=80), st.integers(1, 16))
def test_each_delivery_is_in_one_task_in_order(sizes: list[int], slots: int) -> None:
    found = groups(sizes, slots)
    assert [position for group in found for position in group] == [*range(len(sizes))]
    for group in found:
        assert len(group) == 1 or sum(sizes[position] for position in group) <= 16 << 20


def test_small_deliveries_give_work_to_all_executors_and_large_ones_stay_alone() -> None:
    assert groups([1000] * 62, 2) == [tuple(range(31)), tuple(range(31, 62))]
    assert groups([1 << 30, 10, 10, 1 << 30], 2) == [(0,), (1, 2), (3,)]
    assert groups([], 2) == []
    assert groups([0, 0], 4) == [(0, 1)]
