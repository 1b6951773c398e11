"""The width of an interval: what it must be by definition, and that it covers what it says on exchangeable rows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rempart.errors import TrainingError
from rempart.models.intervals import conformal
from rempart.models.intervals.figures import covered

COVERAGES = st.floats(0.5, 0.95)
NUMBERS = arrays.arrays(np.float64, st.integers(40, 90), elements=st.floats(-1e6, 1e6))


@given(NUMBERS, COVERAGES, st.integers(0, 99))
def test_the_width_is_the_error_whose_rank_is_that_of_one_row_more(truth, coverage, seed):
    """As split conformal prediction defines it: the ceil((n + 1) coverage)-th smallest error."""
    predicted = truth + np.random.default_rng(seed).normal(0, 1, len(truth))
    width = conformal.measure(truth, predicted, coverage, scaled=False)
    errors = np.sort(np.abs(truth - predicted))
    assert width.factor in errors and width.floor is None and width.rows == len(truth)
    rank = int(np.searchsorted(errors, width.factor, side="right"))
    assert rank >= (len(truth) + 1) * coverage - 1e-6
    assert np.searchsorted(errors, width.factor, side="left") < (len(truth) + 1) * coverage + 1e-6


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_rows_of_the_same_kind_lie_in_their_intervals_as_often_as_asked(coverage, scaled):
    """Over many draws the mean lies within four standard deviations of what the theorem says, between these bounds."""
    found, rows, draws = [], 99, 300
    for seed in range(draws):
        random = np.random.default_rng(seed)
        predicted = random.lognormal(4, 0.6, rows + 1000)
        truth = predicted * (1 + random.normal(0, 0.2, len(predicted)))
        width = conformal.measure(truth[:rows], predicted[:rows], coverage, scaled=scaled)
        reach = width.factor * (np.maximum(predicted, width.floor) if width.floor else 1.0)
        found.append(covered(truth[rows:], (predicted - reach)[rows:], (predicted + reach)[rows:])["coverage"])
    tolerance = 4 * math.sqrt(coverage * (1 - coverage) * (1 / (rows + 2) + 1 / 1000) / draws)
    assert coverage - tolerance <= np.mean(found) <= coverage + 1 / (rows + 1) + tolerance


def test_a_scaled_width_is_even_over_amounts_where_errors_grow_with_them():
    random = np.random.default_rng(1)
    predicted = random.uniform(10, 1000, 4000)
    truth = predicted * (1 + random.normal(0, 0.1, 4000))
    small, large = predicted < 200, predicted > 800

    def shares(scaled):
        width = conformal.measure(truth, predicted, 0.9, scaled=scaled)
        reach = width.factor * (np.maximum(predicted, width.floor) if width.floor else np.ones(4000))
        return [
            covered(truth[some], (predicted - reach)[some], (predicted + reach)[some])["coverage"]
            for some in (small, large)
        ]

    assert shares(False)[0] > 0.99 and shares(False)[1] < 0.8
    assert all(0.87 < share < 0.93 for share in shares(True))


@given(st.floats(0.5, 0.99))
def test_the_fewest_rows_that_tell_are_named(coverage):
    fewest = next(rows for rows in range(1, 200) if math.ceil(round((rows + 1) * coverage, 9)) <= rows)
    conformal.check_rows(fewest, coverage)
    with pytest.raises(TrainingError, match=rf"has {fewest - 1} rows, and {fewest} are the fewest"):
        conformal.check_rows(fewest - 1, coverage)


def test_a_prediction_that_is_no_number_has_no_width():
    with pytest.raises(TrainingError, match="not a number"):
        conformal.measure(np.zeros(50), np.full(50, np.nan), 0.9, scaled=False)


def test_predictions_of_nothing_but_zero_have_a_scaled_width():
    width = conformal.measure(np.arange(50.0), np.zeros(50), 0.9, scaled=True)
    assert (width.floor, width.factor) == (1.0, 45.0)


def test_an_end_that_is_no_number_covers_nothing():
    nan = math.nan
    found = covered(np.array([1.0, 1.0]), np.array([nan, 1.0]), np.array([nan, 1.0]))
    assert found["coverage"] == 0.5 and math.isnan(found["width"])
