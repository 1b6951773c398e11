"""The API server's description of itself."""

from __future__ import annotations

from collections.abc import Sequence

from .kinds import REVIEWS, Kind, Obj

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCES = {"pods": {"log": ["get"], "eviction": ["create"]}, "serviceaccounts": {"token": ["create"]}}
_VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def discover(path: str, kinds: Sequence[Kind]) -> Obj | None:
    """The document of a discovery path; None where it is none."""
    parts = path.strip("/").split("/")
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group} | {("authorization.k8s.io", "v1")})
    if parts == ["version"]:
        return dict(_VERSION)
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        names = sorted({group for group, _ in groups})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, groups) for name in names]}
    if parts[0] == "apis" and len(parts) == 2 and parts[1] in {group for group, _ in groups}:
        return {"kind": "APIGroup", "apiVersion": "v1"} | _group(parts[1], groups)
    if parts == ["api", "v1"]:
        return _resources("", "v1", kinds)
    if parts[0] == "apis" and len(parts) == 3 and (parts[1], parts[2]) in groups:
        return _resources(parts[1], parts[2], kinds)
    return None


def _group(name: str, groups: Sequence[tuple[str, str]]) -> Obj:
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version} for group, version in groups if group == name
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[-1]}


def _resources(group: str, version: str, kinds: Sequence[Kind]) -> Obj:
    listed: list[Obj] = []
    for kind in kinds:
        if (kind.group, kind.version) != (group, version):
            continue
        base = {"singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
        listed.append({"name": kind.plural, "verbs": _VERBS} | base)
        parts = {"status": ["get", "patch", "update"]} if kind.status else {}
        for name, verbs in (parts | _SUBRESOURCES.get(kind.plural, {})).items():
            listed.append({"name": f"{kind.plural}/{name}", "verbs": verbs} | base | {"singularName": ""})
    if group == "authorization.k8s.io":
        listed += [
            {"name": name, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["create"]}
            for name, kind in REVIEWS.items()
        ]
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}
