"""The Open Inference Protocol, version 2: each column of the source is an input tensor. Pure.

Source: https://github.com/kserve/open-inference-protocol (HTTP/REST). The binary extension is not spoken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rempart.counts import counted
from rempart.models.inputs import Input
from rempart.serving.scorer import friendly
from rempart.serving.scorer.friendly import Question
from rempart.serving.scorer.refusals import Refused

NAME = "rempart"
DATATYPES = {"integer": "INT64", "number": "FP64", "decimal": "FP64", "boolean": "BOOL"}
"""Datatype of a tensor by the type of its column; BYTES (a text) for every other."""
_TAKEN = {
    "INT64": ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    "FP64": ("FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    "BOOL": ("BOOL",),
    "BYTES": ("BYTES",),
}
_FORM = (
    'Send {"inputs": [{"name": COLUMN, "shape": [ROWS], "datatype": "FP64", "data": [...]}, ...]} with a tensor for '
    "each input of GET /v2/models/PIPELINE."
)


def datatype(column: Input) -> str:
    return DATATYPES.get(column.type, "BYTES")


def server(version: str) -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": NAME, "version": version, "extensions": []}


def model(pipeline: str, version: str, inputs: Sequence[Input], outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a model. `outputs`: type by name, as `models.predictions.columns` gives them."""
    return {
        "name": pipeline,
        "versions": [version],
        "platform": "rempart_onnx",
        "inputs": [{"name": column.name, "datatype": datatype(column), "shape": [-1]} for column in inputs],
        "outputs": [{"name": name, "datatype": _output(kind), "shape": [-1]} for name, kind in outputs.items()],
    }


def _output(kind: str) -> str:
    return "FP64" if kind == "double" else "BYTES"


def question(body: bytes, inputs: Sequence[Input], kept: Sequence[Input]) -> Question:
    """Return the rows that an inference request asks for. `kept`: inputs, and columns that may be given as well.

    Raises Refused (400, 413).
    """
    content = friendly.decoded(body)
    if not isinstance(content, dict) or not isinstance(tensors := content.get("inputs"), list) or not tensors:
        raise Refused(400, "read the request: it has no list of inputs", _FORM)
    id_ = content.get("id", "")
    if type(id_) is not str or len(id_) > 200:
        raise Refused(400, "read the request: its id is no text of at most 200 characters", _FORM)
    known = {column.name: column for column in (*inputs, *kept)}
    columns: dict[str, list[Any]] = {}
    rows = None
    for tensor in tensors:
        name, data = _tensor(tensor, known)
        if name in columns:
            raise Refused(400, f"read the request: tensor '{name}' comes twice", _FORM)
        if rows is not None and len(data) != rows:
            raise Refused(
                400, f"read the request: tensor '{name}' has {counted(len(data), 'row')}, and the others {rows}", _FORM
            )
        columns[name], rows = data, len(data)
    if missing := [column.name for column in inputs if column.name not in columns]:
        shown = ", ".join(missing[:10])
        raise Refused(400, f"read the request: it lacks the tensors {shown}", _FORM)
    if (rows or 0) > friendly.MOST_ROWS:
        friendly.checked([{}] * (rows or 0))
    given = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Question(friendly.checked(given), id=id_, named=False)


def _tensor(tensor: Any, known: Mapping[str, Input]) -> tuple[str, list[Any]]:
    """Return a tensor's name and its values, one a row. Raises Refused."""
    if not isinstance(tensor, dict) or type(name := tensor.get("name")) is not str:
        raise Refused(400, "read the request: an input is no tensor with a name", _FORM)
    if (column := known.get(name)) is None:
        raise Refused(
            400, f"read the request: the model has no input '{name[:60]}'", f"Its inputs are {', '.join(known)}."
        )
    shape, data, given = tensor.get("shape"), tensor.get("data"), tensor.get("datatype")
    if given not in _TAKEN[datatype(column)]:
        raise Refused(400, f"read the request: tensor '{name}' must have datatype {datatype(column)}", _FORM)
    if not isinstance(data, list) or not isinstance(shape, list):
        raise Refused(400, f"read the request: tensor '{name}' lacks its shape or its data", _FORM)
    if len(shape) == 2 and shape[1] == 1 and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    if [each for each in shape if type(each) is not int] or shape not in ([len(data)], [len(data), 1]):
        raise Refused(400, f"read the request: the data of tensor '{name}' do not have its shape", _FORM)
    return name, data


def answer(
    pipeline: str,
    version: str,
    question_id: str,
    sha256: str,
    ids: Sequence[str],
    outputs: Sequence[Mapping[str, Any]],
    types: Mapping[str, str],
) -> dict[str, Any]:
    """Return an inference response; the predictions' ids stand in its parameters, separated by commas."""
    return {
        "model_name": pipeline,
        "model_version": version,
        "id": question_id or ids[0],
        "parameters": {"sha256": sha256, "ids": ",".join(ids)},
        "outputs": [
            {
                "name": name,
                "shape": [len(outputs)],
                "datatype": _output(kind),
                "data": [output[name] for output in outputs],
            }
            for name, kind in types.items()
        ],
    }
