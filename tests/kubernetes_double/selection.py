"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .errors import Refusal
from .kinds import EVENT, NAMESPACE, NODE, POD, SECRET, Kind, Obj

Matches = Callable[[Obj], bool]

_SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*$")
_SPLIT = re.compile(r",(?![^(]*\))")
_KEY = re.compile(r"^([a-z0-9A-Z.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")

_FIELDS: dict[Kind, set[str]] = {
    POD: {
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    },
    EVENT: {"reason", "reportingComponent", "source", "type"}
    | {
        f"involvedObject.{name}"
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    SECRET: {"type"},
    NODE: {"spec.unschedulable"},
    NAMESPACE: {"status.phase"},
}


def requirement(key: str, operator: str, values: list[str]) -> Callable[[dict[str, str]], bool]:
    """One requirement on labels; operators as in a node selector term. Gt and Lt compare whole numbers."""
    wanted = set(values)

    def number(text: str) -> int | None:
        return int(text) if re.fullmatch(r"-?\d+", text) else None

    def compared(labels: dict[str, str]) -> bool:
        mine, bound = number(labels.get(key, "")), number(values[0])
        return mine is not None and bound is not None and (mine > bound if operator == "Gt" else mine < bound)

    match operator:
        case "In":
            return lambda labels: labels.get(key) in wanted
        case "NotIn":
            return lambda labels: labels.get(key) not in wanted
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case "Gt" | "Lt":
            return compared
    raise ValueError(f"{operator} is no operator of a selector")


def _label_term(term: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(term):
        values = [value.strip() for value in found[3].split(",")]
        return requirement(found[1], "In" if found[2] == "in" else "NotIn", values)
    if "!=" in term:
        name, value = term.split("!=", 1)
        return requirement(_label_key(name, term), "NotIn", [value.strip()])
    if "=" in term:
        name, value = re.split("==?", term, maxsplit=1)
        return requirement(_label_key(name, term), "In", [value.strip()])
    if term.strip().startswith("!"):
        return requirement(_label_key(term.strip()[1:], term), "DoesNotExist", [])
    return requirement(_label_key(term, term), "Exists", [])


def _label_key(name: str, term: str) -> str:
    if not _KEY.match(name.strip()):
        raise Refusal(400, f"unable to parse requirement: found '{term.strip()}', expected: a valid label key")
    return name.strip()


def by_labels(text: str) -> Matches:
    """What a labelSelector matches. Raises Refusal 400."""
    terms = [_label_term(term) for term in _SPLIT.split(text) if term.strip()]
    return lambda obj: all(term(obj["metadata"].get("labels") or {}) for term in terms)


def field(obj: Obj, path: str) -> str:
    """A field as selectors see it: text, empty where absent."""
    if path == "source":
        path = "source.component"
    value: Any = obj
    for part in path.split("."):
        value = (value or {}).get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "false" if path in ("spec.unschedulable", "spec.hostNetwork") else ""
    return str(value)


def by_fields(kind: Kind, text: str) -> Matches:
    """What a fieldSelector matches. Raises Refusal 400 for a field that the resource cannot be selected by."""
    terms: list[tuple[str, str, bool]] = []
    for term in filter(str.strip, text.split(",")):
        found = re.match(r"^\s*([^=!]+?)\s*(==|=|!=)\s*(.*?)\s*$", term)
        if found is None:
            raise Refusal(400, f"invalid selector: '{text}'; can't understand '{term}'")
        if found[1] not in {"metadata.name", "metadata.namespace"} | _FIELDS.get(kind, set()):
            raise Refusal(400, f"field label not supported: {found[1]}")
        terms.append((found[1], found[3], found[2] != "!="))
    return lambda obj: all((field(obj, path) == value) is equal for path, value, equal in terms)
