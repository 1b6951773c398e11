"""A feed-forward network for tables as an ONNX model of standard operators, statistics of its inputs included.

Written node by node: the graph is small, and torch.onnx.export would need packages that nothing else here needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

INPUT, OUTPUT = "inputs", "predictions"
_PIECE = 1 << 16
"""Rows whose statistics are computed at a time, in float64."""
LIMIT = 10.0
"""Standardised inputs are cut at this many standard deviations: no row is far outside what the network has seen."""


@dataclass(frozen=True)
class Scaling:
    """Statistics of the training rows. `mean`, `scale`: float32 [k]; `with_nulls`: columns that had nulls, int64 [m].

    `target_mean`, `target_scale`: of a regression's target, else 0 and 1.
    """

    mean: Array
    scale: Array
    with_nulls: Array
    target_mean: float = 0.0
    target_scale: float = 1.0

    @property
    def width(self) -> int:
        """Return the number of inputs of the first layer: each column, and a 0 or 1 for each that had nulls."""
        return len(self.mean) + len(self.with_nulls)


def scaling(inputs: Any, target: Any, task: str) -> Scaling:
    """Return statistics of a float32 matrix [n, k], NaN for null, and of a target [n]; a column without spread has
    scale 1.
    """
    import numpy as np

    pieces = [slice(at, at + _PIECE) for at in range(0, len(inputs), _PIECE)]
    width = inputs.shape[1]
    count, total, squares = np.zeros(width, np.int64), np.zeros(width), np.zeros(width)
    for piece in pieces:
        there = ~np.isnan(inputs[piece])
        count += there.sum(axis=0)
        total += np.where(there, inputs[piece], 0).sum(axis=0, dtype=np.float64)
    counted = np.maximum(count, 1)
    mean = total / counted
    for piece in pieces:
        values = inputs[piece].astype(np.float64) - mean
        squares += np.where(np.isnan(values), 0, values**2).sum(axis=0)
    spread = np.sqrt(squares / counted)
    scale = np.where(spread > 1e-6 * np.maximum(np.abs(mean), 1e-6), spread, 1.0)
    of_target = (0.0, 1.0)
    if task == "regression":
        of_target = (float(np.mean(target)), float(np.std(target)) or 1.0)
    return Scaling(
        mean.astype(np.float32),
        scale.astype(np.float32),
        np.flatnonzero(count < len(inputs)).astype(np.int64),
        *of_target,
    )


def standardised(inputs: Any, statistics: Scaling) -> Any:
    """Return the first layer's input: float32 [n, statistics.width].

    Null is 0 (the mean), marked if it was ever null.
    """
    import numpy as np

    nulls = np.isnan(inputs)
    scaled = np.clip((inputs - statistics.mean) / statistics.scale, -LIMIT, LIMIT)
    marks = nulls[:, statistics.with_nulls].astype(np.float32)
    return np.hstack([np.where(nulls, np.float32(0), scaled), marks]).astype(np.float32)


def convert(statistics: Scaling, layers: Sequence[tuple[Array, Array]], task: str) -> bytes:
    """Return ONNX bytes. layers: weight [out, in] and bias [out] of each, ReLU in between; the last gives a number or
    logits.

    One input `inputs`, float32 [n, k], NaN for null; one output `predictions`: float32 [n, 1] in the target's unit, or
    the probabilities [n, classes].
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    zero = constant("zero", np.zeros(1, np.float32))
    nodes = [
        helper.make_node("IsNaN", [INPUT], ["nulls"]),
        helper.make_node("Sub", [INPUT, constant("mean", statistics.mean)], ["centred"]),
        helper.make_node("Div", ["centred", constant("scale", statistics.scale)], ["scaled"]),
        # before the clip: what Clip makes of NaN is not the same everywhere
        helper.make_node("Where", ["nulls", zero, "scaled"], ["filled"]),
        helper.make_node(
            "Clip",
            ["filled", constant("lowest", np.float32(-LIMIT)), constant("highest", np.float32(LIMIT))],
            ["standardised"],
        ),
    ]
    last = "standardised"
    if len(statistics.with_nulls):
        nodes += [
            helper.make_node("Cast", ["nulls"], ["marks"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["marks", constant("with_nulls", statistics.with_nulls)], ["marked"], axis=1),
            helper.make_node("Concat", [last, "marked"], ["joined"], axis=1),
        ]
        last = "joined"
    for number, (weight, bias) in enumerate(layers):
        names = [last, constant(f"weight_{number}", weight), constant(f"bias_{number}", bias)]
        nodes.append(helper.make_node("Gemm", names, [f"layer_{number}"], transB=1))
        last = f"layer_{number}"
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"active_{number}"]))
            last = f"active_{number}"
    if task == "regression":
        nodes += [
            helper.make_node(
                "Mul", [last, constant("target_scale", np.array([statistics.target_scale], np.float32))], ["spread"]
            ),
            helper.make_node(
                "Add", ["spread", constant("target_mean", np.array([statistics.target_mean], np.float32))], [OUTPUT]
            ),
        ]
    else:
        nodes.append(helper.make_node("Softmax", [last], [OUTPUT], axis=1))
    graph = helper.make_graph(
        nodes,
        "tabular_network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(statistics.mean)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, len(layers[-1][1])])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="rempart")
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())
