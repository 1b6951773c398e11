"""The HTTP API: paths, verbs, authentication, and answers as a real API server gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from aiohttp import web

from . import logs
from .access import Tokens, User, review
from .cluster import Cluster, set_condition, stamp
from .discovery import discover
from .errors import Refusal
from .faults import Fault, Faults
from .kinds import LOCAL_REVIEWS, NAMESPACE, POD, REVIEWS, SERVICE_ACCOUNT, Kind, Obj
from .kubelet import Kubelet
from .quota import finished
from .selection import Matches, by_fields, by_labels

_UNKNOWN_PATH = "the server could not find the requested resource"


@dataclass
class Request:
    """One request that the server saw; `status` is 0 while there is no answer."""

    method: str
    path: str
    user: str = ""
    status: int = 0


@dataclass(frozen=True)
class _Target:
    kind: Kind
    namespace: str
    name: str
    subresource: str


class Api:
    """Handles every request."""

    def __init__(self, cluster: Cluster, kubelet: Kubelet, tokens: Tokens, faults: Faults) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        self.tokens = tokens
        self.faults = faults
        self.requests: list[Request] = []

    def application(self) -> web.Application:
        """A new application; one serves from a start of the server to its stop."""
        app = web.Application(client_max_size=3 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Request(request.method, request.path_qs)
        self.requests.append(seen)
        fault: Fault | None = None
        try:
            await self.faults.wait()
            user = self.tokens.authenticate(request.headers.get("Authorization"))
            seen.user = user.name
            fault = self.faults.take(request.method, request.path_qs)
            response = None if fault and not fault.done else await self._answer(request, user)
            if fault is not None:
                if fault.status == 0 and request.transport is not None:
                    request.transport.abort()
                raise fault.refusal()
            assert response is not None
        except Refusal as refusal:
            response = _json(refusal.status(), refusal.code or 500)
            if fault is not None and fault.retry_after is not None:
                response.headers["Retry-After"] = str(fault.retry_after)
        seen.status = response.status
        return response

    async def _answer(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path
        if request.method == "GET" and (document := discover(path, self.cluster.kinds)) is not None:
            return _json(document)
        parts = path.strip("/").split("/")
        if parts[:3] == ["apis", "authorization.k8s.io", "v1"] and len(parts) == 4 and parts[3] in REVIEWS:
            body = await _body(request)
            named = {"kind": REVIEWS[parts[3]], "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
            return _json(review(user, parts[3], body | named), 201)
        if parts[:4] == ["apis", "authorization.k8s.io", "v1", "namespaces"] and parts[5:] == [LOCAL_REVIEWS]:
            return _json(self._local_review(user, parts[4], await _body(request)), 201)
        target = self._target(parts)
        verb = self._verb(request, target)
        # a request for a namespace is one in that namespace, so a Role there can allow it
        where = target.name if target.kind is NAMESPACE else target.namespace
        user.demand(verb, target.kind, target.subresource, where, target.name)
        if target.subresource not in ("", "status"):
            return await self._subresource(request, target, verb)
        match verb:
            case "get":
                return _json(self.cluster.get(target.kind, target.namespace, target.name))
            case "list":
                return self._list(request.query, target)
            case "watch":
                return await self._watch(request, target)
            case "delete" | "deletecollection":
                return await self._delete(request, target, verb)
        return await self._write(request, target, verb)

    def _local_review(self, user: User, namespace: str, body: Obj) -> Obj:
        """The answer to a LocalSubjectAccessReview about a service account of the namespace."""
        user.demand("create", Kind("authorization.k8s.io", "v1", LOCAL_REVIEWS, ""), "", namespace, "")
        _, _, home, name = str(body["spec"]["user"]).split(":")
        about = User(body["spec"]["user"], self.tokens.bound(home, name))
        return review(about, "localsubjectaccessreviews", body)

    def _target(self, parts: list[str]) -> _Target:
        if parts[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise Refusal(404, _UNKNOWN_PATH)
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        kind = self.cluster.kind(group, version, rest[0]) if rest else None
        if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
            raise Refusal(404, _UNKNOWN_PATH)
        name, subresource = [*rest[1:], "", ""][:2]
        if name and kind.namespaced and not namespace:
            raise Refusal(404, _UNKNOWN_PATH)
        known = {"status"} if kind.status else set()
        known |= {"log", "eviction", "exec", "attach", "portforward"} if kind is POD else set()
        known |= {"token"} if kind is SERVICE_ACCOUNT else set()
        if subresource and subresource not in known:
            raise Refusal(404, _UNKNOWN_PATH)
        return _Target(kind, namespace, name, subresource)

    def _verb(self, request: web.Request, target: _Target) -> str:
        watching = request.query.get("watch") in logs.TRUE
        verbs = {
            "GET": "get" if target.name else "watch" if watching else "list",
            "POST": "" if target.name and not target.subresource else "create",
            "PUT": "update" if target.name else "",
            "PATCH": "patch" if target.name else "",
            "DELETE": "delete" if target.name else "deletecollection",
        }
        verb = verbs.get(request.method, "")
        unplaced = verb in ("create", "deletecollection") and target.kind.namespaced and not target.namespace
        if not verb or unplaced or (target.subresource == "status" and verb not in ("get", "update", "patch")):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        return verb

    def _selected(self, query: Mapping[str, str], kind: Kind) -> Matches:
        labels, fields = by_labels(query.get("labelSelector", "")), by_fields(kind, query.get("fieldSelector", ""))
        return lambda obj: labels(obj) and fields(obj)

    def _list(self, query: Mapping[str, str], target: _Target) -> web.Response:
        kind = target.kind
        items = self.cluster.store.list(kind, target.namespace, self._selected(query, kind))
        if not kind.custom:
            items = [
                {name: value for name, value in item.items() if name not in ("kind", "apiVersion")} for item in items
            ]
        metadata = {"resourceVersion": str(self.cluster.store.version)}
        listed = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        return _json(listed)

    async def _watch(self, request: web.Request, target: _Target) -> web.StreamResponse:
        matches = self._selected(request.query, target.kind)
        since = request.query.get("resourceVersion")
        if since and not since.isdigit():
            raise Refusal(400, f'resourceVersion: Invalid value: "{since}": strconv.ParseUint: invalid syntax')
        seconds = request.query.get("timeoutSeconds")
        response, tell, gone = await _opened(request)

        async def stream() -> None:
            try:
                async for what, obj in self.cluster.store.watch(target.kind, target.namespace, matches, since):
                    await tell(json.dumps({"type": what, "object": obj}))
            except Refusal as refusal:
                await tell(json.dumps({"type": "ERROR", "object": refusal.status()}))

        tasks = [asyncio.ensure_future(stream()), asyncio.ensure_future(gone)]
        limit = float(seconds) if seconds and seconds != "0" else None
        try:
            done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ConnectionError:
            return response
        finally:
            for task in tasks:
                task.cancel()
        await response.write_eof()
        return response

    async def _write(self, request: web.Request, target: _Target, verb: str) -> web.Response:
        body = await _body(request)
        dry_run = _dry_run(request.query)
        kind, namespace, name = target.kind, target.namespace, target.name
        if verb == "create":
            return _json(self.cluster.create(kind, namespace, body, dry_run=dry_run), 201)
        if verb == "update":
            made = self.cluster.replace(kind, namespace, name, body, subresource=target.subresource, dry_run=dry_run)
            return _json(made)
        content_type, sub = request.content_type, target.subresource
        made = self.cluster.patch(kind, namespace, name, body, content_type, subresource=sub, dry_run=dry_run)
        return _json(made)

    async def _delete(self, request: web.Request, target: _Target, verb: str) -> web.Response:
        options = (await _body(request)) or {}
        query = request.query
        if "gracePeriodSeconds" in query:
            options.setdefault("gracePeriodSeconds", int(query["gracePeriodSeconds"]))
        if "propagationPolicy" in query:
            options.setdefault("propagationPolicy", query["propagationPolicy"])
        dry_run = _dry_run(query) or bool(options.get("dryRun"))
        kind, namespace = target.kind, target.namespace
        if verb == "deletecollection":
            found = self.cluster.store.list(kind, namespace, self._selected(query, kind))
            for obj in found:
                self.cluster.delete(
                    kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], options, dry_run=dry_run
                )
            metadata = {"resourceVersion": str(self.cluster.store.version)}
            return _json(
                {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": found}
            )
        last, gone = self.cluster.delete(kind, namespace, target.name, options, dry_run=dry_run)
        if kind is POD or not gone:
            return _json(last)
        details = {"name": target.name, "kind": kind.plural, "uid": last["metadata"]["uid"]}
        details |= {"group": kind.group} if kind.group else {}
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return _json(success)

    async def _subresource(self, request: web.Request, target: _Target, verb: str) -> web.StreamResponse:
        if target.subresource == "log" and verb == "get":
            return await self._log(request, target)
        if target.subresource == "eviction" and verb == "create":
            options = (await _body(request)).get("deleteOptions") or {}
            dry_run = _dry_run(request.query)
            return _json(self.evict(target.namespace, target.name, options, dry_run=dry_run), 201)
        if target.subresource == "token" and verb == "create":
            return _json(self._token(target, await _body(request)), 201)
        if target.subresource in ("exec", "attach", "portforward"):
            raise Refusal(501, f"this test double has no pods/{target.subresource}", "NotImplemented")
        raise Refusal(405, "the server does not allow this method on the requested resource")

    def _token(self, target: _Target, body: Obj) -> Obj:
        """The answer to a TokenRequest. The token lasts as long as the double, whatever was asked."""
        self.cluster.get(SERVICE_ACCOUNT, target.namespace, target.name)
        seconds = int((body.get("spec") or {}).get("expirationSeconds") or 3600)
        ends = stamp(datetime.now(UTC) + timedelta(seconds=seconds))
        status = {"token": self.tokens.issue(target.namespace, target.name), "expirationTimestamp": ends}
        named = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
        return body | named | {"status": status}

    async def _log(self, request: web.Request, target: _Target) -> web.StreamResponse:
        log = logs.find(self.cluster, self.kubelet, target.namespace, target.name, request.query)
        lines = logs.read(log, request.query)
        first = await anext(lines, b"") if request.query.get("follow") not in logs.TRUE else b""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            if first:
                await response.write(first)
            async for line in lines:
                await response.write(line)
            await response.write_eof()
        except ConnectionError:
            pass
        return response

    def evict(self, namespace: str, name: str, options: Obj | None = None, *, dry_run: bool = False) -> Obj:
        """The eviction API: deletes a pod gracefully. Raises Refusal 404."""
        pod = self.cluster.get(POD, namespace, name)

        def change(obj: Obj) -> None:
            set_condition(obj, "DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")

        if not dry_run and not finished(pod):
            self.cluster.modify(POD, namespace, name, change)
        self.cluster.delete(POD, namespace, name, options, dry_run=dry_run)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


Tell = Callable[[str], Awaitable[None]]


async def _opened(request: web.Request) -> tuple[web.StreamResponse, Tell, Awaitable[object]]:
    """The answer to a watch, what sends one line of it, and what ends when the client goes.

    It is a WebSocket if the client asks for one. An end of any other connection cancels the whole request.
    """
    if request.headers.get("Upgrade", "").lower() == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)

        async def read() -> None:
            async for _ in socket:
                pass

        return socket, socket.send_str, read()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)

    async def write(line: str) -> None:
        await response.write(f"{line}\n".encode())

    return response, write, asyncio.Event().wait()


def _dry_run(query: Mapping[str, str]) -> bool:
    asked = query.get("dryRun")
    if asked not in (None, "", "All"):
        raise Refusal(400, f'dryRun: Unsupported value: "{asked}": supported values: "All"')
    return asked == "All"


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if not raw:
        return {}
    try:
        return yaml.safe_load(raw) if "yaml" in request.content_type else json.loads(raw)
    except (ValueError, yaml.YAMLError) as problem:
        raise Refusal(400, f"couldn't get version/kind; json parse error: {problem}") from problem


def _json(body: Obj, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")
