"""An S3 server without storage: a test's function answers each request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rempart.settings.config import Connection
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.policy import Decision, Reason

ALLOWED = Decision(True, "internal", "data", "site 'primary'", (Reason(True, "rule", "fact"),))


@dataclass(frozen=True)
class ScriptedRequest:
    """One request: its method, its path, and its query."""

    method: str
    path: str
    query: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """One answer. A header that is None is left out, the server's own Date included."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str | None] = field(default_factory=dict)


def refusal(code: str, status: int = 403, message: str = "Refused.", **headers: str) -> Answer:
    """An error as S3 sends it."""
    return Answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(), headers)


@contextmanager
def scripted_site(answer: Callable[[ScriptedRequest], Answer], *, most_listed: int = 20_000) -> Iterator[S3Site]:
    """A site named `primary` whose server answers by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: in two, the second waits for an acknowledgement

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def handle_expect_100(self) -> bool:
            went_on = super().handle_expect_100()
            self.wfile.flush()
            return went_on

        def reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = {name: found[0] for name, found in parse_qs(url.query, keep_blank_values=True).items()}
            made = answer(ScriptedRequest(self.command, url.path, query))
            headers = {"Date": self.date_time_string(), "Content-Length": str(len(made.body))} | dict(made.headers)
            self.send_response_only(made.status)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(made.body)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # http.server looks for a method of each HTTP method's name
                return self.reply
            raise AttributeError(name)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    connection = Connection("s3_primary", "aws", login="key", password="secret-word", extra={"endpoint_url": endpoint})
    try:
        yield S3Site("primary", connection, "r1", ALLOWED, most_listed=most_listed)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
