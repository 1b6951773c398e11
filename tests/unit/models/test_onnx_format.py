"""Only self-contained graphs of standard operators are opened."""

import tempfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rempart.errors import ModelRefused
from rempart.models import isolated_model, onnx_format


def model(*nodes, initializers=(), opsets=(("", 18),), **extra) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("inputs", TensorProto.FLOAT, [None, 2])],
        [value("out", TensorProto.FLOAT, None)],
        list(initializers),
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=8, **extra
    )


SUM = helper.make_node("ReduceSum", ["inputs", "axes"], ["out"], keepdims=0)
AXES = helper.make_tensor("axes", TensorProto.INT64, [1], [1])


def test_a_plain_model_predicts():
    session = onnx_format.open_session(model(SUM, initializers=[AXES]).SerializeToString())
    result = onnx_format.run(session, np.array([[1, 2], [3, 4]], np.float32), "regression", 0)
    assert result.tolist() == [3.0, 7.0] and result.dtype == np.float64


def external():
    weights = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    weights.ClearField("int64_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return weights


def inside_a_branch(node=None, initializer=None):
    """A model whose harmful part hides in the graph of an If node."""
    harmless = helper.make_node("Identity", ["inputs"], ["out_inner"])
    out = helper.make_tensor_value_info("out_inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([node or harmless], "inner", [], [out], [initializer] if initializer else [])
    condition = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return model(
        helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch), initializers=[condition]
    )


CUSTOM = helper.make_node("Run", ["inputs"], ["out_inner"], domain="evil.ops")
FUNCTION = helper.make_function(
    "local", "F", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 18)]
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x80\x04not onnx", "not in ONNX format"),
        (b"", "no graph"),
        (
            model(helper.make_node("Run", ["inputs"], ["out"], domain="ai.onnx.contrib"), opsets=[("", 18)]),
            "ai.onnx.contrib",
        ),
        (model(SUM, initializers=[AXES], opsets=[("", 18), ("com.microsoft", 1)]), "com.microsoft"),
        (inside_a_branch(node=CUSTOM), "evil.ops"),
        (model(SUM, initializers=[external()]), "outside its file"),
        (inside_a_branch(initializer=external()), "outside its file"),
        (model(helper.make_node("Constant", [], ["out"], value=external())), "outside its file"),
        (model(SUM, initializers=[AXES], functions=[FUNCTION]), "it defines functions"),
    ],
)
def test_anything_else_is_refused(body, message):
    with pytest.raises(ModelRefused, match=message):
        onnx_format.open_session(body if isinstance(body, bytes) else body.SerializeToString())


def test_a_model_that_gives_no_number_per_row_is_refused():
    session = onnx_format.open_session(model(helper.make_node("Identity", ["inputs"], ["out"])).SerializeToString())
    with pytest.raises(ModelRefused, match="not a float array"):
        onnx_format.run(session, np.zeros((3, 2), np.float32), "regression", 0)


def loop():
    """A model that doubles its input for ever."""
    count, yes = (
        helper.make_tensor("n", TensorProto.INT64, [], [1 << 40]),
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
    )
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("still", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    return model(helper.make_node("Loop", ["n", "c", "inputs"], ["out"], body=body), initializers=[count, yes])


def huge():
    """Eighty bytes that ask for forty gigabytes."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [10**10])
    return model(helper.make_node("ConstantOfShape", ["shape"], ["out"]), initializers=[shape])


@pytest.mark.parametrize(("made", "operator"), [(loop(), "Loop"), (huge(), "ConstantOfShape")])
def test_s11_operators_that_loop_or_allocate_at_will_are_refused(made, operator):
    with pytest.raises(ModelRefused, match=f"not allowed: '{operator}'"):
        isolated_model.IsolatedModel(made.SerializeToString())


def outer_product():
    """Allowed operators alone: n rows make n x n numbers."""
    turned = helper.make_node("Transpose", ["inputs"], ["turned"], perm=[1, 0])
    product = helper.make_node("MatMul", ["inputs", "turned"], ["square"])
    return model(
        turned, product, helper.make_node("ReduceSum", ["square", "axes"], ["out"], keepdims=0), initializers=[AXES]
    )


def test_s11_a_model_that_takes_gigabytes_ends_its_own_process_only():
    opened = isolated_model.IsolatedModel(outer_product().SerializeToString())
    small = opened.run(np.ones((3, 2), np.float32), "regression", 0)
    assert small.tolist() == [6.0, 6.0, 6.0]
    with pytest.raises(ModelRefused):
        opened.run(np.ones((60_000, 2), np.float32), "regression", 0)


def test_s11_a_model_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(isolated_model, "SECONDS", 0.001)
    with pytest.raises(ModelRefused, match="took longer than"):
        isolated_model.IsolatedModel(model(SUM, initializers=[AXES]).SerializeToString())


def test_a_model_in_a_process_of_its_own_leaves_no_rows_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = isolated_model.IsolatedModel(model(SUM, initializers=[AXES]).SerializeToString())
    assert list(tmp_path.iterdir()) == []
    assert opened.run(np.ones((3, 2), np.float32), "regression", 0).tolist() == [2.0, 2.0, 2.0]
    assert list(tmp_path.iterdir()) == []  # whatever becomes of the object: a task of Airflow ends without finalizers
