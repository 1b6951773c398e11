"""Champion and challenger on the same rows: the paired difference, its interval, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from rempart.models import metrics
from rempart.monitoring import performance, standings
from rempart.monitoring.standings import PairedComparison

RANDOM = np.random.default_rng(3)
HARD = RANDOM.exponential(20, 1_000)
"""Losses of rows: some are hard for every model."""


def compared(champion: np.ndarray, challenger: np.ndarray, metric: str = "mae") -> PairedComparison:  # type: ignore[type-arg]
    return standings.compare("4", "refused", metric, champion, challenger, 200)


def test_a_small_difference_on_hard_rows_is_found_because_it_is_paired() -> None:
    found = compared(HARD, HARD * 0.97)
    assert found.better == "challenger" and found.low is not None and found.high is not None
    assert found.low < found.difference < found.high < 0  # type: ignore[operator]
    assert found.champion == pytest.approx(HARD.mean()) and found.difference == pytest.approx(-0.03 * HARD.mean())
    assert compared(HARD * 0.97, HARD).better == "champion"
    other = RANDOM.permutation(HARD) * 0.97  # the same difference of means, on rows that are hard for one of both
    assert compared(HARD, other).better == "neither"


@pytest.mark.parametrize(("metric", "task"), [("mae", "regression"), ("rmse", "regression"), ("accuracy", "c")])
def test_values_and_difference_are_those_of_the_gates_metric(metric: str, task: str) -> None:
    if task == "regression":
        truth = RANDOM.normal(size=900)
        made = [truth + RANDOM.normal(size=900) * size for size in (1.0, 2.0)]
    else:
        truth = RANDOM.integers(0, 3, 900).astype(float)
        made = [np.eye(3)[truth.astype(int)] * share + RANDOM.dirichlet([1, 1, 1], 900) for share in (2.0, 0.1)]
    scores = [metrics.score(task, truth, each)[metric] for each in made]
    first, second = (performance.losses(metric, truth, each) for each in made)
    found = compared(first, second, metric)
    assert (found.champion, found.challenger) == (pytest.approx(scores[0]), pytest.approx(scores[1]))
    assert found.difference == pytest.approx(scores[1] - scores[0]) and found.better == "champion"


@pytest.mark.parametrize("metric", ["mae", "rmse", "accuracy"])
def test_the_interval_has_the_true_difference_about_nineteen_times_in_twenty(metric: str) -> None:
    random, inside, runs = np.random.default_rng(5), 0, 400
    for _ in range(runs):
        if metric == "accuracy":
            hard = random.random(400) < 0.3
            first, second, true = hard * 1.0, (hard & (random.random(400) < 0.8)) * 1.0, 0.06
        else:
            first, second = random.normal(0, 3, 400), random.normal(0, 2, 400)
            first, second = (np.abs(each) if metric == "mae" else each**2 for each in (first, second))
            true = -np.sqrt(2 / np.pi) if metric == "mae" else -1.0
        found = standings.compare("4", "shadow", metric, first, second, 200)
        inside += found.low <= true <= found.high  # type: ignore[operator]
    assert 0.91 * runs < inside < 0.99 * runs


def test_equal_models_few_rows_and_predictions_that_are_no_number() -> None:
    same = compared(HARD, HARD)
    assert (same.difference, same.better) == (0.0, "neither")
    few = compared(HARD[:50], HARD[:50])
    assert few.challenger is None and few.why.startswith("50 rows with a known target are of neither's training")
    broken = HARD.copy()
    broken[3] = np.nan
    assert compared(HARD, broken).why == "a prediction is not a number" and compared(broken, HARD).better is None
    perfect = np.zeros(300)
    assert compared(perfect, perfect, "rmse").better == "neither"
