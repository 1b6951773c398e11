"""Intervals in the graph are those that NumPy computes, and the predictions stay what they were."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from rempart.errors import ModelRefused, TrainingError
from rempart.models import loading, onnx_format, predictions
from rempart.models.encoding import encode, features_of
from rempart.models.intervals.conformal import Width
from rempart.models.intervals.graph import with_bounds
from rempart.models.isolated_model import IsolatedModel
from rempart.training.trainers import trainers
from tests.unit.training import stage

SOME = np.array([[1, 2], [3, 4], [-5, 1]], np.float32)


def summing(kind=TensorProto.FLOAT, flat=False, name="out") -> bytes:
    """A model that adds up its columns."""
    value, axes = helper.make_tensor_value_info, helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceSum", ["inputs", "axes"], ["sum"], keepdims=0 if flat else 1),
        helper.make_node("Cast", ["sum"], [name], to=kind),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("inputs", TensorProto.FLOAT, [None, 2])], [value(name, kind, None)], [axes]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def ends(predicted, width):
    """The ends by NumPy, in the precision of the graph."""
    amounts = predicted.astype(np.float32)
    reach = np.full(len(amounts), width.factor, np.float32)
    if width.floor is not None:
        reach = np.maximum(np.abs(amounts), np.float32(width.floor)) * np.float32(width.factor)
    return np.column_stack([amounts - reach, amounts + reach])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2), min_size=2, max_size=20),
    st.floats(0, 1e3),
    st.none() | st.floats(1e-3, 1e3),
    st.sampled_from([TensorProto.FLOAT, TensorProto.DOUBLE]),
    st.booleans(),
)
def test_the_graph_gives_the_ends_that_numpy_computes(rows, factor, floor, kind, flat):
    body, matrix = summing(kind, flat), np.array(rows, np.float32)
    width = Width(coverage=0.9, rows=50, factor=factor, floor=floor)
    before = onnx_format.run(onnx_format.open_session(body), matrix, "regression", 0)
    session = onnx_format.open_session(with_bounds(body, width, matrix))
    found = onnx_format.run(session, matrix, "regression", 0, bounds=True)
    np.testing.assert_array_equal(found[:, 0], before)
    np.testing.assert_allclose(found[:, 1:], ends(before, width), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(onnx_format.run(session, matrix, "regression", 0), before)
    assert [output.name for output in session.get_outputs()] == ["out", "lower", "upper"]


@pytest.mark.parametrize("use", ["gradient_boosting", "lightgbm", "xgboost", "linear"])
def test_a_trained_model_answers_with_named_ends_from_a_process_of_its_own(use):
    features, table = features_of(stage.pipeline()), stage.table(200)
    matrix, truth = encode(features, table), table["price"].to_numpy()
    body = trainers.train(use, matrix, truth, {}, 1, "regression", matrix, 0).body
    width = Width(coverage=0.9, rows=50, factor=0.25, floor=90.0)
    model = loading.LoadedModel(
        "m", "1", "regression", None, features, (), "", IsolatedModel(with_bounds(body, width, matrix)), coverage=0.9
    )
    plain = onnx_format.run(onnx_format.open_session(body), matrix, "regression", 0)
    answered = model.predict(table)
    assert answered.column_names == ["prediction", "prediction_lower", "prediction_upper"]
    np.testing.assert_array_equal(predictions.figures(answered), plain)
    np.testing.assert_array_equal(model.figures(matrix), plain)
    np.testing.assert_allclose(np.column_stack(predictions.ends(answered)), ends(plain, width), rtol=1e-6)
    rows = predictions.named_rows("regression", None, model.answers(matrix))
    assert rows == answered.to_pylist()
    assert model.predict(table.slice(0, 0)).column_names == answered.column_names
    model.close()


@pytest.mark.parametrize("name", ["lower", "upper", "interval_factor"])
def test_a_graph_that_uses_one_of_the_names_is_refused(name):
    with pytest.raises(TrainingError, match=f"a value named '{name}' already"):
        with_bounds(summing(name=name), Width(coverage=0.9, rows=50, factor=1.0), SOME)


def test_a_model_without_ends_answers_no_interval():
    model = IsolatedModel(summing())
    assert model.run(SOME, "regression", 0).tolist() == [3.0, 7.0, -4.0]
    with pytest.raises(ModelRefused, match="it has no output 'lower'"):
        model.run(SOME, "regression", 0, bounds=True)
    model.close()


def test_a_large_matrix_gives_the_same_through_a_file(monkeypatch):
    width = Width(coverage=0.9, rows=50, factor=2.0)
    model = IsolatedModel(with_bounds(summing(), width, SOME))
    wanted = [[3.0, 1.0, 5.0], [7.0, 5.0, 9.0], [-4.0, -6.0, -2.0]]
    assert model.run(SOME, "regression", 0, bounds=True).tolist() == wanted
    monkeypatch.setattr("rempart.models.isolated_model.INLINE", 0)
    assert model.run(SOME, "regression", 0, bounds=True).tolist() == wanted
    model.close()


def test_the_graph_stays_within_the_standard():
    proto = onnx.load_from_string(with_bounds(summing(), Width(coverage=0.9, rows=9, factor=1.0, floor=1.0), SOME))
    assert {node.op_type for node in proto.graph.node} <= onnx_format.OPERATORS
