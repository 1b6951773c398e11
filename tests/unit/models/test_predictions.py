"""Predictions have names, and keep every figure of the model."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rempart.models import loading, onnx_format, predictions
from rempart.models.encoding import Feature, encode, features_of
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.isolated_model import IsolatedModel
from rempart.models.metrics import target_values
from rempart.training.trainers import trainers
from tests.unit.training import stage

SEASON = Feature("season", "category", ("cheap", "fair", "dear"))
FIGURES = arrays.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(width=64))


@given(FIGURES)
def test_a_classification_has_its_label_and_a_probability_for_each_class(figures):
    table = predictions.named("classification", SEASON, figures)
    assert table.column_names == ["prediction", "probability_cheap", "probability_fair", "probability_dear"]
    assert table.column_names == list(predictions.columns("classification", SEASON))
    np.testing.assert_array_equal(predictions.figures(table), figures)
    for label, row in zip(table["prediction"].to_pylist(), figures, strict=True):
        assert label == (SEASON.values[row.argmax()] if np.isfinite(row).all() else None)


@given(
    st.lists(st.floats(0, 1) | st.sampled_from([math.nan, math.inf]), max_size=6),
    st.integers(0, 1),
    st.floats(-0.1, 1.1),
)
def test_of_two_classes_the_operating_point_chooses_the_label(chances, positive, threshold):
    late, point = Feature("late", "category", ("no", "yes")), OperatingPoint(positive=positive, threshold=threshold)
    figures = np.array([[1 - chance, chance] for chance in chances]).reshape(-1, 2)
    table = predictions.named("classification", late, figures, point)
    for label, row in zip(table["prediction"].to_pylist(), figures, strict=True):
        wanted = late.values[positive if row[positive] >= threshold else 1 - positive]
        assert label == (wanted if np.isfinite(row).all() else None)
    labels = [row["prediction"] for row in predictions.named_rows("classification", late, figures, point)]
    assert labels == table["prediction"].to_pylist()


@given(arrays.arrays(np.float64, st.integers(0, 5), elements=st.floats(width=64)))
def test_a_regression_has_one_column(figures):
    table = predictions.named("regression", None, figures)
    assert table.column_names == ["prediction"] == list(predictions.columns("regression", None))
    np.testing.assert_array_equal(predictions.figures(table), figures)


def test_a_trained_model_predicts_in_batches_what_its_graph_gives_for_all_rows(monkeypatch):
    """This is what the gate and a restore's proof computed by themselves."""
    features, table = features_of(stage.pipeline()), stage.table(100)
    matrix, truth, task = encode(features, table), target_values(SEASON, table), "classification"
    body = trainers.train("gradient_boosting", matrix, truth, {"max_iter": 3}, 1, task, matrix, 3).body
    wanted = onnx_format.run(onnx_format.open_session(body), matrix, task, 3)
    model = loading.LoadedModel("m", "1", task, SEASON, features, (), "", IsolatedModel(body))
    np.testing.assert_array_equal(predictions.figures(model.predict(table)), wanted)
    monkeypatch.setattr(loading, "_BATCH", 30 * 4 * matrix.shape[1])
    # the runtime's softmax rounds the last bit by the number of rows
    np.testing.assert_allclose(predictions.figures(model.predict(table)), wanted, rtol=1e-6)
    assert model.predict(table.slice(0, 0)).num_rows == 0
