"""JSON patch (RFC 6902), JSON merge patch (RFC 7396) and strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

from .errors import Refusal
from .kinds import Obj

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "conditions": "type",
    "imagePullSecrets": "name",
    "secrets": "name",
    "ownerReferences": "uid",
    "hostAliases": "ip",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "addresses": "type",
}
_SETS = {"finalizers"}


def merge(target: Any, patch: Any) -> Any:
    """A JSON merge patch applied: null removes, a list replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def strategic(target: Any, patch: Any) -> Any:
    """A strategic merge patch applied: lists of known fields merge by their key; `$patch` directives are honoured."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.split("/", 1)[1]
            result[field] = [each for each in result.get(field) or [] if each not in value]
        elif name.startswith(("$setElementOrder/", "$retainKeys")):
            continue
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, list) and name in _SETS:
            present = result.get(name) or []
            result[name] = [*present, *(each for each in value if each not in present)]
        elif isinstance(value, list) and name in _MERGE_KEYS and all(isinstance(each, dict) for each in value):
            result[name] = _merge_lists(result.get(name) or [], value, _MERGE_KEYS[name])
        else:
            result[name] = strategic(result.get(name), value)
    return result


def _merge_lists(present: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(each.get("$patch") == "replace" for each in patch):
        return [copy.deepcopy(each) for each in patch if each.get("$patch") != "replace"]
    result = list(present)
    for each in patch:
        if key not in each:
            raise Refusal(400, f"map: {each} does not contain declared merge key: {key}")
        index = next((i for i, mine in enumerate(result) if mine.get(key) == each[key]), None)
        if each.get("$patch") == "delete":
            result = [mine for mine in result if mine.get(key) != each[key]]
        elif index is None:
            result.append(strategic({}, each))
        else:
            result[index] = strategic(result[index], each)
    return result


def apply_json(target: Obj, operations: list[Any]) -> Obj:
    """A JSON patch applied. Raises Refusal 422 where an operation does not."""
    document: Any = copy.deepcopy(target)
    try:
        for operation in operations:
            document = _operate(document, operation)
    except (KeyError, IndexError, ValueError, TypeError) as problem:
        message = f"the server rejected our request due to an error in our request: {problem!r}"
        raise Refusal(422, message) from problem
    if not isinstance(document, dict):
        raise Refusal(422, "the patched document is not an object")
    return document


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    parts = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _set(document, parts, copy.deepcopy(operation["value"]), insert=True)
        case "replace":
            _get(document, parts)
            return _set(document, parts, copy.deepcopy(operation["value"]), insert=False)
        case "remove":
            return _remove(document, parts)
        case "test":
            if _get(document, parts) != operation["value"]:
                raise ValueError(f"testing path {operation['path']} failed")
            return document
        case "copy" | "move" as what:
            origin = _pointer(operation["from"])
            value = copy.deepcopy(_get(document, origin))
            if what == "move":
                document = _remove(document, origin)
            return _set(document, parts, value, insert=True)
    raise ValueError(f"unexpected op {operation['op']}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"{text} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _get(document: Any, parts: list[str]) -> Any:
    for part in parts:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _set(document: Any, parts: list[str], value: Any, *, insert: bool) -> Any:
    if not parts:
        return value
    parent, last = _get(document, parts[:-1]), parts[-1]
    if isinstance(parent, list):
        if last == "-":
            parent.append(value)
        elif insert:
            if not 0 <= int(last) <= len(parent):
                raise IndexError(last)
            parent.insert(int(last), value)
        else:
            parent[int(last)] = value
    else:
        parent[last] = value
    return document


def _remove(document: Any, parts: list[str]) -> Any:
    parent, last = _get(document, parts[:-1]), parts[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return document
