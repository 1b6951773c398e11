"""Serve the application over HTTP, within limits for slow and for many clients, until it is asked to stop."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rempart.errors import ServingError
from rempart.serving.scorer.handshakes import TlsListener
from rempart.serving.scorer.refusals import Refused

HEADER_SECONDS = 10.0
"""Seconds for a handshake of TLS, for a request's header, and for the rest of a body whose request was answered."""
READ_SECONDS = 10.0
"""Seconds in which a client must read an answer that the system's buffers do not hold."""
MOST_HEADER = 64 << 10
"""Bytes of a request's header."""
MOST_REST = 64 << 20
"""Bytes of a body that are read and thrown away after its request was answered, so that its client sees the answer."""
MOST_CONNECTIONS = 1000
"""Open connections. A further one takes the place of that which waits longest without a request."""
OTHER_FILES = 200
"""Files that the process opens beside connections: models, databases, the log."""
IDLE_SECONDS = 75.0
"""Seconds after which a connection without a request is closed."""
STOP_SECONDS = 20
"""Seconds that requests in flight have to end when the server stops."""
WHOLE_ANSWER = "whole_answer"
"""The extension of ASGI that sends a whole answer at once."""
Whole = Callable[[bytes], bool]
"""Sends a body of JSON with status 200. Returns False if the client does not read: then it is to be sent by parts."""


@dataclass
class Room:
    """The connections of a server. `silent`: those without a request so far; `idle`: those between two requests."""

    most: int
    open: int = 0
    silent: dict[PatientProtocol, None] = field(default_factory=dict)
    idle: dict[PatientProtocol, float] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None

    def longest_waiting(self) -> PatientProtocol | None:
        """Return the connection to close for another one; None if each has a request under way."""
        return next(iter(self.silent), None) or next(iter(self.idle), None)

    def rest(self, connection: PatientProtocol, loop: asyncio.AbstractEventLoop) -> None:
        """Count a connection as one between two requests, and end it if it stays so."""
        self.idle[connection] = loop.time() + IDLE_SECONDS
        if self._timer is None:
            self._timer = loop.call_later(IDLE_SECONDS, self._end_idle, loop)

    def _end_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        while (first := next(iter(self.idle), None)) and self.idle[first] <= loop.time():
            first.end()
        self._timer = loop.call_at(self.idle[first], self._end_idle, loop) if first else None

    def forget(self, connection: PatientProtocol) -> None:
        """Count a connection as one with a request under way."""
        self.silent.pop(connection, None)
        self.idle.pop(connection, None)


class PatientProtocol(HttpToolsProtocol):
    """Ends a connection whose client is too slow with a header, with a refused body, or in reading an answer."""

    def __init__(self, *given: Any, room: Room, **more: Any) -> None:
        super().__init__(*given, **more)
        self._room, self._is_open = room, False
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._read, self._most, self._is_awaited = 0, MOST_HEADER, False
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_open = True
        self._room.open += 1
        if self._room.open > self._room.most:
            if (other := self._room.longest_waiting()) is None:
                transport.write(_full())
                transport.close()
                self._await_reader()
                return
            other.end()
        self._room.silent[self] = None
        self._expect(MOST_HEADER)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_awaited:
            self._read += len(data)
            if self._read > self._most:
                self.end()
            elif self._late is None:
                self._late = self.loop.call_later(HEADER_SECONDS, self.end)

    def on_message_begin(self) -> None:
        self._arrived()
        self._read, self._most, self._is_awaited = 0, MOST_HEADER, True  # most headers arrive whole: no timer for them
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._arrived()
        self._room.forget(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        if self.transport.is_closing():
            self._await_reader()
            return
        if self.cycle is None or self.cycle.response_complete:
            self._room.rest(self, self.loop)
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self._expect(MOST_REST)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions: Any = {WHOLE_ANSWER: partial(self._send_whole, cycle)}
        cycle.scope["extensions"] = extensions
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _send_whole(self, cycle: RequestResponseCycle, body: bytes) -> bool:
        if cycle.disconnected or self.flow.write_paused:
            return False
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        date = b"".join(b"%b: %b\r\n" % header for header in cycle.default_headers)
        self.transport.write(_WHOLE % (date, len(body), close, body))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if close:
            self.transport.close()
        self.on_response_complete()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self._arrived()
        self._taken()
        self._disconnect()
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once: one that is closed would wait until its client read everything."""
        self.leave()
        self._disconnect()
        self.transport.abort()

    def leave(self) -> None:
        """Give the connection's place to others."""
        self._room.open -= self._is_open
        self._is_open = False
        self._room.forget(self)

    def _disconnect(self) -> None:
        """Let nothing be written any more. uvicorn tells only the newest of several requests, which waits."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _expect(self, most: int) -> None:
        self._arrived()
        self._read, self._most, self._is_awaited = 0, most, True
        self._late = self.loop.call_later(HEADER_SECONDS, self.end)

    def _arrived(self) -> None:
        self._is_awaited = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _await_reader(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(READ_SECONDS, self.end)

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


_WHOLE = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\ncontent-type: application/json\r\n%b\r\n%b"


def _full() -> bytes:
    body = Refused(503, "answer the request: all connections have one under way", "Ask again later.").body()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    )
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class StoppableServer(uvicorn.Server):
    """A server that ends at SIGTERM and SIGINT, and lets its caller finish: uvicorn's own raises the signal again."""

    def __init__(self, config: uvicorn.Config, room: Room) -> None:
        super().__init__(config)
        self._room = room

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn has no setting for the time and the number of handshakes."""
        loop: Any = asyncio.get_running_loop()
        if self.config.ssl is not None:
            loop.create_server = self._listen_with_tls
        try:
            await super().startup(sockets)
        finally:
            vars(loop).pop("create_server", None)

    async def _listen_with_tls(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        host: str = "",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        ssl: ssl.SSLContext,
        backlog: int,
    ) -> TlsListener:
        listening = sock or listen(host, port)
        listening.listen(backlog)
        room = self._room
        return TlsListener(listening, ssl, make, seconds=HEADER_SECONDS, most_now=lambda: room.most - room.open)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. Raises ServingError, such as for a port that is taken."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except (OSError, OverflowError) as cause:
        opened.close()
        raise ServingError(
            f"listen on {host}:{port}: {getattr(cause, 'strerror', None) or cause}",
            "Another program may have the port, such as a scorer that runs already. Pass another one with --port.",
        ) from cause
    return opened


def allowed_connections(most: int = MOST_CONNECTIONS) -> int:
    """Return how many connections the system's limit of open files leaves, after raising it as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return min(most, max(1, soft - OTHER_FILES))
    return most


def server(
    application: Any, host: str, port: int, tls: tuple[Path, Path] | None = None, *, most: int = MOST_CONNECTIONS
) -> uvicorn.Server:
    """Return a server that has not started. `tls`: files of the certificate and its key, PEM."""
    room = Room(most)
    protocol: Any = partial(PatientProtocol, room=room)
    configuration = uvicorn.Config(
        application,
        host,
        port,
        http=protocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=tls and tls[0],
        ssl_keyfile=tls and tls[1],
        ssl_context_factory=_strict if tls else None,
    )
    return StoppableServer(configuration, room)


def _strict(_: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
