"""One request with a JSON answer, to a server of this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from rempart.deployment.servers import rest
from rempart.errors import StackError


class Echo(BaseHTTPRequestHandler):
    """Answers with what it got, and with the status that the path names."""

    seen: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.seen.append((self.headers.get("Authorization", ""), self.headers.get("Content-Type", ""), body))
        self.send_response(int(self.path[1:]))
        self.end_headers()
        self.wfile.write(body or b"plain")

    do_POST = do_PUT = do_GET  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    Echo.seen.clear()
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_json_and_bytes_are_sent_and_answered_as_what_they_are(url: str) -> None:
    assert rest.call("POST", f"{url}/200", body={"a": 1}, basic=("ann", "secret")) == {"a": 1}
    assert rest.call("PUT", f"{url}/200", body=b"raw", bearer="token") == b"raw"
    assert rest.call("GET", f"{url}/200") == b"plain"
    (login, kind, body), (bearer, raw_kind, raw), (none, _, nothing) = Echo.seen
    assert login == "Basic " + base64.b64encode(b"ann:secret").decode() and kind == "application/json"
    assert json.loads(body) == {"a": 1} and (bearer, raw_kind, raw) == (
        "Bearer token",
        "application/octet-stream",
        b"raw",
    )
    assert (none, nothing) == ("", b"")


@pytest.mark.parametrize("status", [401, 503])
def test_an_error_status_is_an_error_with_its_number_and_no_secret(url: str, status: int) -> None:
    with pytest.raises(rest.HttpRefused, match=f"GET {url}/{status} answered {status}") as refused:
        rest.call("GET", f"{url}/{status}", basic=("ann", "secret"))
    assert refused.value.status == status and "secret" not in str(refused.value)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(StackError, match=r"GET http://127\.0\.0\.1:9/: .") as error:
        rest.call("GET", "http://127.0.0.1:9/", bearer="secret")
    assert "secret" not in str(error.value)
