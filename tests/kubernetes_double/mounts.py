"""Volumes of a pod as folders below its home. A container is a process that sees this machine's files, so a variable
whose value is a path below a mount is given the folder's path instead. /tmp stays this machine's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path

from .kinds import CONFIG_MAP, SECRET, Kind, Obj
from .store import Store

CERTIFICATES = "kube-root-ca.crt"
"""ConfigMap that a cluster keeps in each namespace. The double speaks plain HTTP: it has no certificate."""
_SHARED = "/tmp"

Issue = Callable[[str, str], str]
"""Issues a token of a service account, by its namespace and name."""


class NotMounted(Exception):
    """A volume cannot be set up: its pod waits."""


def folder(home: Path, volume: str) -> Path:
    """The folder of one of a pod's volumes."""
    return home / "volumes" / volume


def set_up(store: Store, pod: Obj, home: Path, issue: Issue, certificate: bytes = b"") -> None:
    """Makes the folders of a pod's volumes, with what a Secret, a ConfigMap or a projection has. Raises NotMounted.

    `certificate`: what pods find in CERTIFICATES.
    """
    for volume in pod["spec"].get("volumes") or []:
        made, name = folder(home, volume["name"]), volume["name"]
        made.mkdir(parents=True, exist_ok=True)
        sources = (volume.get("projected") or {}).get("sources") or [volume]
        for source in sources:
            for file, content in _files(store, pod, name, source, issue, certificate).items():
                (made / file).write_bytes(content)


def _files(store: Store, pod: Obj, volume: str, source: Obj, issue: Issue, certificate: bytes) -> Mapping[str, bytes]:
    namespace = pod["metadata"]["namespace"]
    if secret := source.get("secret"):
        name = secret.get("secretName") or secret.get("name")
        found = _data(store, SECRET, namespace, name, volume, optional=bool(secret.get("optional")))
        return _chosen({key: base64.b64decode(value) for key, value in found.items()}, secret)
    if config := source.get("configMap"):
        if config["name"] == CERTIFICATES:
            return _chosen({"ca.crt": certificate}, config)
        found = _data(store, CONFIG_MAP, namespace, config["name"], volume, optional=bool(config.get("optional")))
        return _chosen({key: value.encode() for key, value in found.items()}, config)
    if token := source.get("serviceAccountToken"):
        return {token["path"]: issue(namespace, pod["spec"]["serviceAccountName"]).encode()}
    return {}


def _data(store: Store, kind: Kind, namespace: str, name: str, volume: str, *, optional: bool) -> Mapping[str, str]:
    found = store.get(kind, namespace, name)
    if found is None and not optional:
        what = f'{kind.kind.lower()} "{name}" not found'
        raise NotMounted(f'MountVolume.SetUp failed for volume "{volume}" : {what}')
    data: Mapping[str, str] = (found or {}).get("data") or {}
    return data


def _chosen(files: Mapping[str, bytes], source: Obj) -> Mapping[str, bytes]:
    items = source.get("items")
    return files if items is None else {item["path"]: files[item["key"]] for item in items}


def local(container: Obj, home: Path, value: str) -> str:
    """A variable's value as the container's process may use it: a path below a mount becomes that of the folder."""
    mounts = container.get("volumeMounts") or []
    for mount in sorted(mounts, key=lambda each: -len(each["mountPath"])):
        path = mount["mountPath"].rstrip("/")
        if path != _SHARED and (value == path or value.startswith(f"{path}/")):
            return f"{folder(home, mount['name'])}{value.removeprefix(path)}"
    return value
