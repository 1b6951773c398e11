"""Metrics and naive baselines, compared with values computed by hand."""

import datetime
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.models.metrics import baselines, group_keys, naive_predictions, score, target_values

PRICE = Feature("price", "number")
SEASON = Feature("season", "category", ("-3.7", "0.1", "1e+15", "7", "never"))


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


def by_each_row(task, target, by, train, holdout):
    """The naive predictions, from one object for each row."""
    learnt = target_values(target, train)
    rows = learnt[:, None] if task == "regression" else np.eye(len(target.values))[learnt.astype(int)]
    extra = 0.0 if task == "regression" else 1.0
    sums, counts = {}, {}
    for key, row in zip(group_keys(train, by), rows, strict=True):
        sums[key] = sums.get(key, extra * np.ones(rows.shape[1])) + row
        counts[key] = counts.get(key, extra * rows.shape[1]) + 1
    overall = (rows.sum(axis=0) + extra) / (len(rows) + extra * rows.shape[1])
    made = [sums[key] / counts[key] if key in sums else overall for key in group_keys(holdout, by)]
    return np.array(made).reshape(-1, rows.shape[1]), np.tile(overall, (holdout.num_rows, 1))


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.1, -3.7, 1e15, 7.0]),
        st.sampled_from(["a", "b", None]),
        st.sampled_from([datetime.date(2026, 1, 9), datetime.date(2025, 1, 1), datetime.date(2026, 2, 1), None]),
        st.sampled_from([0.0, -0.0, 1.5, math.nan, None]),
    ),
    min_size=1,
    max_size=12,
)


@given(
    train=ROWS,
    holdout=ROWS,
    by=st.lists(st.sampled_from(["room", "on.month", "x"]), max_size=3, unique=True),
    coded=st.booleans(),
)
def test_the_baseline_is_that_of_each_row_to_the_last_bit(train, holdout, by, coded):
    kinds = {"y": pa.float64(), "room": pa.string(), "on": pa.date32(), "x": pa.float64()}

    def table(rows):
        columns = zip(*rows, strict=True)
        return pa.table({name: pa.array(each, of) for (name, of), each in zip(kinds.items(), columns, strict=True)})

    tables = table(train), table(holdout)
    if coded:
        tables = tuple(each.set_column(1, "room", each["room"].dictionary_encode()) for each in tables)
    for task, target in (("regression", Feature("y", "number")), ("classification", SEASON)):
        if task == "classification":
            tables = tuple(each.append_column("season", each["y"].cast(pa.string())) for each in tables)
        found, wanted = naive_predictions(task, target, by, *tables), by_each_row(task, target, by, *tables)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.reshape(theirs.shape).tolist() == theirs.tolist()


@pytest.mark.parametrize("values", [[1.0, None], [1.0, math.nan]])
def test_rows_without_a_target_are_counted_not_dropped(values):
    with pytest.raises(TrainingError, match="no usable value of the target 'price' in 1 row"):
        target_values(PRICE, pa.table({"price": values}))


def test_a_boolean_target_is_read_as_false_and_true():
    target = Feature("came", "category", ("false", "true"))
    assert target_values(target, pa.table({"came": [True, False]})).tolist() == [1.0, 0.0]
