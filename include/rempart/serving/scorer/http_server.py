"""Serve the application over HTTP, within limits for slow and for many clients, until it is asked to stop."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 10.0
"""Seconds in which a request's header must arrive."""
MOST_HEADER = 64 << 10
"""Bytes of a request's header, and of a body that comes after its request was answered."""
MOST_CONNECTIONS = 1000
"""Open connections; a request on any further one gets 503."""
STOP_SECONDS = 20
"""Seconds that requests in flight have to end when the server stops."""


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection on which a request's header is too long or late; so is the rest of a refused body."""

    _late: asyncio.TimerHandle | None = None
    _read = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._late is not None:  # what is expected is not complete
            self._read += len(data)
            if self._read > MOST_HEADER:
                self.transport.close()

    def on_message_begin(self) -> None:
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._arrived()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and self.cycle.more_body and not self.transport.is_closing():
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._arrived()
        self._read = 0
        self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class StoppableServer(uvicorn.Server):
    """A server that ends at SIGTERM and SIGINT, and lets its caller finish: uvicorn's own raises the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def server(
    application: Any, host: str, port: int, tls: tuple[Path, Path] | None = None, *, most: int = MOST_CONNECTIONS
) -> uvicorn.Server:
    """Return a server that has not started. `tls`: files of the certificate and its key, PEM."""
    configuration = uvicorn.Config(
        application,
        host,
        port,
        http=PatientProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=most,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=tls and tls[0],
        ssl_keyfile=tls and tls[1],
        ssl_context_factory=_strict if tls else None,
    )
    return StoppableServer(configuration)


def _strict(_: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
