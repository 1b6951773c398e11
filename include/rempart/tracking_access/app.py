"""The app that MLflow's server runs (`rempart.tracking_access.serve`): MLflow's basic-auth app behind the list.

Every request comes here first, whichever of MLflow's two frameworks would answer it. What the list does not allow is
refused with 401 or 403; what it allows is still judged by MLflow's own rights.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rempart import lean_imports
from rempart.models.tracking_users import JOB
from rempart.tracking_access import job_calls, routes
from rempart.tracking_access.job_calls import NotAllowed
from rempart.tracking_access.routes import Call, Role

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READER, READER_PASSWORD = "rempart-reader", "REMPART_AIRFLOW_MLFLOW_PASSWORD"
"""The user with which tasks read MLflow, and the variable that holds its password."""
MOST_BODY = 4 * 1024 * 1024
"""Bytes of a call that is read here before it is handed on."""
_REMEMBERED = 10_000
logger = logging.getLogger(__name__)


class Users(Protocol):
    """Users and owners from MLflow's own stores. Each call may take a while."""

    def administrator(self, name: str, password: str) -> bool | None:
        """Return whether a user is an administrator, or None for an unknown user or a wrong password."""

    def owner(self, kind: str, name: str) -> tuple[str, str] | None:
        """Return the user that made a run or model, and its experiment; None if it does not exist."""


@dataclass
class Access:
    """The ASGI app: `inner` hears only of calls that are allowed."""

    inner: App
    users: Users
    listed: tuple[routes.Route, ...] = field(default_factory=routes.listed)
    _owners: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, plain = (
            scope["method"],
            scope["path"],
            routes.is_plain(scope["path"], scope.get("raw_path") or b""),
        )
        if plain and (routes.allowed(self.listed, routes.ANYBODY, method, path)):
            await self.inner(_without(scope, b"authorization"), receive, send)
            return
        if (user := await self._user(scope)) is None:
            await _refuse(send, 401, "Log in as a user of MLflow.")
            return
        name, role = user
        call = routes.allowed(self.listed, role, method, path) if plain else None
        try:
            if call is None:
                raise NotAllowed("no route in the list allows it")
            if role == "job":
                scope, receive = await self._as_job(call, name, scope, receive)
            elif role == "platform" and call.route.template.endswith("/mlflow/experiments/create"):
                scope, receive = await _without_places(scope, receive)
        except NotAllowed as why:
            logger.warning("refused %s %r to user %r (%s): %s", method, path[:200], name[:80], role, why)
            await _refuse(send, 403, f"This user may not make the call: {why}.")
            return
        await self.inner(scope, receive, send)

    async def _user(self, scope: Scope) -> tuple[str, Role] | None:
        """Return name and role of the user in the Authorization header; None if invalid."""
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or (credentials := _credentials(given[0])) is None:
            return None
        administrator = await _in_thread(lambda: self.users.administrator(*credentials))
        if administrator is None:
            return None
        if credentials[0].startswith(JOB):  # also where somebody made it an administrator
            return credentials[0], "job"
        return credentials[0], "platform" if administrator else "person"

    async def _as_job(self, call: Call, user: str, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """Return the request to pass on if all that it names belongs to the user. Raises NotAllowed."""
        upload = job_calls.is_upload(call)
        body = b"" if upload else await _body(scope, receive)
        demand = job_calls.demand(call, scope.get("query_string") or b"", body, user)
        for kind, names in (("run", demand.runs), ("model", demand.models)):
            for name in names:
                if (found := await self._owner(kind, name)) is None or found[0] != user:
                    raise NotAllowed(f"a {kind} of another job")
                if demand.experiment not in (None, found[1]):
                    raise NotAllowed(f"a {kind} of another experiment")
        return (scope, receive) if demand.body is None else _handed_on(scope, receive, demand.body)

    async def _owner(self, kind: str, name: str) -> tuple[str, str] | None:
        """Return the owner of a run or model, cached because it never changes."""
        if (known := self._owners.get((kind, name))) is not None:
            return known
        found: tuple[str, str] | None = await _in_thread(lambda: self.users.owner(kind, name))
        if found is not None:
            if len(self._owners) >= _REMEMBERED:
                self._owners.clear()
            self._owners[kind, name] = found
        return found


async def _in_thread(act: Callable[[], Any]) -> Any:
    import anyio.to_thread

    return await anyio.to_thread.run_sync(act)


def _credentials(header: bytes) -> tuple[str, str] | None:
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = base64.b64decode(rest.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon and name else None


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the whole body of a call. Raises NotAllowed if it is longer than MOST_BODY, or compressed."""
    if any(name.lower() == b"content-encoding" for name, _ in scope["headers"]):
        raise NotAllowed("a compressed body")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise NotAllowed("an incomplete body")
        parts.append(message.get("body", b""))
        if (size := size + len(parts[-1])) > MOST_BODY:
            raise NotAllowed(f"a body of more than {MOST_BODY} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _without_places(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Check that a call that makes an experiment does not choose an artifact location. Raises NotAllowed."""
    body = await _body(scope, receive)
    if scope.get("query_string"):
        raise NotAllowed("a query")
    if unknown := sorted(job_calls.parse(body).keys() - {"name", "tags"}):
        raise NotAllowed(f"the field '{unknown[0][:40]}'; the server chooses the place of artifacts")
    return _handed_on(scope, receive, body)


def _handed_on(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """Return the request with this body."""
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in (b"content-length", b"content-type", b"transfer-encoding")
    ]
    if body:
        headers += [(b"content-type", b"application/json")]
    headers += [(b"content-length", str(len(body)).encode())]
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def once() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": headers}, once


def _without(scope: Scope, header: bytes) -> Scope:
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name.lower() != header]}


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error_code": "UNAUTHENTICATED" if status == 401 else "PERMISSION_DENIED", "message": text})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="mlflow"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


