"""The linear trainer: what it learns, and that its ONNX model predicts the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.models import onnx_format
from rempart.models.encoding import encode, features_of
from rempart.models.metrics import score
from rempart.training.trainers import constraints, linear, trainers
from tests.unit.training import stage

TABLE = stage.table()
INPUTS = encode(features_of(stage.pipeline()), TABLE)
PRICE = TABLE["price"].to_numpy()
SEASON = np.digitize(PRICE, [90, 130]).astype(float)


def predictions(trained, task="regression", classes=0):
    return onnx_format.run(onnx_format.open_session(trained.body), INPUTS[400:], task, classes)


def test_it_learns_a_price_that_is_a_sum():
    trained = trainers.train("linear", INPUTS[:400], PRICE[:400], {"alpha": 0.1}, 0, "regression", INPUTS[400:], 0)
    assert score("regression", PRICE[400:], predictions(trained))["mae"] < 3.2  # the noise has 2.4
    assert trained.largest_difference < 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_of_classes_are_those_of_scikit_learn(classes):
    from sklearn.linear_model import LogisticRegression

    from rempart.training.trainers.network.conversion import scaling, standardised

    target = np.minimum(SEASON, classes - 1)
    trained = trainers.train(
        "linear", INPUTS[:400], target[:400], {"C": 0.5}, 0, "classification", INPUTS[400:], classes
    )
    statistics = scaling(INPUTS[:400], target[:400], "classification")
    theirs = LogisticRegression(C=0.5, max_iter=1000).fit(standardised(INPUTS[:400], statistics), target[:400])
    wanted = theirs.predict_proba(standardised(INPUTS[400:], statistics))
    np.testing.assert_allclose(predictions(trained, "classification", classes), wanted, atol=1e-3)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), missing=st.floats(0, 0.9), spread=st.sampled_from([1e-6, 1.0, 1e6]))
def test_as_onnx_it_predicts_the_same_with_nulls_and_numbers_of_any_size(seed, missing, spread):
    random = np.random.default_rng(seed)
    inputs = random.normal(0, spread, (200, 3)).astype(np.float32)
    inputs[random.random(inputs.shape) < missing] = np.nan
    target = np.nan_to_num(inputs[:, 0]) + random.normal(0, spread, 200)
    assert trainers.train("linear", inputs, target, {}, 0, "regression", inputs, 0).largest_difference < 1e-4 * spread


@pytest.mark.parametrize(
    ("params", "task", "message"),
    [
        ({"alpha": 0}, "regression", "'alpha' must be from 1e-06"),
        ({"C": 1.0}, "regression", "no parameter 'C' for a regression"),
        ({"max_iter": 10.0}, "classification", "'max_iter' must be a whole number"),
        ({"class_weight": "heavy"}, "classification", "class_weight must be 'balanced'"),
        ({"class_weight": "1, -2"}, "classification", "class_weight must be 'balanced'"),
        ({"class_weight": 3}, "classification", "'class_weight' must be a text"),
    ],
)
def test_a_wrong_parameter_is_named(params, task, message):
    with pytest.raises(TrainingError, match=message):
        trainers.check("linear", params, task)


def test_a_fit_that_does_not_converge_is_an_error_and_no_model():
    with pytest.raises(TrainingError, match="did not converge in 1 iterations"):
        linear.fit(INPUTS, SEASON, {"max_iter": 1}, 0, "classification", 3)


def test_an_infinite_feature_is_named_as_such():
    inputs = INPUTS.copy()
    inputs[3, 0] = np.inf
    with pytest.raises(TrainingError, match="a feature is infinite"):
        linear.fit(inputs, SEASON, {}, 0, "classification", 3)


def test_class_weights_are_for_each_class_and_balanced_ones_give_each_the_same_sum():
    assert constraints.row_weights({}, SEASON, 3) is None
    weights = constraints.row_weights({"class_weight": "balanced"}, SEASON, 3)
    sums = [weights[position == SEASON].sum() for position in range(3)]
    np.testing.assert_allclose(sums, [len(SEASON) / 3] * 3)
    np.testing.assert_array_equal(constraints.row_weights({"class_weight": "1,2, 5"}, [2.0, 0.0], 3), [5, 1])
    with pytest.raises(TrainingError, match="and the target has 3"):
        constraints.row_weights({"class_weight": "1,2"}, SEASON, 3)


def test_a_heavier_class_is_predicted_more_often():
    light, heavy = (
        trainers.train("linear", INPUTS, SEASON, {"class_weight": weights}, 0, "classification", INPUTS, 3)
        for weights in ("1,1,1", "1,1,50")
    )
    first, second = (predictions(each, "classification", 3).argmax(axis=1) for each in (light, heavy))
    assert (second == 2).sum() > (first == 2).sum()
