"""The API server's operations on objects: create, replace, patch, delete. Used from one event loop only."""

from __future__ import annotations

import copy
import secrets
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from . import admission, patches, validation
from .errors import Refusal, already_exists, conflict, invalid, not_found
from .kinds import BUILT_IN, EVENT, NAMESPACE, POD, SERVICE_ACCOUNT, Kind, Obj
from .quota import finished
from .store import Store

_RANDOM = "bcdfghjklmnpqrstvwxz2456789"
_SERVER_SET = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation")
_TYPES = {
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
}


def stamp(moment: datetime | None = None, *, micro: bool = False) -> str:
    """A time as Kubernetes writes it, in UTC to the second (or to the microsecond)."""
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime(form)


class Cluster:
    """Objects and the rules by which they come, change and go."""

    def __init__(self) -> None:
        self.store = Store()
        self.kinds: list[Kind] = list(BUILT_IN)
        self.webhooks: list[Callable[[Kind, Obj], None]] = []
        """Mutating webhooks: they change in place what is to be created."""

    def kind(self, group: str, version: str, plural: str) -> Kind | None:
        """The resource of a path, where it is served."""
        wanted = (group, version, plural)
        return next((each for each in self.kinds if (each.group, each.version, each.plural) == wanted), None)

    def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """The object, not to be mutated. Raises Refusal 404."""
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise not_found(kind, name)
        return found

    def create(self, kind: Kind, namespace: str, body: Obj, *, dry_run: bool = False) -> Obj:
        """Creates an object. Raises Refusal 400, 403, 404, 409 or 422."""
        obj = self._named(kind, namespace, body)
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise Refusal(500, "resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"][:58] + "".join(secrets.choice(_RANDOM) for _ in range(5))
        for name in _SERVER_SET:
            metadata.pop(name, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp(), "generation": 1}
        if kind.status:
            obj.pop("status", None)
        validation.fill_in(kind, obj)
        admission.mutate(self.store, kind, obj)
        for webhook in self.webhooks:
            webhook(kind, obj)
        validation.validate(kind, obj)
        if kind is POD:
            obj["status"] = {"phase": "Pending"}
        elif kind is NAMESPACE:
            obj["status"] = {"phase": "Active"}
        admission.check(self.store, kind, obj)
        if there := self.store.get(kind, metadata.get("namespace", ""), metadata["name"]):
            raise already_exists(kind, metadata["name"], ending="deletionTimestamp" in there["metadata"])
        if dry_run:
            return obj
        made = self.store.put(kind, obj)
        if kind is NAMESPACE:
            self.create(SERVICE_ACCOUNT, metadata["name"], {"metadata": {"name": "default"}})
        return made

    def _named(self, kind: Kind, namespace: str, body: Any, name: str | None = None) -> Obj:
        if not isinstance(body, dict) or not isinstance(body.get("metadata") or {}, dict):
            raise Refusal(400, "the body of the request is not an object")
        obj: Obj = copy.deepcopy(body)
        for field, wanted in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if obj.get(field) not in ({wanted} if kind.custom else {wanted, None, ""}):
                message = f"the {field} in the data ({obj.get(field)}) does not match the expected {field} ({wanted})"
                raise Refusal(400, message)
        metadata = {field: value for field, value in (obj.get("metadata") or {}).items() if value is not None}
        if kind.namespaced:
            if metadata.get("namespace", namespace) != namespace:
                message = "the namespace of the provided object does not match the namespace sent on the request"
                raise Refusal(400, message)
            metadata["namespace"] = namespace
        else:
            metadata.pop("namespace", None)
        if name is not None and metadata.setdefault("name", name) != name:
            message = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise Refusal(400, message)
        return {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata} | {
            field: value for field, value in obj.items() if field not in ("kind", "apiVersion", "metadata")
        }

    def replace(
        self, kind: Kind, namespace: str, name: str, body: Any, *, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        """Replaces an object, or its status. Raises Refusal 400, 404, 409 or 422."""
        old = self.get(kind, namespace, name)
        obj = self._named(kind, namespace, body, name)
        metadata = obj["metadata"]
        stale = "the object has been modified; please apply your changes to the latest version and try again"
        version = metadata.get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise conflict(kind, name, stale)
        if kind.custom and not version:
            raise invalid(
                kind, name, [("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")]
            )
        if metadata.get("uid") and metadata["uid"] != old["metadata"]["uid"]:
            found = old["metadata"]["uid"]
            raise conflict(
                kind, name, f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {found}"
            )
        for field in _SERVER_SET:
            metadata.pop(field, None)
            if field in old["metadata"]:
                metadata[field] = old["metadata"][field]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if metadata.get("finalizers") == []:
            del metadata["finalizers"]
        if subresource == "status":
            obj = old | {"status": obj.get("status") or {}, "metadata": metadata}
        elif kind.status:
            obj.pop("status", None)
            obj |= {"status": old["status"]} if "status" in old else {}
        validation.fill_in(kind, obj)
        if kind is POD and not subresource:
            for field in (
                "serviceAccountName",
                "serviceAccount",
                "priority",
                "preemptionPolicy",
                "tolerations",
                "nodeName",
            ):
                if field in old["spec"] and field not in obj.get("spec", {}):
                    obj.setdefault("spec", {})[field] = old["spec"][field]
        validation.validate(kind, obj)
        validation.validate_update(kind, obj, old)
        if obj.get("spec") != old.get("spec"):
            metadata["generation"] = old["metadata"].get("generation", 1) + 1
        return obj if dry_run else self._store(kind, obj, old)

    def _store(self, kind: Kind, obj: Obj, old: Obj) -> Obj:
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and kind is not NAMESPACE:
            gone = kind is not POD or metadata.get("deletionGracePeriodSeconds") == 0
            if gone and old["metadata"].get("finalizers"):
                return self.store.remove(kind, obj)
        return old if obj == old else self.store.put(kind, obj)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Any,
        content_type: str,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Obj:
        """Patches an object, or its status. Raises Refusal 400, 404, 409, 415 or 422."""
        if content_type not in _TYPES or (kind.custom and "strategic" in content_type):
            accepted = ", ".join(sorted(_TYPES))
            raise Refusal(
                415, f"the body of the request was in an unknown format - accepted media types include: {accepted}"
            )
        old = self.store.get(kind, namespace, name)
        if content_type == "application/apply-patch+yaml":
            if old is None:
                return self.create(kind, namespace, body, dry_run=dry_run)
            new = patches.strategic(old, body)
        elif old is None:
            raise not_found(kind, name)
        elif content_type == "application/json-patch+json":
            if not isinstance(body, list):
                raise Refusal(400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
            new = patches.apply_json(old, body)
        elif not isinstance(body, dict):
            raise Refusal(400, "error decoding patch: json: cannot unmarshal into Go value of type map")
        else:
            new = (
                patches.merge
                if "merge-patch+json" in content_type and "strategic" not in content_type
                else patches.strategic
            )(old, body)
        return self.replace(kind, namespace, name, new, subresource=subresource, dry_run=dry_run)

    def modify(self, kind: Kind, namespace: str, name: str, change: Callable[[Obj], None], uid: str = "") -> Obj | None:
        """A controller's write: `change` mutates a copy, stored where it differs. None where no object is there."""
        old = self.store.get(kind, namespace, name)
        if old is None or (uid and old["metadata"]["uid"] != uid):
            return None
        new = copy.deepcopy(old)
        change(new)
        return old if new == old else self.store.put(kind, new)

    def delete(
        self, kind: Kind, namespace: str, name: str, options: Obj | None = None, *, dry_run: bool = False
    ) -> tuple[Obj, bool]:
        """Deletes an object, or begins to. Returns its last state and whether it is gone. Raises Refusal 404 or 409."""
        options = options or {}
        old = self.get(kind, namespace, name)
        for field, value in (options.get("preconditions") or {}).items():
            if value and value != old["metadata"].get(field):
                label = "UID" if field == "uid" else "ResourceVersion"
                found = old["metadata"].get(field)
                why = f"Precondition failed: {label} in precondition: {value}, {label} in object meta: {found}"
                raise conflict(kind, name, why)
        grace = self._grace(kind, old, options)
        obj = copy.deepcopy(old)
        metadata = obj["metadata"]
        present = metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and present is not None:
            grace = min(grace, present)
        if not metadata.get("deletionTimestamp") or grace != present:
            metadata["deletionTimestamp"] = stamp(datetime.now(UTC) + timedelta(seconds=grace))
            metadata["deletionGracePeriodSeconds"] = grace
        gone = grace == 0 and not metadata.get("finalizers") and kind is not NAMESPACE
        if kind is NAMESPACE:
            obj["status"] = obj.get("status", {}) | {"phase": "Terminating"}
        if dry_run:
            return obj, gone
        if options.get("propagationPolicy") == "Orphan" or options.get("orphanDependents"):
            self._orphan(metadata["uid"])
        if gone:
            return self.store.remove(kind, obj), True
        return (old if obj == old else self.store.put(kind, obj)), False

    def _grace(self, kind: Kind, obj: Obj, options: Obj) -> int:
        if kind is not POD or not obj["spec"].get("nodeName") or finished(obj):
            return 0
        asked = options.get("gracePeriodSeconds")
        if asked is None:
            asked = obj["spec"].get("terminationGracePeriodSeconds", 30)
        return max(int(asked), 0)

    def _orphan(self, uid: str) -> None:
        def strip(obj: Obj) -> None:
            owners = obj["metadata"].get("ownerReferences") or []
            obj["metadata"]["ownerReferences"] = [owner for owner in owners if owner.get("uid") != uid]

        for kind, obj in list(self.store.everything()):
            if any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or []):
                self.modify(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], strip)

    def record(
        self, about: Obj, component: str, reason: str, message: str, *, warning: bool = False, host: str = ""
    ) -> None:
        """An event about an object; the same one again increases its count."""
        involved = {
            "kind": about["kind"],
            "namespace": about["metadata"].get("namespace", "default"),
            "name": about["metadata"]["name"],
            "uid": about["metadata"]["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": about["metadata"]["resourceVersion"],
        }
        namespace = involved["namespace"]
        home = self.store.get(NAMESPACE, "", namespace)
        if home is None or home["metadata"].get("deletionTimestamp"):
            return
        for event in self.store.list(EVENT, namespace):
            same = event["involvedObject"]["uid"] == involved["uid"] and event["source"].get("component") == component
            if same and event["reason"] == reason and event["message"] == message:
                self.store.put(EVENT, event | {"count": event["count"] + 1, "lastTimestamp": stamp()})
                return
        name = f"{about['metadata']['name'][:230]}.{secrets.token_hex(8)}"
        source = {"component": component} | ({"host": host} if host else {})
        body: Obj = {"metadata": {"name": name}, "involvedObject": involved, "reason": reason, "message": message}
        body |= {"source": source, "type": "Warning" if warning else "Normal", "count": 1}
        body |= {"firstTimestamp": stamp(), "lastTimestamp": stamp(), "eventTime": None}
        self.create(EVENT, namespace, body | {"reportingComponent": component, "reportingInstance": host})


def set_condition(obj: Obj, name: str, status: str, reason: str = "", message: str = "") -> None:
    """Sets one of an object's conditions, in place; its transition time changes only with its status."""
    conditions: list[Obj] = obj.setdefault("status", {}).setdefault("conditions", [])
    old = next((each for each in conditions if each["type"] == name), None)
    new: Obj = {"type": name, "status": status, "lastProbeTime": None}
    same = old is not None and old["status"] == status
    new["lastTransitionTime"] = old["lastTransitionTime"] if old is not None and same else stamp()
    new |= ({"reason": reason} if reason else {}) | ({"message": message} if message else {})
    if old is None:
        conditions.append(new)
    else:
        conditions[conditions.index(old)] = new


def condition(obj: Obj, name: str) -> Obj | None:
    """One of an object's conditions."""
    found: Iterable[Obj] = (obj.get("status") or {}).get("conditions") or []
    return next((each for each in found if each["type"] == name), None)
