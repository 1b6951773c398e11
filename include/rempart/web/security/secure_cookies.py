"""Mark every cookie `Secure` if people reach Airflow by https, even if a proxy in front of it ends TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = b"set-cookie"


class SecureCookies:
    """ASGI middleware: adds the attribute to cookies that lack it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secure(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, _secure(name, value)) for name, value in message.get("headers", [])]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_secure if scope["type"] == "http" else send)


def _secure(name: bytes, value: bytes) -> bytes:
    attributes = {part.strip().lower() for part in value.split(b";")[1:]}
    return value if name.lower() != _COOKIE or b"secure" in attributes else value + b"; Secure"
