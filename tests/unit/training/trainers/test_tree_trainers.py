"""Trees by LightGBM and XGBoost: ONNX equals native, categories, directions, weights, and the same model again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.models import onnx_format
from rempart.models.encoding import Feature, encode, features_of
from rempart.models.metrics import score
from rempart.training.trainers import trainers, tree_conversion
from tests.unit.training import stage

TABLE = stage.table()
FEATURES = features_of(stage.pipeline())
INPUTS = encode(FEATURES, TABLE)
PRICE = TABLE["price"].to_numpy()
SEASON = np.digitize(PRICE, [90, 130]).astype(float)
SMALL = {
    "lightgbm": {"num_iterations": 30, "min_data_in_leaf": 3, "min_data_per_group": 2, "cat_smooth": 0.0},
    "xgboost": {"num_boost_round": 30},
}
each = pytest.mark.parametrize("use", list(SMALL))


def fitted(use, params=None, task="regression", target=PRICE, classes=0, inputs=INPUTS, features=FEATURES):
    """A native model, and a function that predicts by ONNX."""
    model = trainers.fitted(use, inputs, target, SMALL[use] | (params or {}), 1, task, classes, None, features=features)
    session = onnx_format.open_session(model.to_onnx())
    return model, lambda rows: onnx_format.run(session, rows, task, classes)


@each
def test_it_learns_the_rule_and_gives_the_same_bytes_again(use):
    first, again = (
        trainers.train(use, INPUTS[:400], PRICE[:400], {}, 1, "regression", INPUTS[400:], 0, features=FEATURES)
        for _ in range(2)
    )
    predicted = onnx_format.run(onnx_format.open_session(first.body), INPUTS[400:], "regression", 0)
    assert score("regression", PRICE[400:], predicted)["mae"] < 6
    assert first.body == again.body and first.largest_difference < 1e-3


@each
@pytest.mark.parametrize("loss", [{"loss": "absolute_error"}, {"loss": "quantile", "quantile": 0.9}])
def test_it_learns_other_losses(use, loss):
    model, onnx = fitted(use, loss)
    predicted = onnx(INPUTS)
    np.testing.assert_allclose(predicted, model.predict(INPUTS), rtol=1e-5)
    assert 0.8 < np.mean(predicted >= PRICE) < 0.98 if "quantile" in loss else np.mean(abs(predicted - PRICE)) < 8


@each
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classification_gives_the_same_probabilities(use, classes):
    target = np.minimum(SEASON, classes - 1)
    model, onnx = fitted(use, {}, "classification", target, classes)
    predicted = onnx(INPUTS)
    np.testing.assert_allclose(predicted, model.predict(INPUTS), atol=1e-5)
    assert score("classification", target, predicted)["accuracy"] > 0.85


def neighbours(values):
    """Each float32 value, the one before it and the one after it: rows exactly at a threshold, and next to it."""
    values = np.asarray(values, np.float32)
    return np.concatenate([values, np.nextafter(values, np.float32(-np.inf)), np.nextafter(values, np.float32(np.inf))])


def test_a_threshold_is_rounded_to_the_float32_that_parts_the_same_values():
    below, above = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    told = np.array([1 + 0.75 * (float(above) - 1), float(above), 1e300, -1e300])
    most = np.finfo(np.float32).max
    np.testing.assert_array_equal(tree_conversion.rounded_down(told), [below, above, most, -np.inf])


@each
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.floats(0, 0.9), spread=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]))
def test_every_row_takes_the_same_branches(use, seed, missing, spread):
    """Few float32 numbers in training, some next to each other; then their neighbours, zeros, infinities and nulls."""
    random = np.random.default_rng(seed)
    drawn = neighbours(random.normal(0, spread, 4))
    inputs = random.choice(drawn, (300, 3))
    inputs[:, :2][random.random((300, 2)) < missing] = np.nan  # the last column has no null in training
    place = np.searchsorted(np.sort(drawn), inputs[:, 2])
    target = np.nan_to_num(inputs[:, 0] / spread) + 5 * (place % 2) + random.normal(0, 0.1, 300)
    features = [Feature(name, "number") for name in "abc"]
    model, onnx = fitted(use, target=target, inputs=inputs, features=features)
    tried = np.concatenate([neighbours(drawn), np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-38, -1e-38])])
    if use == "xgboost":  # it refuses to read an infinite number
        tried = tried[~np.isinf(tried)]
    rows = random.choice(tried, (3000, 3))
    np.testing.assert_allclose(onnx(rows), model.predict(rows), rtol=1e-4, atol=1e-5)


@each
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(2, 70), classes=st.sampled_from([0, 2, 3]))
def test_categories_take_the_same_branches(use, seed, width, classes):
    """Values that training never met, and nulls, are among the rows."""
    random = np.random.default_rng(seed)
    features = [Feature("a", "category", tuple(map(str, range(width)))), Feature("b", "number")]
    features += [Feature("c", "category", ("x", "y", "z")), Feature("d", "boolean")]

    def rows(count, least):
        codes = [random.integers(least, width, count), random.integers(-1, 3, count)]
        blocks = [
            (code[:, None] == np.arange(size)).astype(np.float32) for code, size in zip(codes, (width, 3), strict=True)
        ]
        numbers = random.choice(np.float32([-1, 0, 1, np.nan]), (count, 2))
        return np.hstack([blocks[0], numbers[:, :1], blocks[1], numbers[:, 1:]]), codes[0]

    inputs, code = rows(600, min(3, width - 1))
    effect = random.normal(0, 1, width)[code] + np.nan_to_num(inputs[:, width]) + random.normal(0, 0.1, 600)
    target = (
        np.digitize(effect, np.quantile(effect, np.arange(1, classes) / classes)).astype(float) if classes else effect
    )
    task = "classification" if classes else "regression"
    model, onnx = fitted(use, {}, task, target, classes, inputs, features)
    tried, _ = rows(2000, -1)
    np.testing.assert_allclose(onnx(tried), model.predict(tried), rtol=1e-4, atol=1e-5)


@each
def test_with_a_direction_the_prediction_never_turns(use):
    noise = np.random.default_rng(0).normal(0, 40, len(PRICE))
    names = [name for feature in FEATURES for name in feature.columns()]
    column = names.index("stay__lead")

    def falls(params, sign=1):
        _, onnx = fitted(use, params, target=sign * PRICE + noise)
        rows = np.repeat(INPUTS[:50], 100, axis=0)
        rows[:, column] = np.tile(np.arange(100), 50)
        return (sign * np.diff(onnx(rows).reshape(50, 100), axis=1)).min()

    assert falls({}) < -1 and falls({"increasing": "stay__lead"}) > -1e-4
    assert falls({}, -1) < -1 and falls({"decreasing": "stay__le*, stay__nights"}, -1) > -1e-4


@each
@pytest.mark.parametrize(
    ("params", "task", "classes", "message"),
    [
        ({"increasing": "nope*"}, "regression", 0, "increasing: 'nope\\*' matches no feature"),
        ({"decreasing": "stay__room"}, "regression", 0, "'stay__room' is a category"),
        ({"increasing": "stay__lead", "decreasing": "stay__l*"}, "regression", 0, "in increasing and in decreasing"),
        ({"increasing": "stay__lead"}, "classification", 3, "for two classes, but the target has 3"),
        ({"increasing": "stay__lead", "loss": "absolute_error"}, "regression", 0, "not hold with the loss 'abs"),
        ({"decreasing": "stay__lead", "loss": "quantile", "quantile": 0.5}, "regression", 0, "the loss 'quantile'"),
        ({"class_weight": "1,2"}, "classification", 3, "and the target has 3"),
        ({"class_weight": "balanced"}, "regression", 0, "no parameter 'class_weight' for a regression"),
        ({"learning_rate": 0}, "regression", 0, "'learning_rate' must be from"),
        ({"loss": "quantile"}, "regression", 0, "belong together"),
        ({"max_iter": 3}, "regression", 0, "no parameter 'max_iter'"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_runs(use, params, task, classes, message):
    with pytest.raises(TrainingError, match=message):
        trainers.check(use, params, task, 1, FEATURES, classes)


@each
def test_a_heavier_class_is_predicted_more_often(use):
    blurred = np.digitize(PRICE + np.random.default_rng(0).normal(0, 40, len(PRICE)), [90, 130]).astype(float)
    counts = []
    for weights in ("1,1,1", "1,1,20"):
        _, onnx = fitted(use, {"class_weight": weights}, "classification", blurred, 3)
        counts.append((onnx(INPUTS).argmax(axis=1) == 2).sum())
    assert counts[1] > counts[0]


@each
def test_a_class_without_rows_is_an_error(use):
    with pytest.raises(TrainingError, match="1 of the target's 3 declared classes"):
        fitted(use, {}, "classification", (PRICE > 100).astype(float), 3)


@each
def test_rows_of_one_value_give_that_value(use):
    _, onnx = fitted(use, target=np.full(len(PRICE), 7.5))
    np.testing.assert_allclose(onnx(INPUTS), 7.5, rtol=1e-6)


@pytest.mark.parametrize("use", [*SMALL, "linear", "gradient_boosting"])
def test_features_that_tell_nothing_give_one_value_and_no_fault_of_the_conversion(use):
    nothing, target = np.ones((60, INPUTS.shape[1]), np.float32), PRICE[:60] * 1000 / 3
    made = trainers.train(use, nothing, target, {}, 1, "regression", nothing, 0, features=FEATURES)
    predicted = onnx_format.run(onnx_format.open_session(made.body), nothing, "regression", 0)
    np.testing.assert_allclose(predicted, target.mean(), rtol=1e-6)
