"""Cookies behind TLS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rempart.web.security.secure_cookies import SecureCookies


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        (b"_token=a; HttpOnly; Path=/; SameSite=lax", b"_token=a; HttpOnly; Path=/; SameSite=lax; Secure"),
        (b"session=b; Secure; HttpOnly", b"session=b; Secure; HttpOnly"),
        (b"session=b; secure", b"session=b; secure"),
        (b"name=secure", b"name=secure; Secure"),
    ],
)
def test_each_cookie_travels_encrypted_alone(sent: bytes, arrives: bytes) -> None:
    told: list[Any] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Set-Cookie", sent), (b"x", sent)]})

    async def keep(message: Any) -> None:
        told.append(message)

    asyncio.run(SecureCookies(server)({"type": "http"}, None, keep))  # type: ignore[arg-type] # nothing is received
    assert told[0]["headers"] == [(b"Set-Cookie", arrives), (b"x", sent)]
