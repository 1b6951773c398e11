"""Mount the cockpit under /rempart: an application that is imported at its first request, inside an error boundary.

Airflow imports plugins in each of its processes, including tasks, and only the API server serves pages: so this module
imports only the standard library and one constant. An error below it becomes an answer with a number, and the API
server's log has the cause under that number: a broken page, or a cockpit that cannot be imported, affects nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rempart.web.request_scope import AIRFLOW

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


def _load() -> ASGIApp:
    from rempart.web.app import app

    return app


class Cockpit:
    """ASGI application that loads the cockpit at its first request, and turns its errors into answers."""

    def __init__(self, load: Callable[[], ASGIApp] = _load) -> None:
        self._load, self._lock = load, threading.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing of ours has a lifespan or speaks WebSocket
            return
        began = False

        async def noting(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            if self._app is None:  # the import takes seconds, and Airflow's own requests must not wait for it
                await asyncio.to_thread(self._ready)
            app = self._ready()
            await app({**scope, AIRFLOW: scope.get("app")}, receive, noting)
        except Exception:
            number = secrets.token_hex(4)
            logger.exception("Incident %s on a page under /rempart", number)
            if not began:
                await _answer(send, number)

    def _ready(self) -> ASGIApp:
        with self._lock:
            if self._app is None:
                self._app = self._load()
            return self._app


async def _answer(send: Send, number: str) -> None:
    text = f"Rempart could not answer. Airflow is not affected. The cause is in the API server's log under {number}.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
