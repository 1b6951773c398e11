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
from rempart.models.intervals import conformal
from rempart.models.intervals.conformal import Width
from rempart.models.intervals.figures import covered
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
    slack = 1e-6 * (np.abs(before).max() + 2 * factor * max(1.0, np.abs(before).max() if floor else 1.0, floor or 0))
    np.testing.assert_allclose(found[:, 1:], ends(before, width), rtol=1e-6, atol=slack)
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
    np.testing.assert_allclose(np.column_stack(predictions.ends(answered)), ends(plain, width), rtol=2e-6)
    rows = predictions.named_rows("regression", None, model.answers(matrix))
    assert rows == answered.to_pylist()
    assert model.predict(table.slice(0, 0)).column_names == answered.column_names
    model.close()


@pytest.mark.parametrize("name", ["lower", "upper", "interval_factor"])
def test_a_graph_that_uses_one_of_the_names_is_refused(name):
    with pytest.raises(TrainingError, match=f"a value named '{name}' already"):
        with_bounds(summing(name=name), Width(coverage=0.9, rows=50, factor=1.0), SOME)


def test_a_graph_of_old_operators_is_refused_with_the_reason():
    proto = onnx.load_from_string(summing())
    proto.graph.node[0].CopyFrom(helper.make_node("MatMul", ["inputs", "axes"], ["sum"]))
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("axes", TensorProto.FLOAT, [2, 1], [1, 1]))
    proto.opset_import[0].version = 7
    with pytest.raises(TrainingError, match="those of ONNX opset 7, and 8 is the oldest"):
        with_bounds(proto.SerializeToString(), Width(coverage=0.9, rows=50, factor=1.0, floor=1.0), SOME)


def test_one_infinite_prediction_hides_no_difference_of_the_others(monkeypatch):
    given = np.array([[3e38, 3e38], [1, 2], [3, 4]], np.float32)
    run, calls = onnx_format.run, []

    def other(*args, **kwargs):
        calls.append(found := run(*args, **kwargs))
        return found + 1 if len(calls) == 2 else found

    monkeypatch.setattr(onnx_format, "run", other)
    with pytest.raises(TrainingError, match="it predicts otherwise with them"):
        with_bounds(summing(), Width(coverage=0.9, rows=50, factor=1.0), given)


def test_a_model_without_ends_answers_no_interval():
    model = IsolatedModel(summing())
    assert model.run(SOME, "regression", 0).tolist() == [3.0, 7.0, -4.0]
    with pytest.raises(ModelRefused, match="it has no output 'lower'"):
        model.run(SOME, "regression", 0, bounds=True)
    model.close()


def test_a_large_matrix_gives_the_same_through_a_file(monkeypatch):
    width = Width(coverage=0.9, rows=50, factor=2.0)
    model = IsolatedModel(with_bounds(summing(), width, SOME))
    through_pipe = model.run(SOME, "regression", 0, bounds=True)
    np.testing.assert_allclose(through_pipe, [[3.0, 1.0, 5.0], [7.0, 5.0, 9.0], [-4.0, -6.0, -2.0]], rtol=1e-5)
    monkeypatch.setattr("rempart.models.isolated_model.INLINE", 0)
    np.testing.assert_array_equal(model.run(SOME, "regression", 0, bounds=True), through_pipe)
    model.close()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("amount", [0.1, 79.9, -79.9, 1e9 + 0.3])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-7])
def test_rounding_moves_no_true_value_out_of_its_interval(amount, noise, scaled):
    """A model that is right up to rounding covers at least the rows of which its width was measured."""
    truth = amount * (1 + noise * np.random.default_rng(3).normal(size=200))
    matrix = np.zeros((200, 2), np.float32)
    matrix[:, 0] = amount
    width = conformal.measure(truth, matrix[:, 0].astype(np.float64), 0.9, scaled=scaled)
    session = onnx_format.open_session(with_bounds(summing(), width, matrix))
    predicted, lower, upper = onnx_format.run(session, matrix, "regression", 0, bounds=True).T
    told, reach = covered(truth, lower, upper), width.factor * (abs(amount) if scaled else 1)
    assert told["coverage"] >= 0.9 and told["width"] <= 2 * reach + 2e-6 * abs(amount)
    np.testing.assert_array_equal(predicted, matrix[:, 0])


def test_the_graph_stays_within_the_standard():
    proto = onnx.load_from_string(with_bounds(summing(), Width(coverage=0.9, rows=9, factor=1.0, floor=1.0), SOME))
    assert {node.op_type for node in proto.graph.node} <= onnx_format.OPERATORS
