"""A real webhook server and a real mail server on this machine, which keep their messages."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any


@dataclass
class Webhook:
    """`posts`: body and headers of each; `status`: what it answers once `answers` is set; `location`: a redirect's."""

    url: str = ""
    status: int = 204
    location: str = ""
    answers: threading.Event = field(default_factory=threading.Event)
    posts: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)


@contextmanager
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    hook.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.posts.append((json.loads(body), dict(self.headers)))
            hook.answers.wait()
            self.send_response(hook.status)
            if hook.location:
                self.send_header("Location", hook.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/hook/confidential-path"
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Mailbox:
    """`mails` with whether they came encrypted and who logged in; `refuse`: a command that it answers with 550."""

    port: int = 0
    certificate: Path | None = None
    mails: list[tuple[EmailMessage, bool, str]] = field(default_factory=list)
    refuse: str = ""
    password: str = "mail-secret"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "mail.pem", folder / "mail.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, no_password))
    return public, private


@contextmanager
def mailbox(folder: Path, *, starttls: bool = True, from_the_first_byte: bool = False) -> Iterator[Mailbox]:
    """A mail server; it takes mail only after a log-in if the connection is encrypted."""
    public, private = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    box = Mailbox(certificate=public)
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        encrypted, user = from_the_first_byte, ""
        await answer("220 test ESMTP")
        while line := (await reader.readline()).decode().strip():
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            if box.refuse and line.upper().startswith(box.refuse):
                await answer("550 refused: mail-secret")  # as if it quoted what it was given
            elif verb in ("EHLO", "HELO"):
                offers = ["AUTH PLAIN"] if encrypted else (["STARTTLS"] if starttls else [])
                lines = ["test", *offers]
                for i, text in enumerate(lines):
                    await answer(f"250{' ' if i == len(lines) - 1 else '-'}{text}")
            elif verb == "STARTTLS":
                await answer("220 go")
                await writer.start_tls(context)
                encrypted = True
            elif verb == "AUTH":
                _, name, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                user = name if password == box.password else ""
                await answer("235 ok" if user else "535 wrong")
            elif verb == "DATA":
                await answer("354 go")
                body = await reader.readuntil(b"\r\n.\r\n")
                mail = message_from_bytes(body[:-3], policy=policy.default)
                box.mails.append((mail, encrypted, user))
                await answer("250 kept")
            elif verb == "QUIT":
                await answer("221 bye")
                break
            else:
                await answer("250 ok")
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context if from_the_first_byte else None)

    server = loop.run_until_complete(start())
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
