"""A proxy that can be disturbed, and a forwarder, between Rempart and servers that a test did not start.

In front of a real cluster's API, the proxy does what the test double does by itself: it records requests, answers with
faults, is slow, or is away. It ends TLS and adds the credentials, so its clients know neither.
"""

from __future__ import annotations

import asyncio
import copy
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from tests.kubernetes_double.api import Request
from tests.kubernetes_double.errors import Refusal
from tests.kubernetes_double.faults import Fault, Faults

T = TypeVar("T")
_HOP = {"connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host"}
"""Headers between two neighbours: each connection has its own."""


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-proxies", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Do it there, and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


@dataclass(frozen=True)
class Upstream:
    """The server behind a proxy."""

    url: str
    authorization: Callable[[], str | None] = field(default=lambda: None, repr=False)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None

    @classmethod
    def of(cls, settings: Any) -> Upstream:
        """The API server that a kubernetes.client.Configuration leads to, with whatever proves who we are."""
        tls = None
        if settings.host.startswith("https://"):
            tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
            if settings.cert_file:
                tls.load_cert_chain(settings.cert_file, settings.key_file)
            if not settings.verify_ssl:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

        def authorization() -> str | None:
            # asked anew for each request: a token that a plug-in makes ends soon
            found = settings.auth_settings().get("BearerToken")
            return str(found["value"]) if found and found["value"] else None

        return cls(settings.host.rstrip("/"), authorization, tls, settings.tls_server_name)

    @classmethod
    def known_by(cls, token: str, settings: Any) -> Upstream:
        """The same server, to which this token alone says who we are: a client's certificate would come before it."""
        anonymous = copy.copy(settings)
        anonymous.cert_file = anonymous.key_file = None
        found = cls.of(anonymous)
        return replace(found, authorization=lambda: f"Bearer {token}")

    def connector(self) -> TCPConnector:
        return TCPConnector(limit=0, ssl=self.tls if self.tls else True)


class Proxy:
    """An HTTP proxy in front of one server. With `guarded`, only who has its token is let through."""

    def __init__(
        self, loop: Loop, upstream: Upstream, host: str = "127.0.0.1", port: int = 0, *, guarded: bool
    ) -> None:
        self.token = f"test-{secrets.token_hex(16)}" if guarded else ""
        self.requests: list[Request] = []
        self._loop, self._upstream, self._host, self._port = loop, upstream, host, port
        self._faults = Faults()
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None
        self._held = socket.socket()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def start(self) -> Proxy:
        self._loop.run(self._serve())
        return self

    def stop(self) -> None:
        """Connections break and new ones are refused; the port stays ours."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._loop.run(runner.cleanup())

    def close(self) -> None:
        self.stop()
        if self._session is not None:
            self._loop.run(self._session.close())
        self._held.close()

    def fail(
        self,
        status: int,
        times: int = 1,
        method: str | None = None,
        path_contains: str | None = None,
        retry_after: int | None = None,
        *,
        done: bool = False,
        message: str | None = None,
    ) -> None:
        """The next requests that match fail; with `done` they take effect and only the answer is lost.

        Status 0 drops the connection.
        """
        self._faults.add(Fault(status, times, method, path_contains, retry_after, done, message))

    def latency(self, seconds: float) -> None:
        """Every request waits this long before it is handed on."""
        self._faults.seconds = seconds

    async def _serve(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self._port))
        if self._session is None:
            self._port = listener.getsockname()[1]
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # bound, never listening
                self._held.bind((self._host, self._port))
            self._session = ClientSession(
                connector=self._upstream.connector(), timeout=ClientTimeout(total=None), auto_decompress=False
            )
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._runner = runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Request(request.method, request.path_qs)
        self.requests.append(seen)
        await self._faults.wait()
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refuse(request, Refusal(401, "Unauthorized"))
        fault = self._faults.take(request.method, request.path_qs)
        if fault is None or fault.done:
            try:
                response = await self._pass_on(request, seen, lost=fault is not None)
            except (ClientError, OSError):
                self._drop(request)
                raise
            if response is not None:
                return response
        assert fault is not None
        seen.status = fault.status
        return self._refuse(request, fault.refusal(), fault.retry_after)

    async def _pass_on(self, request: web.Request, seen: Request, *, lost: bool) -> web.StreamResponse | None:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        if self.token:
            headers.pop("Authorization")
            # a plug-in that makes tokens is a process: it is not waited for in the loop
            if found := await asyncio.to_thread(self._upstream.authorization):
                headers["Authorization"] = found
        body = await request.read()
        headers.pop("Content-Length", None)
        async with self._session.request(
            request.method,
            # the path as it was sent: encoded once
            _url(self._upstream.url + request.raw_path),
            headers=headers,
            data=body or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            server_hostname=self._upstream.server_name,
        ) as answer:
            seen.status = answer.status
            if lost:
                await answer.read()
                return None
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            with suppress(ConnectionError):  # who asked has left: a watch that is over
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    def _refuse(self, request: web.Request, refusal: Refusal, retry_after: int | None = None) -> web.Response:
        if refusal.code == 0:
            self._drop(request)
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        body = json.dumps(refusal.status()).encode()
        code = refusal.code or 500
        return web.Response(body=body, status=code, headers=headers, content_type="application/json")

    def _drop(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()


def _url(text: str) -> Any:
    from yarl import URL

    return URL(text, encoded=True)


class Forwarder:
    """Takes TCP connections at an address of this machine to the same port of 127.0.0.1, as they are; with `tls` it
    ends TLS.
    """

    def __init__(self, loop: Loop, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._loop, self._host, self._port, self._tls = loop, host, port, tls
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> Forwarder:
        self._loop.run(self._serve())
        return self

    def close(self) -> None:
        self._loop.run(self._end())

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._connected, self._host, self._port, ssl=self._tls)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        forth: asyncio.StreamWriter | None = None
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        except OSError:  # nobody listens there: the caller sees its connection end
            pass
        finally:
            self._running.discard(task)
            writer.close()
            if forth is not None:
                forth.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with suppress(OSError, RuntimeError):
            writer.write_eof() if writer.can_write_eof() else writer.close()
