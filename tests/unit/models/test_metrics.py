"""Metrics and naive baselines, compared with values computed by hand."""

import datetime
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.models.metrics import baselines, naive_predictions, score, target_values

PRICE = Feature("price", "number")


def test_regression_scores():
    found = score("regression", np.array([1.0, 2.0]), np.array([2.0, 5.0]))
    assert found == {"mae": 2.0, "rmse": pytest.approx(math.sqrt(5))}


def test_classification_scores():
    found = score("classification", np.array([0.0, 1.0]), np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert found["log_loss"] == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_one_prediction_that_is_no_finite_number_leaves_no_metric(figure):
    for place in ((0, 0), (0, 1)):  # of the true class, and of another
        predicted = np.array([[0.5, 0.5], [0.25, 0.75]])
        predicted[place] = figure
        found = score("classification", np.array([0.0, 1.0]), predicted)
        assert not [name for name, value in found.items() if math.isfinite(value)]
    found = score("regression", np.array([1.0, 2.0]), np.array([1.0, figure]))
    assert not [name for name, value in found.items() if math.isfinite(value)]


def test_the_baseline_is_the_groups_mean_and_the_overall_mean_where_the_group_is_new():
    day = datetime.date
    train = pa.table(
        {
            "price": [10.0, 20.0, 60.0],
            "room": ["a", "a", "b"],
            "on": [day(2026, 1, 1), day(2026, 1, 9), day(2026, 2, 1)],
        }
    )
    holdout = pa.table({"price": [15.0, 40.0], "room": ["a", "c"], "on": [day(2027, 1, 5), day(2027, 3, 1)]})
    naive = naive_predictions("regression", PRICE, ["room", "on.month"], train, holdout)
    found = baselines(target_values(PRICE, holdout), naive, partial(score, "regression"))
    assert found["mae"] == pytest.approx((0 + abs(40 - 30)) / 2)
    assert found["overall_mae"] == pytest.approx((15 + 10) / 2)


def test_the_baseline_of_a_classification_never_gives_a_class_no_chance():
    target = Feature("season", "category", ("cheap", "dear"))
    train = pa.table({"season": ["cheap", "cheap"], "room": ["a", "a"]})
    holdout = pa.table({"season": ["dear"], "room": ["a"]})
    grouped, overall = naive_predictions("classification", target, ["room"], train, holdout)
    assert grouped.tolist() == overall.tolist() == [[3 / 4, 1 / 4]]


@pytest.mark.parametrize("values", [[1.0, None], [1.0, math.nan]])
def test_rows_without_a_target_are_counted_not_dropped(values):
    with pytest.raises(TrainingError, match="no usable value of the target 'price' in 1 row"):
        target_values(PRICE, pa.table({"price": values}))


def test_a_boolean_target_is_read_as_false_and_true():
    target = Feature("came", "category", ("false", "true"))
    assert target_values(target, pa.table({"came": [True, False]})).tolist() == [1.0, 0.0]
