"""Admission: requirements on a create beyond validity."""

from __future__ import annotations

from . import pod_security, quota
from .errors import forbidden, invalid, not_found
from .kinds import NAMESPACE, POD, PRIORITY_CLASS, QUOTA, SERVICE_ACCOUNT, Kind, Obj
from .store import Store

_SYSTEM_PRIORITIES = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_UNHEALTHY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def mutate(store: Store, kind: Kind, obj: Obj) -> None:
    """Checks the namespace, then sets, in place, what admission sets on a pod. Raises Refusal 403 or 404."""
    name, namespace = obj["metadata"].get("name", ""), obj["metadata"].get("namespace", "")
    if kind.namespaced:
        home = store.get(NAMESPACE, "", namespace)
        if home is None:
            raise not_found(NAMESPACE, namespace)
        if home["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(kind, name, why)
    if kind is QUOTA and ({"scopes", "scopeSelector"} & set(obj.get("spec") or {})):
        raise invalid(kind, name, [("spec.scopes", "Unsupported value: this test double knows no quota scopes")])
    if kind is POD and isinstance(obj.get("spec"), dict):
        _mutate_pod(store, obj, name, namespace)


def _mutate_pod(store: Store, pod: Obj, name: str, namespace: str) -> None:
    spec = pod["spec"]
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    if store.get(SERVICE_ACCOUNT, namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden(POD, name, why)
    wanted = spec.get("priorityClassName")
    found: Obj = {}
    if wanted in _SYSTEM_PRIORITIES:
        found = {"value": _SYSTEM_PRIORITIES[wanted]}
    elif wanted:
        found = store.get(PRIORITY_CLASS, "", wanted) or {}
        if not found:
            raise forbidden(POD, name, f"no PriorityClass with name {wanted} was found")
    else:
        defaults = [each for each in store.list(PRIORITY_CLASS) if each.get("globalDefault")]
        if defaults:
            found = defaults[0]
            spec["priorityClassName"] = found["metadata"]["name"]
    spec["priority"] = found.get("value", 0)
    spec.setdefault("preemptionPolicy", found.get("preemptionPolicy", "PreemptLowerPriority"))
    tolerations = spec["tolerations"] = list(spec.get("tolerations") or [])
    for key in _UNHEALTHY:
        mine = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        if not any(each.get("key") in (None, "", key) and _covers(each) for each in tolerations):
            tolerations.append(mine)


def _covers(toleration: Obj) -> bool:
    return toleration.get("operator") == "Exists" and toleration.get("effect") in (None, "", "NoExecute")


def check(store: Store, kind: Kind, obj: Obj) -> None:
    """Pod Security, then quota. Raises Refusal 403."""
    name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace", "")
    if kind is POD:
        home = store.get(NAMESPACE, "", namespace)
        labels = ((home or {}).get("metadata") or {}).get("labels") or {}
        profile = labels.get(pod_security.LABEL, "privileged")
        version = labels.get(f"{pod_security.LABEL}-version", "latest")
        if broken := pod_security.violations(obj["spec"], profile):
            raise forbidden(kind, name, f'violates PodSecurity "{profile}:{version}": {", ".join(broken)}')
    if not kind.namespaced:
        return
    for each in store.list(QUOTA, namespace):
        objects = [pair for pair in store.everything() if pair[1]["metadata"].get("namespace") == namespace]
        if why := quota.refusal(each, kind, obj, objects):
            raise forbidden(kind, name, why)
