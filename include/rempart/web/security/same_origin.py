"""Refuses writes that a page of another origin sends with the reader's cookie.

An HTTP cookie ignores ports, and SameSite=Lax takes every port of a host for the same site: a page of another service
on this host can send a POST without a body, and the browser adds Airflow's cookie. A browser says where a request came
from: by Sec-Fetch-Site on HTTPS and on localhost, and by Origin on every write (Fetch standard, "append a request
`Origin` header"). A request with neither is not from a browser's page.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_READS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_BODY = json.dumps(
    {"detail": "This write came from a page of another origin. Send it from Airflow's own pages, or with a token."}
).encode()


def from_another_origin(method: str, headers: dict[str, str]) -> bool:
    """Return whether a page of another origin sent a writing request with a cookie. Header names are lower case.

    A token in Authorization is no cookie: no page can add it without this server's consent (CORS).
    """
    if method.upper() in _READS or "cookie" not in headers or "authorization" in headers:
        return False
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    if (origin := headers.get("origin")) is not None:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    return False


class SameOrigin:
    """ASGI middleware: answers 403 to such a request, before any route sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if from_another_origin(scope["method"], headers):
                await _refuse(send)
                return
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})
