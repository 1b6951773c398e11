"""Check the calls of a job's user that the list allows: they name its own runs and models, in fields that a job needs.

Pure: a call and its body give a demand, which says what must be the user's own; looking that up is for the app.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from rempart.tracking_access.routes import Call

OWNER = "rempart.tracking_user"
"""Tag of a run and of a logged model: the user that made it. The server sets it; no user of a job may."""
_RUN, _MODEL = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}")
_RUN_KEYS, _MODEL_KEYS = frozenset({"run_id", "run_uuid", "source_run_id"}), frozenset({"model_id"})
_ARTIFACT = re.compile(
    r"(?P<experiment>[0-9]+)/(?:(?P<run>[0-9a-f]{32})|models/(?P<model>m-[0-9a-f]{32}))/artifacts/.+"
)
_PAIRS = frozenset({"key", "value"})


class NotAllowed(Exception):
    """A call says something that its user may not say. The text names it, without values."""


@dataclass(frozen=True)
class Demand:
    """Objects that must belong to the user for a call, and the body to pass on (None: the call's own body, a file).

    `experiment` must contain all of them, if the call names it.
    """

    runs: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    experiment: str | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class _Shape:
    """A call's form: parameters of its query, keys of its body at any depth, and what it has to name."""

    query: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    runs: bool = False
    owned: bool = field(default=False)
    """Whether the call makes an object that gets its owner's tag."""


_SHAPES = {
    "GET mlflow/experiments/get-by-name": _Shape(query=frozenset({"experiment_name"})),
    "GET mlflow/runs/get": _Shape(query=frozenset({"run_id", "run_uuid"}), runs=True),
    "GET mlflow/logged-models/<model_id>": _Shape(),
    "POST mlflow/runs/create": _Shape(
        keys=frozenset({"experiment_id", "user_id", "start_time", "tags", "run_name"}) | _PAIRS, owned=True
    ),
    "POST mlflow/runs/log-batch": _Shape(
        keys=frozenset({"run_id", "metrics", "params", "timestamp", "step", "model_id"}) | _PAIRS, runs=True
    ),
    "POST mlflow/runs/log-metric": _Shape(
        keys=frozenset({"run_id", "run_uuid", "timestamp", "step", "model_id"}) | _PAIRS, runs=True
    ),
    "POST mlflow/runs/update": _Shape(
        keys=frozenset({"run_id", "run_uuid", "status", "end_time", "run_name"}), runs=True
    ),
    "POST mlflow/runs/outputs": _Shape(keys=frozenset({"run_id", "models", "model_id", "step"}), runs=True),
    "POST mlflow/logged-models": _Shape(
        keys=frozenset({"experiment_id", "name", "model_type", "source_run_id", "params", "tags"}) | _PAIRS,
        runs=True,
        owned=True,
    ),
    "PATCH mlflow/logged-models/<model_id>": _Shape(keys=frozenset({"model_id", "status"})),
    "POST mlflow/logged-models/<model_id>/params": _Shape(keys=frozenset({"model_id", "params"}) | _PAIRS),
}


def is_upload(call: Call) -> bool:
    """Return whether a call's body is a file, which is not read here."""
    return call.route.method == "PUT"


def demand(call: Call, query: bytes, body: bytes, user: str) -> Demand:
    """Return what a call of a job's user needs, and its body with the owner's tag. Raises NotAllowed."""
    if is_upload(call):
        if query:
            raise NotAllowed("an upload has no query")
        return _upload(call.parameters["artifact_path"])
    name = f"{call.route.method} {call.route.template.split('/', 3)[3]}"
    if (shape := _SHAPES.get(name)) is None:
        raise NotAllowed("a job may not make this call")
    asked = _query(query, shape)
    fields = parse(body) if shape.keys else {}
    if body and not shape.keys:
        raise NotAllowed("the call has no body")
    if unknown := sorted({key for key, _ in _pairs(fields)} - shape.keys):
        raise NotAllowed(f"the field '{unknown[0][:40]}'")
    pairs = [*asked.items(), *_pairs(fields), *call.parameters.items()]
    runs = frozenset(_id(value, _RUN) for key, value in pairs if key in _RUN_KEYS)
    models = frozenset(_id(value, _MODEL) for key, value in pairs if key in _MODEL_KEYS)
    if shape.runs and len(runs) != 1:
        raise NotAllowed("the call must name exactly one run")
    if shape.owned:
        fields["tags"] = [*_tags(fields.get("tags")), {"key": OWNER, "value": user}]
    experiment = str(fields["experiment_id"]) if "experiment_id" in fields else None
    return Demand(runs, models, experiment, json.dumps(fields).encode() if shape.keys else b"")


def parse(body: bytes) -> dict[str, Any]:
    """Return a JSON object without duplicate keys. Raises NotAllowed."""
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise NotAllowed("the body is not a JSON object") from None
    if not isinstance(found, dict):
        raise NotAllowed("the body is not a JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise NotAllowed("a key occurs twice in the body")
    return made


def _query(query: bytes, shape: _Shape) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise NotAllowed("the query is not valid") from None
    if len({name for name, _ in pairs}) != len(pairs) or {name for name, _ in pairs} - shape.query:
        raise NotAllowed("a parameter of the query")
    return dict(pairs)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _id(value: Any, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise NotAllowed("an invalid id")
    return value


def _tags(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(tag, dict) and isinstance(tag.get("key"), str) for tag in value
    ):
        raise NotAllowed("invalid tags")
    if any(tag["key"] == OWNER for tag in value):
        raise NotAllowed(f"the tag {OWNER}")
    return value


def _upload(path: str) -> Demand:
    """Return the objects of an upload:

    `<experiment>/<run>/artifacts/...` or `<experiment>/models/<model>/artifacts/...`.
    """
    if (matched := _ARTIFACT.fullmatch(path)) is None:
        raise NotAllowed("a place for artifacts outside a run or model")
    run, model = matched["run"], matched["model"]
    return Demand(frozenset({run} if run else ()), frozenset({model} if model else ()), matched["experiment"])
