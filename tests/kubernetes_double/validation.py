"""Defaults and refusals of the API server before admission."""

from __future__ import annotations

import base64
import binascii
import copy
import re
from typing import Any

from . import quantity
from .errors import Refusal, invalid
from .kinds import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CONFIG_MAP,
    NAMESPACE,
    POD,
    ROLE,
    ROLE_BINDING,
    SECRET,
    Kind,
    Obj,
)

Causes = list[tuple[str, str]]

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_QUALIFIED = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_DATA_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
_NATIVE = {"cpu", "memory", "ephemeral-storage"}
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character"
)


def _label_causes(field: str, labels: Any) -> Causes:
    if not isinstance(labels, dict):
        return [(field, "Invalid value: must be a map")]
    causes: Causes = []
    for name, value in labels.items():
        prefix, slash, last = name.rpartition("/")
        if len(last) > 63 or not _QUALIFIED.match(last) or (slash and not _SUBDOMAIN.match(prefix)):
            causes.append((field, f'Invalid value: "{name}": name part must consist of alphanumeric characters'))
        if not isinstance(value, str):
            raise Refusal(400, f"{field}.{name}: cannot unmarshal {type(value).__name__} into a field of type string")
        if len(value) > 63:
            causes.append((field, f'Invalid value: "{value}": must be no more than 63 bytes'))
        elif value and not _QUALIFIED.match(value):
            causes.append(
                (field, f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric')
            )
    return causes


def _metadata_causes(kind: Kind, metadata: Obj) -> Causes:
    name = metadata.get("name") or ""
    if not name:
        return [("metadata.name", "Required value: name or generateName is required")]
    causes: Causes = []
    if kind in (ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING):
        pass
    elif kind is NAMESPACE and (len(name) > 63 or not _LABEL.match(name)):
        causes.append(("metadata.name", f'Invalid value: "{name}": {_LABEL_RULE}'))
    elif len(name) > 253 or not _SUBDOMAIN.match(name):
        causes.append(("metadata.name", f'Invalid value: "{name}": {_SUBDOMAIN_RULE}'))
    causes += _label_causes("metadata.labels", metadata.get("labels") or {})
    for value in (metadata.get("annotations") or {}).values():
        if not isinstance(value, str):
            raise Refusal(400, "metadata.annotations: cannot unmarshal a value into a field of type string")
    for index, owner in enumerate(metadata.get("ownerReferences") or []):
        causes += [
            (f"metadata.ownerReferences[{index}].{field}", "Required value: must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        ]
    return causes


def _resource_causes(field: str, resources: Obj) -> Causes:
    causes: Causes = []
    values: dict[str, quantity.Amounts] = {"requests": {}, "limits": {}}
    for what, amounts in values.items():
        for name, text in (resources.get(what) or {}).items():
            try:
                amounts[name] = quantity.parse(text)
            except ValueError as problem:
                message = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                raise Refusal(400, message) from problem
            if amounts[name] < 0:
                causes.append(
                    (f"{field}.{what}[{name}]", f'Invalid value: "{text}": must be greater than or equal to 0')
                )
            if name not in _NATIVE and not name.startswith("hugepages-") and "/" not in name:
                causes.append((f"{field}.{what}[{name}]", f'Invalid value: "{name}": must be a standard resource type'))
    for name, asked in values["requests"].items():
        limit = values["limits"].get(name)
        if limit is not None and asked > limit:
            shown = quantity.show(name, asked)
            message = f'Invalid value: "{shown}": must be less than or equal to {name} limit of {limit}'
            causes.append((f"{field}.requests", message))
        elif "/" in name and (limit is None or limit != asked):
            causes.append(
                (f"{field}.limits[{name}]", "Required value: Limit must be set for non overcommitable resources")
            )
    return causes


def _container_causes(field: str, container: Obj, seen: set[str]) -> Causes:
    causes: Causes = []
    name = container.get("name") or ""
    if not name:
        causes.append((f"{field}.name", "Required value"))
    elif len(name) > 63 or not _LABEL.match(name):
        causes.append((f"{field}.name", f'Invalid value: "{name}": {_LABEL_RULE}'))
    elif name in seen:
        causes.append((f"{field}.name", f'Duplicate value: "{name}"'))
    seen.add(name)
    if not container.get("image"):
        causes.append((f"{field}.image", "Required value"))
    for what in ("command", "args"):
        if not all(isinstance(part, str) for part in container.get(what) or []):
            raise Refusal(400, f"{field}.{what}: cannot unmarshal a value into a field of type string")
    for index, variable in enumerate(container.get("env") or []):
        at = f"{field}.env[{index}]"
        if not variable.get("name"):
            causes.append((f"{at}.name", "Required value"))
        if not isinstance(variable.get("value") or "", str):
            raise Refusal(400, f"{at}.value: cannot unmarshal a value into a field of type string")
        if variable.get("value") and variable.get("valueFrom"):
            causes.append((f"{at}.valueFrom", 'Invalid value: "": may not be specified when `value` is not empty'))
    return causes + _resource_causes(f"{field}.resources", container.get("resources") or {})


def _pod_causes(pod: Obj) -> Causes:
    spec = pod.get("spec") or {}
    causes: Causes = []
    seen: set[str] = set()
    if not spec.get("containers"):
        causes.append(("spec.containers", "Required value"))
    for what in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(what) or []):
            causes += _container_causes(f"spec.{what}[{index}]", container, seen)
    policy = spec.get("restartPolicy", "Always")
    if policy not in ("Always", "OnFailure", "Never"):
        message = f'Unsupported value: "{policy}": supported values: "Always", "OnFailure", "Never"'
        causes.append(("spec.restartPolicy", message))
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for what in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(what) or []):
            for at, mount in enumerate(container.get("volumeMounts") or []):
                if mount.get("name") not in volumes:
                    field = f"spec.{what}[{index}].volumeMounts[{at}].name"
                    causes.append((field, f'Not found: "{mount.get("name")}"'))
    return causes


def validate(kind: Kind, obj: Obj) -> None:
    """Raises Refusal 422 with every cause, or 400 for a value of a wrong type."""
    causes = _metadata_causes(kind, obj["metadata"])
    if kind is POD:
        causes += _pod_causes(obj)
    if kind in (SECRET, CONFIG_MAP):
        for name, value in (obj.get("data") or {}).items():
            if not _DATA_KEY.match(name):
                causes.append((f"data[{name}]", f'Invalid value: "{name}": a valid config key must consist of'))
            if kind is SECRET:
                try:
                    base64.b64decode(value, validate=True)
                except (binascii.Error, TypeError, ValueError) as problem:
                    raise Refusal(400, f"illegal base64 data at data[{name}]") from problem
            elif not isinstance(value, str):
                raise Refusal(400, f"data.{name}: cannot unmarshal a value into a field of type string")
    if causes:
        raise invalid(kind, obj["metadata"].get("name") or "", causes)


def fill_in(kind: Kind, obj: Obj) -> None:
    """Sets, in place, the defaults that the API server sets."""
    if kind is SECRET:
        obj.setdefault("type", "Opaque")
        for name, text in (obj.pop("stringData", None) or {}).items():
            obj["data"] = (obj.get("data") or {}) | {name: base64.b64encode(str(text).encode()).decode()}
    elif kind is NAMESPACE:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = labels | {"kubernetes.io/metadata.name": obj["metadata"].get("name", "")}
    elif kind is POD and isinstance(obj.get("spec"), dict):
        _fill_in_pod(obj["spec"])


def _fill_in_pod(spec: Obj) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("enableServiceLinks", True)
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        resources = container["resources"] = container.get("resources") or {}
        if limits := resources.get("limits"):
            resources["requests"] = limits | (resources.get("requests") or {})
        image = container.get("image") or ""
        tagged = ":" in image.rsplit("/", 1)[-1] and not image.endswith(":latest")
        container.setdefault("imagePullPolicy", "IfNotPresent" if tagged or "@" in image else "Always")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")


def validate_update(kind: Kind, new: Obj, old: Obj) -> None:
    """Raises Refusal 422 where a field that may not change does."""
    name = new["metadata"]["name"]
    if kind in (SECRET, CONFIG_MAP) and old.get("immutable"):
        changed = [field for field in ("data", "binaryData", "immutable") if new.get(field) != old.get(field)]
        if changed:
            raise invalid(kind, name, [(changed[0], "Forbidden: field is immutable when `immutable` is set")])
    if kind is SECRET and new.get("type") != old.get("type"):
        raise invalid(kind, name, [("type", f'Invalid value: "{new.get("type")}": field is immutable')])
    if kind is POD:
        before, after = _fixed(old), _fixed(new)
        gates = [gate["name"] for gate in old["spec"].get("schedulingGates") or []]
        kept = [gate["name"] for gate in new["spec"].get("schedulingGates") or []]
        if not set(kept) <= set(gates):
            raise invalid(kind, name, [("spec.schedulingGates", "Forbidden: only deletion is allowed")])
        if gates:
            for spec in (before, after):
                spec.pop("nodeSelector", None)
                spec.pop("affinity", None)
        if before != after:
            allowed = (
                "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
                "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
                "(allow it to be set to 1 if it was previously negative)"
            )
            message = f"Forbidden: pod updates may not change fields other than {allowed}"
            raise invalid(kind, name, [("spec", message)])


def _fixed(pod: Obj) -> Obj:
    spec: Obj = copy.deepcopy(pod["spec"])
    for name in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        spec.pop(name, None)
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        container.pop("image", None)
    return spec
