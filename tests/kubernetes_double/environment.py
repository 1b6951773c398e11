"""A container's command line and environment, from its spec and the objects to which the spec refers."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from . import mounts, quantity
from .images import Image
from .kinds import CONFIG_MAP, SECRET, Kind, Obj
from .store import Store

_REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z0-9_.-]+)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class Unresolved(Exception):
    """What the environment refers to is not there: the container waits with CreateContainerConfigError."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value where there is one; `$$` stands for a dollar sign."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] is None else env.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def command_line(container: Obj, image: Image, env: Mapping[str, str]) -> list[str]:
    """Command and args of the spec, or the image's own: a command in the spec drops the image's arguments too."""
    command = container.get("command") or []
    arguments = container.get("args") or ([] if command else image.command)
    return [expand(part, env) for part in [*(command or image.entrypoint), *arguments]]


def resolve(store: Store, pod: Obj, container: Obj, image: Image, home: Path) -> dict[str, str]:
    """The environment: the image's, HOME and HOSTNAME, envFrom, then env. Raises Unresolved."""
    base = {"HOSTNAME": pod["metadata"]["name"], "HOME": str(home)} | dict(image.env) | {"HOME": str(home)}
    return base | given_to(store, pod, container, partial(mounts.local, container, home))


def given_to(store: Store, pod: Obj, container: Obj, place: Callable[[str], str]) -> dict[str, str]:
    """Return the variables that a spec gives: envFrom, then env, whose values `place` may change. Raises Unresolved."""
    namespace = pod["metadata"]["namespace"]
    given: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for kind, reference in ((SECRET, source.get("secretRef")), (CONFIG_MAP, source.get("configMapRef"))):
            if reference:
                prefix = source.get("prefix") or ""
                values = _values(store, kind, namespace, reference["name"], bool(reference.get("optional")))
                given |= {f"{prefix}{name}": value for name, value in (values or {}).items()}
    for variable in container.get("env") or []:
        if not variable.get("valueFrom"):
            given[variable["name"]] = place(expand(variable.get("value") or "", given))
            continue
        value = _value_from(store, pod, container, variable["valueFrom"])
        if value is not None:
            given[variable["name"]] = value
    return given


def _values(store: Store, kind: Kind, namespace: str, name: str, optional: bool) -> dict[str, str] | None:
    found = store.get(kind, namespace, name)
    if found is None:
        if optional:
            return None
        raise Unresolved(f'{kind.kind.lower()} "{name}" not found')
    data: dict[str, str] = found.get("data") or {}
    if kind is SECRET:
        return {each: base64.b64decode(value).decode(errors="surrogateescape") for each, value in data.items()}
    return data


def _value_from(store: Store, pod: Obj, container: Obj, source: Obj) -> str | None:
    namespace = pod["metadata"]["namespace"]
    for kind, field in ((SECRET, "secretKeyRef"), (CONFIG_MAP, "configMapKeyRef")):
        if reference := source.get(field):
            optional = bool(reference.get("optional"))
            values = _values(store, kind, namespace, reference["name"], optional)
            if values is not None and reference["key"] in values:
                return values[reference["key"]]
            if optional:
                return None
            raise Unresolved(f"couldn't find key {reference['key']} in {kind.kind} {namespace}/{reference['name']}")
    if reference := source.get("resourceFieldRef"):
        side, _, name = reference["resource"].partition(".")
        amount = quantity.parse(((container.get("resources") or {}).get(side) or {}).get(name, "0"))
        return str(-(-amount // quantity.parse(reference.get("divisor") or "1")))
    return _field(pod, (source.get("fieldRef") or {}).get("fieldPath") or "")


def _field(pod: Obj, path: str) -> str:
    if found := _SUBSCRIPT.match(path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    known = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.hostIP": pod["status"].get("hostIP", ""),
        "status.podIP": pod["status"].get("podIP", ""),
    }
    if path not in known:
        raise Unresolved(f"unsupported fieldPath: {path}")
    return str(known[path])
