"""Only self-contained graphs of standard operators are opened."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rempart.errors import ModelRefused
from rempart.models import onnx_format


def model(*nodes, initializers=(), opsets=(("", 18),), **extra) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("inputs", TensorProto.FLOAT, [None, 2])],
        [value("out", TensorProto.FLOAT, None)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in opsets], ir_version=8, **extra)


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
    ("body", "said"),
    [
        (b"\x80\x04not onnx", "not ONNX"),
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
        (model(SUM, initializers=[AXES], functions=[FUNCTION]), "functions of its own"),
    ],
)
def test_anything_else_is_refused(body, said):
    with pytest.raises(ModelRefused, match=said):
        onnx_format.open_session(body if isinstance(body, bytes) else body.SerializeToString())


def test_a_model_that_gives_no_number_per_row_is_refused():
    session = onnx_format.open_session(model(helper.make_node("Identity", ["inputs"], ["out"])).SerializeToString())
    with pytest.raises(ModelRefused, match="no float output"):
        onnx_format.run(session, np.zeros((3, 2), np.float32), "regression", 0)
