"""Ports are tested without credentials: a port that answers anybody is distinguished from one that does not."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rempart.audit.knocking import Answer, knock
from rempart.deployment.setup import site_certificates


@contextmanager
def saying(answer: bytes) -> Iterator[int]:
    """A server that says the same to whatever it is sent; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        if connection.recv(4096):
                            connection.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@contextmanager
def https(folder: Path, *, asks: bool) -> Iterator[int]:
    """A server of TLS, which asks for a client certificate or does not; its port."""
    site_certificates.ensure(folder, "haven", datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "site.pem", folder / "site.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE

    class Server(http.server.HTTPServer):
        def handle_error(self, *_: object) -> None:
            """Refused handshakes are the point."""

        def finish_request(self, request: socket.socket, client: object) -> None:  # type: ignore[override] # as called
            with context.wrap_socket(request, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")

    with Server(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize(
    ("says", "protocol", "answer"),
    [
        (b"\0\0\0\4\0\0\0\0\0", "certificate", Answer("gRPC without TLS", shut=False)),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "certificate", Answer("HTTP without TLS", shut=False)),
        (b"", "certificate", Answer("closes connections without TLS", shut=True)),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "http", Answer("HTTP 401", shut=True)),
        (b"HTTP/1.1 200 OK\r\n\r\n", "http", Answer("HTTP 200", shut=False)),
        (b"HTTP/1.1 307 Away\r\n\r\n", "http", Answer("HTTP 307", shut=False)),
        (b"R\0\0\0\x08\0\0\0\0", "postgresql", Answer("PostgreSQL, accepts every user without a password", shut=False)),
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM", "postgresql", Answer("PostgreSQL, asks for a password", shut=True)),
        (b"\0\0\0\4\0\0\0\0\0", "unknown", Answer("gRPC without TLS", shut=False)),
    ],
)
def test_what_answers_anybody_is_told_from_what_does_not(says: bytes, protocol: str, answer: Answer) -> None:
    with saying(says) as port:
        assert knock("127.0.0.1", port, protocol) == answer  # type: ignore[arg-type] # one of them


@pytest.mark.parametrize("asks", [True, False])
def test_tls_alone_is_no_guard(tmp_path: Path, asks: bool) -> None:
    with https(tmp_path / "certificates", asks=asks) as port:
        assert knock("127.0.0.1", port, "certificate").shut == asks


def test_nobody_there_lets_nobody_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert knock("127.0.0.1", port).shut
