"""A reverse proxy that spoils what passes between us and a real S3 site."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Passing:
    """One request on its way.

    `refuse`, `code`: what it is answered without asking the site; `upload`: what of its body reaches the site;
    `download`: what becomes of the site's answer; `cut`: how many bytes of that come, under a full Content-Length.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    upload: bytes | None = None
    refuse: int | None = None
    download: Callable[[bytes], bytes] = lambda body: body
    cut: int | None = None
    code: str = "SlowDown"


@dataclass
class Proxy:
    """Its address, and the requests that came."""

    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def proxy(upstream: str, spoil: Callable[[Passing], None]) -> Iterator[Proxy]:
    """`spoil` may change each request that passes."""
    made = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            passing = Passing(self.command, self.path, dict(self.headers), body, body)
            made.seen.append((self.command, self.path))
            spoil(passing)
            if passing.refuse:
                self.send_response(passing.refuse)
                text = f"<Error><Code>{passing.code}</Code><Message>Refused.</Message></Error>".encode()
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text if self.command != "HEAD" else b"")
                return
            there = HTTPConnection(urlsplit(upstream).netloc, timeout=60)
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host as well: it is signed
                there.putheader(name, value)
            there.endheaders(passing.upload or b"")
            answered = there.getresponse()
            answer = passing.download(answered.read())
            self.send_response(answered.status)
            for name, value in answered.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = answered.getheader("Content-Length") if self.command == "HEAD" else str(len(answer))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            there.close()
            if self.command == "HEAD":
                return
            self.wfile.write(answer if passing.cut is None else answer[: passing.cut])
            if passing.cut is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # http.server looks for a method of each HTTP method's name
                return self.relay
            raise AttributeError(name)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
