"""The demo asks a scorer again that is not ready yet, and ends at once for any other refusal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rempart.cli.demo import demo_champion
from rempart.errors import ServingError

OPENING = (503, {"Retry-After": "0"}, b'{"error": "the champion is being opened", "remedy": "Ask again."}')
GOOD = (200, {}, b'{"predictions": [1]}')


@contextmanager
def scorer(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[str]:
    """The address of a server that gives these answers, and the last one for ever."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not in the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predict/p"
    finally:
        server.shutdown()
        server.server_close()


def test_a_champion_that_is_being_opened_is_asked_again() -> None:
    with scorer(OPENING, OPENING, GOOD) as url:
        assert demo_champion._post(url, "key", {}) == {"predictions": [1]}


@pytest.mark.parametrize(
    ("answer", "patience"),
    [
        (OPENING, -1.0),
        ((503, {}, b'{"error": "the store is silent"}'), 60.0),
        ((401, {}, b'{"error": "unknown key"}'), 60.0),
    ],
)
def test_a_scorer_that_does_not_get_ready_or_refuses_ends_the_demo(
    answer: tuple[int, dict[str, str], bytes], patience: float
) -> None:
    with scorer(answer) as url, pytest.raises(ServingError, match="ask the scorer: "):
        demo_champion._post(url, "key", {}, patience)
