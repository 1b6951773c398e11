"""Restrict browsers to our own host: no page of Airflow's web server loads a script, style, font or picture elsewhere.

Airflow's pages have their own files, but some pages of its components do not (the API documentation of its login and of
its task API load from public content networks, with the reader's address). The browser enforces this for every page and
plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FRAMING = "frame-ancestors 'self'"
"""Only pages of this very origin, including its port, may show our pages in a frame."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:",
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        FRAMING,
    )
)
"""Policy of Airflow's own pages, which need inline styles, WebAssembly for SQL highlighting, and the editor's
workers.
"""

_HEADER, _OLDER = b"content-security-policy", b"x-frame-options"


class ContentPolicy:
    """ASGI middleware that adds the policy to every answer without one, and the frame restriction to every other."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                found = [value for name, value in headers if name.lower() == _HEADER]
                if not found:
                    headers.append((_HEADER, POLICY.encode()))
                elif not any(b"frame-ancestors" in value for value in found):
                    headers.append((_HEADER, FRAMING.encode()))  # a browser holds to both
                if not any(name.lower() == _OLDER for name, _ in headers):
                    headers.append((_OLDER, b"SAMEORIGIN"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)
