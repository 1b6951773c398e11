"""A site that lies: a reverse proxy in front of a real S3 site, which reports success for what it does not do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LIES = (
    "wrong digest refused",  # I6
    "conditional put",  # P3, P6
    "read-after-write",  # P7: success is reported, and nothing is stored
    "framing",  # I5
    "object lock",
    "listing pages",
)


@contextmanager
def lying_site(upstream: str, lies: tuple[str, ...], client: Any = None) -> Iterator[str]:
    """The proxy's address. `client` is one of the real site, with which the proxy stores what a liar would."""

    class Liar(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def relay(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.lied(sent):
                return
            there = HTTPConnection(urlsplit(upstream).netloc, timeout=30)
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host as well: it is signed
                there.putheader(name, value)
            there.endheaders(sent)
            answered = there.getresponse()
            body = answered.read()
            kept = {
                name: value
                for name, value in answered.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
            }
            if self.command == "HEAD":
                kept["X-Length"] = answered.getheader("Content-Length") or "0"
            status = answered.status
            there.close()
            if status in (400, 412) and self.claims_success(status):
                status, body, kept = 200, b"", {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}
            if self.command == "HEAD":
                self.send_response(status)
                length = kept.pop("X-Length")
                for name, value in kept.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                return
            if "listing pages" in lies and "continuation-token" in self.path:
                body = body.replace(b"<IsTruncated>true", b"<IsTruncated>false")
            self.answer(status, body, kept)

        def claims_success(self, status: int) -> bool:
            if self.command != "PUT":
                return False
            if status == 400:
                return "wrong digest refused" in lies and "partNumber" not in self.path
            return "If-None-Match" in self.headers and "conditional put" in lies

        def lied(self, sent: bytes) -> bool:
            if "read-after-write" in lies and self.command == "PUT" and self.path.endswith("/seen"):
                self.answer(200, headers={"ETag": '"0"'})
                return True
            if "framing" in lies and self.command == "PUT" and self.path.endswith("/framed"):
                bucket, _, key = urlsplit(self.path).path.lstrip("/").partition("/")
                client.put_object(Bucket=bucket, Key=key, Body=sent)
                self.answer(200, headers={"ETag": '"0"'})
                return True
            attack = self.command == "DELETE" or (self.command == "PUT" and "retention" in self.path)
            if "object lock" in lies and "/locked" in self.path and attack:
                self.answer(200 if self.command == "PUT" else 204)
                return True
            return False

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # http.server looks for a method of each HTTP method's name
                return self.relay
            raise AttributeError(name)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
