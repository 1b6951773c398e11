"""Statistics of counts: by the definitions, and beside SciPy's, which only these tests import."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.monitoring import statistics

COUNTS = st.lists(st.integers(0, 500), min_size=1, max_size=12)


def pairs() -> st.SearchStrategy[tuple[list[int], list[int]]]:
    return st.integers(1, 12).flatmap(
        lambda size: st.tuples(*(st.lists(st.integers(0, 500), min_size=size, max_size=size) for _ in range(2)))
    )


@given(pairs())
def test_movements_are_shares_and_nothing_moves_from_itself(both: tuple[list[int], list[int]]) -> None:
    before, after = both
    ordered, unordered = statistics.ordered_movement(*both), statistics.unordered_movement(*both)
    assert 0 <= ordered <= 1 + 1e-9 and 0 <= unordered <= 1 + 1e-9
    if sum(before) and sum(after):
        assert ordered <= unordered + 1e-9
    assert statistics.ordered_movement(before, before) == 0 == statistics.unordered_movement(after, after)
    assert statistics.psi(*both) >= -1e-9 and statistics.psi(before, before) == 0
    for p in (statistics.kolmogorov_smirnov(*both), statistics.chi_square(*both)):
        assert 0 <= p <= 1


@given(st.lists(st.floats(0, 1), max_size=20))
def test_adjusted_values_are_those_of_scipy(p_values: list[float]) -> None:
    from scipy import stats

    adjusted = statistics.benjamini_hochberg(p_values)
    if p_values:
        np.testing.assert_allclose(adjusted, stats.false_discovery_control(p_values), atol=1e-12)
    assert all(mine >= given * (1 - 1e-12) for mine, given in zip(adjusted, p_values, strict=True))


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_the_kolmogorov_smirnov_test_is_near_that_of_the_values(shift: float) -> None:
    from scipy import stats

    random = np.random.default_rng(3)
    before, after = random.normal(size=5_000), random.normal(size=800) + shift
    edges = np.quantile(before, np.linspace(0, 1, 200))
    counts = [np.histogram(side, [-np.inf, *edges, np.inf])[0].tolist() for side in (before, after)]
    exact = stats.ks_2samp(before, after, method="asymp")
    assert statistics.ordered_movement(*counts) == pytest.approx(exact.statistic, abs=0.01)
    assert statistics.kolmogorov_smirnov(*counts) == pytest.approx(exact.pvalue, rel=0.9, abs=0.2)


@pytest.mark.parametrize("after", [[20, 32, 50, 8], [60, 20, 20, 10], [30, 30, 41, 9]])
def test_chi_square_is_near_scipys(after: list[int]) -> None:
    from scipy import stats

    before = [200, 310, 420, 80]
    exact = stats.chi2_contingency([before, after], correction=False).pvalue
    assert statistics.chi_square(before, after) == pytest.approx(exact, rel=0.2)


def test_sparse_bins_are_pooled() -> None:
    sparse = statistics.chi_square([5_000, 5_000, 1, 0, 1], [500, 500, 0, 1, 0])
    assert sparse > 0.5
    assert statistics.chi_square([10], [10]) == 1.0 == statistics.chi_square([0, 0], [3, 4])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([99_000, 1_000, 0], [150, 2, 48]),
        ([100_000, 0], [120, 80]),
        ([5_000, 5_000, 3, 4], [100, 100, 60, 0]),
    ],
)
def test_values_that_appear_are_not_pooled_away(before: list[int], after: list[int]) -> None:
    assert statistics.unordered_movement(before, after) > 0.2
    assert statistics.chi_square(before, after) < 1e-6


def test_rare_values_that_did_not_move_are_no_finding() -> None:
    random = np.random.default_rng(5)
    rare = np.array([0.55, 0.43, 0.01, 0.006, 0.004])
    pairs = [(random.multinomial(10_000, rare).tolist(), random.multinomial(250, rare).tolist()) for _ in range(500)]
    assert sum(statistics.chi_square(before, after) < 0.005 for before, after in pairs) <= 12
