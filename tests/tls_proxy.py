"""A PostgreSQL that accepts TLS only: a TLS proxy with a certificate in front of a server that is built without TLS.

The proxy does what `hostssl` lines of pg_hba.conf do: it accepts TLS if a client asks for it, and refuses any other
start. `python tls_proxy.py PORT CERTIFICATE KEY HOST PORT` runs one alone, and prints each connection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rempart.deployment.setup import site_certificates
from rempart.settings.config import Connection, Connections

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
"""Codes of PostgreSQL's protocol by which a client asks for an encrypted connection."""
REFUSAL = "no encryption: this server accepts TLS only"


@dataclasses.dataclass
class TlsProxy:
    """Where it answers, the authority of its certificate, and how many connections it refused and carried."""

    port: int
    authority: Path
    tell: Callable[[str], object] = lambda line: None
    refused: int = 0
    carried: int = 0

    def connection(self, through: Connection, **extra: str) -> Connection:
        """A connection to the server behind, through the front; the certificate is verified unless told otherwise."""
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.authority)} | extra
        return dataclasses.replace(through, host="127.0.0.1", port=self.port, extra=tls)

    def connections(self, through: Connections) -> Connections:
        """All connections to PostgreSQL through the front; others as they are."""
        return lambda name: self.connection(through(name)) if name.startswith("pg_") else through(name)


@contextmanager
def tls_only(server: Connection, folder: Path, listen: str = "127.0.0.1") -> Iterator[TlsProxy]:
    """The front of a server. Its certificate is for 127.0.0.1 and localhost."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in site_certificates.make("postgresql", datetime.now(UTC)).files().items():
        (folder / name).write_text(body, encoding="utf-8")
    authority, certificate, key = (folder / name for name in site_certificates.FILES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((listen, 0)) as listening:
        proxy = TlsProxy(listening.getsockname()[1], authority)
        behind = (server.host, server.port or 5432)
        threading.Thread(target=_accept, args=(proxy, listening, context, behind), daemon=True).start()
        yield proxy
        listening.shutdown(socket.SHUT_RDWR)


def _accept(proxy: TlsProxy, listening: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_serve, args=(proxy, client, context, server), daemon=True).start()


def _serve(proxy: TlsProxy, client: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    with client, contextlib.suppress(OSError):
        while (code := struct.unpack("!II", _exactly(client, 8))[1]) == GSS_REQUEST:
            client.sendall(b"N")
        if code != SSL_REQUEST:
            proxy.refused += 1
            proxy.tell("refused")
            body = b"SFATAL\0VFATAL\0C28000\0M" + REFUSAL.encode() + b"\0\0"
            client.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)
            return
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as secure,
            socket.create_connection(server) as behind,
        ):
            proxy.carried += 1
            proxy.tell("carried")
            back = threading.Thread(target=_pass, args=(behind, secure), daemon=True)
            back.start()
            _pass(secure, behind)
            back.join()


def _exactly(source: socket.socket, length: int) -> bytes:
    body = b""
    while len(body) < length:
        if not (part := source.recv(length - len(body))):
            raise OSError("ended")
        body += part
    return body


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def main(port: str, certificate: str, key: str, host: str, server: str) -> None:
    """A front until it is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("0.0.0.0", int(port)), backlog=128) as listening:  # noqa: S104 - in a container
        proxy = TlsProxy(int(port), Path(certificate), lambda line: print(line, flush=True))
        _accept(proxy, listening, context, (host, int(server)))


if __name__ == "__main__":
    main(*sys.argv[1:])
