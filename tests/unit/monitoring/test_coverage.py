"""An alarm on intervals: rare while the promise is kept, sure if far fewer values are covered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.monitoring import coverage
from rempart.monitoring.columns import LEVEL
from rempart.settings.champions.monitoring import Monitoring

RULES = Monitoring()


def inside(rows: int, covered: int) -> coverage.Booleans:
    return np.arange(rows) < covered


@given(rows=st.integers(1, 60), chance=st.floats(0.01, 0.5), hits=st.integers(0, 60))
def test_the_bound_is_never_below_the_chance(rows: int, chance: float, hits: int) -> None:
    hits = min(hits, rows)
    exact = sum(math.comb(rows, k) * chance**k * (1 - chance) ** (rows - k) for k in range(hits, rows + 1))
    assert coverage.binomial_tail(hits / rows, chance, rows) >= exact * (1 - 1e-9)


@given(st.integers(30, 100_000), st.floats(0.3, 0.995), st.floats(0, 1), st.floats(1, 5))
def test_no_alarm_within_the_margin_and_a_wholly_wrong_model_alarms(
    rows: int, promised: float, share: float, outside: float
) -> None:
    rules = Monitoring(least_rows=30, outside=outside)
    covered = math.ceil(rows * (1 - coverage.most_outside(promised, rules)) + 1e-6)
    assert not coverage.judge(promised, inside(rows, min(rows, covered + int(share * rows))), rules).short
    none = coverage.judge(promised, inside(rows, 0), rules)
    assert none.short == (none.p < LEVEL) and none.covered == 0.0


@pytest.mark.parametrize(
    ("rows", "covered", "short"),
    [
        (1000, 838, False),  # as on the hold-out of the demo: less than promised, and within the margin
        (1000, 700, True),
        (200, 150, True),
        (200, 161, False),  # beyond chance, and within the margin
    ],
)
def test_intervals_of_90_percent(rows: int, covered: int, short: bool) -> None:
    found = coverage.judge(0.9, inside(rows, covered), RULES)
    assert found.short == short and found.covered == pytest.approx(covered / rows)
    assert found.body()["covered"] == covered / rows
    if short:
        assert found.told() == f"intervals cover {covered / rows:.1%} of {rows:,} known true values, and promise 90.0%"


def test_few_rows_are_no_coverage() -> None:
    found = coverage.judge(0.9, inside(199, 0), RULES)
    assert (found.covered, found.short, found.rows) == (None, False, 199)


def test_while_the_promise_is_kept_no_window_alarms() -> None:
    chance = np.random.default_rng(5)
    windows = [coverage.judge(0.9, chance.random(200) < 0.9, RULES) for _ in range(2_000)]
    assert not any(found.short for found in windows)
