"""Read ONNX models, the only format that is opened: a graph of known operators that cannot execute other code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rempart.errors import ModelRefused

if TYPE_CHECKING:
    import onnx
    import onnxruntime

MODEL_FILE = "model.onnx"
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator domains of the ONNX standard; an operator of any other would need code from elsewhere."""
MAX_BYTES = 512 << 20
BOUNDS = ("lower", "upper")
"""Outputs of a regression that gives intervals: their ends, float [n, 1] each."""
_NAMES = """
    Abs Add And ArgMax ArgMin BatchNormalization Cast Ceil Clip Concat Constant Div Elu Equal Erf Exp Flatten Floor
    Gather Gelu Gemm Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max Mean Min Mul Neg Not Or PRelu Pow Reciprocal ReduceL2 ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Relu Reshape Round Selu Shape Sigmoid Sign Slice Softmax
    Softplus Split Sqrt Squeeze Sub Sum Tanh TopK Transpose Unsqueeze Where Xor
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer
    OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
OPERATORS = frozenset(_NAMES.split())
"""Operators that a model for tables needs. None loops, draws random numbers, or makes a tensor of a size that the model
says itself (ConstantOfShape, Expand, Tile, Range, Pad, Resize)."""


def parse(body: bytes) -> onnx.ModelProto:
    """Return the model if it is self-contained and uses only standard operators. Raises ModelRefused."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # it ships no types

    if len(body) > MAX_BYTES:
        raise _refused(f"it has {len(body)} bytes; the limit is {MAX_BYTES}")
    try:
        model = onnx.load_from_string(body)
    except DecodeError as cause:
        raise _refused("it is not in ONNX format") from cause
    if not model.graph.node:
        raise _refused("it contains no graph")
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in _nodes(model.graph)}
    if foreign := domains - DOMAINS:
        raise _refused(f"it uses operators outside the standard: domain {sorted(foreign)[0][:60]!r}")
    if model.functions:
        raise _refused("it defines functions")
    if any(
        tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _tensors(model.graph)
    ):
        raise _refused("it refers to data outside its file")
    if strange := {node.op_type for node in _nodes(model.graph)} - OPERATORS:
        raise _refused(f"it uses an operator that is not allowed: {sorted(strange)[0][:60]!r}")
    return model


def _refused(why: str) -> ModelRefused:
    return ModelRefused(
        f"{MODEL_FILE} is not opened: {why}",
        "Train again with a trainer that returns a self-contained ONNX model of standard operators.",
    )


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and every graph inside its nodes."""
    waiting = [graph]
    while waiting:
        inner = waiting.pop()
        yield inner
        for node in inner.node:
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _nodes(graph: Any) -> Iterator[Any]:
    for part in _graphs(graph):
        yield from part.node


def _tensors(graph: Any) -> Iterator[Any]:
    for part in _graphs(graph):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                sparse_tensors = [*attribute.sparse_tensors]
                if attribute.HasField("sparse_tensor"):
                    sparse_tensors.append(attribute.sparse_tensor)
                for sparse in sparse_tensors:
                    yield from (sparse.values, sparse.indices)


def open_session(body: bytes) -> onnxruntime.InferenceSession:
    """Return an inference session on the CPU, from bytes, after `parse`. Raises ModelRefused."""
    import onnxruntime

    model = parse(body)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(2, len(os.sched_getaffinity(0)))
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait use no core
    try:
        session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # onnxruntime's own exceptions share no base class
        raise _refused(f"onnxruntime cannot run it ({type(cause).__name__})") from cause
    if len(model.graph.input) != 1 or len(session.get_inputs()) != 1:
        raise _refused(f"it has {len(session.get_inputs())} inputs instead of one matrix")
    return session


def outputs(session: onnxruntime.InferenceSession, matrix: Any) -> dict[str, Any]:
    """Return the outputs for a float32 matrix [n, k] that are arrays of floats, by name. Raises ModelRefused."""
    import numpy as np

    try:
        made = session.run(None, {session.get_inputs()[0].name: matrix})
    except Exception as cause:  # as above
        raise ModelRefused(
            f"run the model: it cannot read a matrix of {matrix.shape[1]} columns ({type(cause).__name__})",
            "Train again: the recorded features differ from those of the training.",
        ) from cause
    names = [output.name for output in session.get_outputs()]
    return {
        name: array
        for name, array in zip(names, made, strict=True)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f"
    }


def run(session: onnxruntime.InferenceSession, matrix: Any, task: str, classes: int, *, bounds: bool = False) -> Any:
    """Return predictions for a float32 matrix [n, k], as float64.

    Regression: [n], in the target's unit; with `bounds` [n, 3], the prediction and the ends of its interval.
    Classification: [n, classes], the probability of each class. Raises ModelRefused if the model's outputs have another
    shape.
    """
    import numpy as np

    arrays = outputs(session, matrix)
    wanted = (len(matrix),) if task == "regression" else (len(matrix), classes)
    for array in arrays.values():
        if task == "regression" and array.size == len(matrix):
            found = array.reshape(-1).astype(np.float64)
            return np.column_stack([found, *_ends(arrays, len(matrix))]) if bounds else found
        if task == "classification" and array.shape == wanted:
            return array.astype(np.float64)
    raise ModelRefused(
        f"run the model: its output is not a float array of shape {list(wanted)}",
        "Return one number per row for a regression, or one probability per class for a classification (zipmap off).",
    )


def _ends(arrays: Mapping[str, Any], rows: int) -> Iterator[Any]:
    import numpy as np

    for name in BOUNDS:
        if name not in arrays or arrays[name].size != rows:
            raise ModelRefused(
                f"run the model: it has no output '{name}' with one number per row, although it was trained with "
                "intervals",
                "Train again: the file is not the one that the training made.",
            )
        yield arrays[name].reshape(-1).astype(np.float64)
