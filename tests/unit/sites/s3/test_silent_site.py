"""A site that accepts connections and answers nothing is left in bounded time; a long transfer is not cut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from rempart.errors import SiteUnavailable
from rempart.settings.config import Connection
from rempart.sites.s3 import bulk, client
from rempart.sites.s3.site import S3Site
from tests.scripted_site import ALLOWED

SECONDS = 0.3
"""The time limits of these tests, instead of half a minute."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Site, list[socket.socket]]]:
    """A site whose server is silent, and the connections that it accepted."""
    monkeypatch.setattr(bulk, "SILENT_SECONDS", SECONDS)
    monkeypatch.setitem(client.open_client.__kwdefaults__, "silent", SECONDS)
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    accepted.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        connection = Connection("s3_primary", "aws", login="a", password="b", extra={"endpoint_url": endpoint})
        yield S3Site("primary", connection, "r1", ALLOWED), accepted
        listening.shutdown(socket.SHUT_RDWR)
    for each in accepted:
        each.close()


def test_a_silent_site_is_asked_by_each_client_a_bounded_number_of_times(
    asked: tuple[S3Site, list[socket.socket]],
) -> None:
    site, accepted = asked
    for action, connections in (
        (lambda: site.fetch("lake", "k"), 3),  # the fast path once, boto3 twice
        (lambda: site.fetch("lake", "k"), 2),  # the fast path rests
        (lambda: [*site.list("lake")], 2),
        (lambda: site.write("lake", "k", b"x"), 4),  # whether it arrived is asked, too
    ):
        accepted.clear()
        with pytest.raises(SiteUnavailable, match="ReadTimeoutError"):
            action()
        until = time.monotonic() + 60
        while len(accepted) < connections and time.monotonic() < until:
            time.sleep(0.01)  # the system connects, and the thread accepts later
        assert len(accepted) == connections


def test_a_body_that_takes_longer_than_the_limit_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is shorter than the limit, all of them together are longer.

    A busy machine may make a pause longer than a short limit; a longer limit is tried then.
    """
    pieces = [b"x" * 1000] * 5
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {1000 * len(pieces)}\r\n"
        'ETag: "0"\r\nLast-Modified: Mon, 05 Jan 2026 00:00:00 GMT\r\n\r\n'
    )

    def serve(listening: socket.socket, pause: float) -> None:
        """Answer the first request only."""
        with suppress(OSError), listening.accept()[0] as opened:
            opened.recv(65536)
            opened.sendall(head.encode())
            for piece in pieces:
                time.sleep(pause)
                opened.sendall(piece)

    def arrives(fetch: Callable[[S3Site], bytes], limit: float) -> bool:
        monkeypatch.setattr(bulk, "SILENT_SECONDS", limit)
        monkeypatch.setitem(client.open_client.__kwdefaults__, "silent", limit)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=serve, args=(listening, 0.3 * limit), daemon=True).start()
            endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
            connection = Connection("s3_primary", "aws", login="a", password="b", extra={"endpoint_url": endpoint})
            try:
                return len(fetch(S3Site("primary", connection, "r1", ALLOWED))) == 5000
            except SiteUnavailable:
                return False

    for fetch in (lambda site: site.fetch("lake", "k")[1], lambda site: site.read("lake", "k")):
        assert any(arrives(fetch, limit) for limit in (1.0, 5.0, 40.0))


def test_a_body_that_is_sent_slowly_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site reads for longer than it may be silent, and then answers."""
    monkeypatch.setattr(bulk, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(bulk, "SENDING", 20)
    body, requests = b"x" * 4_000_000, list[int]()

    def serve(listening: socket.socket) -> None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        while True:
            try:
                opened, _ = listening.accept()
            except OSError:
                return
            with opened:
                got, paused = b"", 0
                while len(got) < len(body):
                    if not (piece := opened.recv(65536)):
                        break
                    got += piece
                    if len(got) // 800_000 > paused:
                        paused += 1
                        time.sleep(0.2)
                requests.append(len(got))
                opened.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n')

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        connection = Connection("s3_primary", "aws", login="a", password="b", extra={"endpoint_url": endpoint})
        assert S3Site("primary", connection, "r1", ALLOWED).write("lake", "k", body).etag == "e"
        listening.shutdown(socket.SHUT_RDWR)
    assert len(requests) == 1
