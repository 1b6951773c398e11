"""Test how a port answers without credentials.

One connection for each protocol. Only what the server offers by itself is read, and nothing is written.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["certificate", "http", "postgresql", "unknown"]
"""Kinds of authentication: client certificate, HTTP 401 or 403, PostgreSQL password; or unknown."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""First bytes of every HTTP/2 client, and so of gRPC's: its preface and empty settings."""
REFUSED = frozenset({401, 403})
_PATIENCE = 2.0
_LONGEST = 4096


@dataclass(frozen=True)
class Answer:
    """A port's answer, and whether it refuses clients without credentials."""

    text: str
    shut: bool


def knock(host: str, port: int, protocol: Protocol = "unknown", path: str = "/") -> Answer:
    """Ask a port without credentials. `path` is what HTTP asks for: something that only a user may see."""
    try:
        if protocol == "postgresql":
            return _postgresql(host, port)
        if answer := _tls(host, port):
            return answer
        if protocol == "certificate":
            return _in_clear(host, port)
        if protocol == "http":
            return _http(host, port, path)
        answer = _in_clear(host, port)
        return answer if not answer.shut else _http(host, port, path)
    except OSError as error:
        return Answer(f"no connection ({error.strerror or error})", shut=True)


def _connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=_PATIENCE)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_LONGEST)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        return b""


def _tls(host: str, port: int) -> Answer | None:
    """Return the answer to TLS without a certificate; None if the port does not speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whose server it is does not matter here
    context.set_alpn_protocols(["h2"])
    with _connect(host, port) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                connection.sendall(HTTP2)
                received = _receive(connection)
        except ssl.SSLError as error:
            told = (error.reason or "").lower()
            if "certificate_required" in told or "bad_certificate" in told or "handshake_failure" in told:
                return Answer("TLS, asks for a client certificate", shut=True)
            return None
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            return None
    return Answer("TLS without a client certificate", shut=False) if received else None


def _in_clear(host: str, port: int) -> Answer:
    """Return the answer to unencrypted HTTP/2."""
    with _connect(host, port) as connection:
        connection.sendall(HTTP2)
        received = _receive(connection)
    if len(received) > 3 and received[3] == 4:  # a frame of settings
        return Answer("gRPC without TLS", shut=False)
    if received.startswith(b"HTTP/1"):
        return Answer("HTTP without TLS", shut=False)
    return Answer("closes connections without TLS", shut=True)


def _http(host: str, port: int, path: str) -> Answer:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except http.client.HTTPException:
        return Answer("no HTTP", shut=True)
    finally:
        connection.close()
    return Answer(f"HTTP {status}", shut=status in REFUSED)


def _postgresql(host: str, port: int) -> Answer:
    """Return the answer to a session of the superuser `postgres` without a password."""
    parameters = b"user\0postgres\0database\0postgres\0\0"
    with _connect(host, port) as connection:
        connection.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        received = _receive(connection)
    if received[:1] == b"R" and len(received) >= 9:
        way = struct.unpack("!I", received[5:9])[0]
        return Answer(
            "PostgreSQL, asks for a password" if way else ("PostgreSQL, accepts every user without a password"),
            shut=bool(way),
        )
    return Answer("PostgreSQL refuses" if received[:1] == b"E" else "no answer", shut=True)
