"""Write intervals into a model's graph: whoever runs the file gets them from the same bytes as its predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rempart.errors import ModelRefused, TrainingError
from rempart.models import onnx_format
from rempart.models.intervals.conformal import Width
from rempart.models.onnx_format import BOUNDS

if TYPE_CHECKING:
    import numpy as np

SLACK = 1e-6
"""Share of the largest prediction by which the predictions of both models may differ."""
ROUNDING = 2.0**-21
"""Share of prediction and width by which ends are moved outwards: they are float32, whose steps are 2 ** -23. Without
it, an end that rounding moves inwards does not cover a value that it should, such as 79.9 of a model that is right."""
OPSET = 8
"""The oldest version of the operators whose arithmetic takes a column and a number, as `Max` does since."""
_OWN = "interval_"
"""Begins the names of the nodes that are added."""


def with_bounds(body: bytes, width: Width, some: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """Return the model with two more outputs, `lower` and `upper`: float32 [n, 1]. Its prediction stays the same.

    `some`: rows of its matrix, on which both models are compared. Raises TrainingError if the graph uses these names,
    or predicts otherwise afterwards.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    session = onnx_format.open_session(body)
    before, outputs = onnx_format.run(session, some, "regression", 0), onnx_format.outputs(session, some)
    prediction = next(name for name, array in outputs.items() if array.size == len(some))
    model = onnx.load_from_string(body)
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {each.name for each in (*graph.input, *graph.output, *graph.initializer)}
    if taken := sorted(name for name in used if name in BOUNDS or name.startswith(_OWN)):
        raise TrainingError(
            f"add intervals to the model: its graph has a value named '{taken[0][:80]}' already",
            "Rename it in the trainer's code, or remove `trainer.intervals`.",
        )
    if (opset := max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))) < OPSET:
        raise TrainingError(
            f"add intervals to the model: its operators are those of ONNX opset {opset}, and {OPSET} is the oldest "
            "that has those of intervals",
            "Convert the model to a newer opset in the trainer's code, or remove `trainer.intervals`.",
        )
    constants: dict[str, tuple[list[Any], int, list[int]]] = {
        "rows": ([-1, 1], TensorProto.INT64, [2]),
        "factor": ([width.factor * (1 + ROUNDING)], TensorProto.FLOAT, [1]),
        "rounding": ([ROUNDING], TensorProto.FLOAT, [1]),
    }
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", [prediction], "number", {"to": TensorProto.FLOAT}),
        ("Reshape", [f"{_OWN}number", f"{_OWN}rows"], "column", {}),
        ("Abs", [f"{_OWN}column"], "amount", {}),
        ("Mul", [f"{_OWN}amount", f"{_OWN}rounding"], "slack", {}),
    ]
    reach = "factor"
    if width.floor is not None:
        constants["floor"] = ([width.floor], TensorProto.FLOAT, [1])
        nodes += [
            ("Max", [f"{_OWN}amount", f"{_OWN}floor"], "scale", {}),
            ("Mul", [f"{_OWN}scale", f"{_OWN}factor"], "reach", {}),
        ]
        reach = "reach"
    nodes.append(("Add", [f"{_OWN}{reach}", f"{_OWN}slack"], "half", {}))
    graph.initializer.extend(
        helper.make_tensor(f"{_OWN}{name}", kind, shape, values) for name, (values, kind, shape) in constants.items()
    )
    graph.node.extend(
        helper.make_node(operator, read, [f"{_OWN}{made}"], **attributes) for operator, read, made, attributes in nodes
    )
    for operator, bound in zip(("Sub", "Add"), BOUNDS, strict=True):
        graph.node.append(helper.make_node(operator, [f"{_OWN}column", f"{_OWN}half"], [bound]))
        graph.output.append(helper.make_tensor_value_info(bound, TensorProto.FLOAT, [None, 1]))
    made = bytes(model.SerializeToString())
    try:
        after = onnx_format.run(onnx_format.open_session(made), some, "regression", 0, bounds=True)
    except ModelRefused as cause:
        raise TrainingError(f"add intervals to the model: {cause.what}", cause.hint) from cause
    # the runtime may add up in another order, and round the last bit otherwise
    slack = SLACK * float(np.abs(before[np.isfinite(before)]).max(initial=0.0))
    if not np.allclose(after[:, 0], before, rtol=SLACK, atol=slack, equal_nan=True):
        raise TrainingError(
            "add intervals to the model: it predicts otherwise with them",
            "Remove `trainer.intervals`, and report the trainer.",
        )
    return made