@dataclass(frozen=True)
class MlflowUsers:
    """Answers of the stores of this process's MLflow."""

    def administrator(self, name: str, password: str) -> bool | None:
        from mlflow.server import auth

        found = auth._authenticate_cached(name, password)
        return None if found is None else bool(found.is_admin)

    def owner(self, kind: str, name: str) -> tuple[str, str] | None:
        from mlflow.exceptions import MlflowException
        from mlflow.server.handlers import _get_tracking_store

        store = _get_tracking_store()
        try:
            if kind == "run":
                run = store.get_run(name)  # type: ignore[no-untyped-call] # MLflow has no types there
                tags, experiment = run.data.tags, run.info.experiment_id
            else:
                model = store.get_logged_model(name)
                tags, experiment = model.tags, model.experiment_id
        except MlflowException:
            return None
        user = tags.get(job_calls.OWNER)
        return (str(user), str(experiment)) if user else None


def ensure_reader(variables: Mapping[str, str]) -> None:
    """Make the user with which tasks read MLflow, or set its password from these settings, if any.

    The user can read every experiment and registered model, and write nothing. The route list treats it as a person.
    """
    from mlflow.server import auth

    if not (password := variables.get(READER_PASSWORD)):
        return
    if not auth.store.has_user(READER):
        auth.store.create_user(READER, password)
    elif not auth.store.authenticate_user(READER, password):
        auth.store.update_user(READER, password=password)
    for kind in ("experiment", "registered_model"):
        auth.store.grant_user_permission(READER, kind, "*", "READ")


def registered(served: Any) -> Iterable[tuple[str, str]]:
    """Return method and rule of every route of MLflow's FastAPI app and of the Flask app below it."""
    from mlflow.server import app as flask_app

    for rule in flask_app.url_map.iter_rules():
        yield from ((method, rule.rule) for method in rule.methods or () if method not in ("HEAD", "OPTIONS"))
    for route in served.routes:
        methods = getattr(route, "methods", None) or ()
        yield from ((method, route.path) for method in methods if method not in ("HEAD", "OPTIONS"))


def create_app() -> App:
    """Return MLflow's app behind the list, with its stores open and their tables made.

    Raises RuntimeError if the server would not route all calls through it.
    """
    if os.environ.get("_MLFLOW_SGI_NAME") != "uvicorn":
        raise RuntimeError("Rempart's app of MLflow is run by `python -m rempart.tracking_access.serve` only.")
    with lean_imports.uncollected():  # a quarter of the time
        from mlflow.server import auth, handlers

    handlers.initialize_backend_stores()
    served = auth.create_app()
    ensure_reader(os.environ)
    if unknown := routes.unlisted(routes.listed(), registered(served)):
        logger.warning(
            "MLflow has %d routes that the route list lacks, so no user may call them: %s",
            len(unknown),
            ", ".join(unknown[:5]),
        )
    return Access(served, MlflowUsers())
