"""A few values far from all others do not widen a range, and no other value is left out of it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.sampling.ranges import Range, proposed


def around(low: float, high: float, cells: int = 4000, digits: int | None = None) -> list[float]:
    draw = random.Random(3)  # noqa: S311 - test data
    return [round(draw.triangular(low, high), digits) for _ in range(cells)]


def of(*numbers: float) -> Range:
    found = proposed(Counter(numbers))
    assert found is not None
    return found


def test_years_that_nobody_builds_in_are_left_out() -> None:
    found = of(*around(1900, 2022), *[0] * 4, *[2202] * 4, 9999)
    assert found == Range(1880, 2040, 4009, outside=9, far=10000)


def test_one_value_for_unknown_is_left_out_below_positive_numbers_only() -> None:
    surfaces = around(14, 240, digits=1)
    assert of(*surfaces, *[-1] * 12) == Range(0, 240, 4012, outside=12, far=-1)
    rentals = around(0, 3)
    assert of(*rentals, -1).low == -1, "nothing tells it from a count"
    frost = around(0.5, 30, digits=1)
    assert of(*frost, -0.5, -0.5).low == -0.5, "the lowest degrees are as far from each other"


def test_a_few_negative_amounts_are_told_and_stay() -> None:
    amounts = around(0, 30000)
    found = of(*amounts, -14100, -120, -35)
    assert (found.low, found.outside, found.negative) == (-15000, 0, 3)
    assert of(*around(-900, 900)).negative == 0, "negative numbers are nothing rare there"


def test_rare_large_amounts_widen_the_range() -> None:
    fees = [float(5 * (n % 20 + 1)) for n in range(4000)]
    assert of(*fees, *[500.0] * 8).high == 500, "large as seen from 100, not as seen from 5"
    assert of(*fees, *[99999.0] * 8) == Range(0, 100, 4008, outside=8, far=100000)


def test_more_than_a_few_widen_the_range() -> None:
    assert of(*around(1900, 2022), *[9999] * 40).high == 10000


@pytest.mark.parametrize("seed", range(5))
def test_of_a_long_tail_at_most_the_last_cell_is_left_out(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - test data
    assert of(*(round(draw.lognormvariate(3, 1.5), 2) for _ in range(3000))).outside <= 1


NUMBERS = st.lists(st.one_of(st.integers(-1000, 10000), st.floats(-1e6, 1e6).map(lambda n: round(n, 2))), min_size=1)


@given(NUMBERS, st.integers(1, 40))
def test_nearly_all_cells_lie_within(numbers: list[float], times: int) -> None:
    counted = Counter(numbers * times)
    found = proposed(counted)
    assert found is not None and found.low <= found.high
    outside = sum(count for number, count in counted.items() if not found.low <= number <= found.high)
    assert found.outside == outside <= max(2, 2 * (counted.total() // 200))
    assert found.cells == counted.total() and (found.low >= 0 or min(numbers) < 0)
    if len(counted) < 10 or counted.total() < 20:
        assert outside == 0


@given(st.integers(1, 10**12), st.integers(10, 400))
def test_a_range_holds_the_numbers_that_are_not_far_however_alike_they_are(first: int, spread: int) -> None:
    found = of(*(first + number % spread for number in range(2 * spread)), 10**15 - 1)
    assert found.low <= first and first + spread - 1 <= found.high


def test_a_limit_that_is_the_largest_number_says_so() -> None:
    assert [found.reached for found in (of(0, 1, 2, 3, 4), of(0, 1, 103), of(0))] == [True, False, False]
