"""A site that lies: a reverse proxy in front of a real S3 site. Faults are switched on and off while it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.lying.messages import Answer, Request, read_request, relay

Lie = Callable[[Request, "Upstream"], Answer]


@dataclass(frozen=True)
class Fault:
    """One way to lie.

    `name` begins with the id of the fault catalogue (`I8-get`). `lie` answers the requests of S3's API that
    `operations` names (none: all) for keys (of listings: prefixes) that match the regular expression `keys`.
    """

    name: str
    about: str
    operations: frozenset[str]
    lie: Lie
    keys: str = ""

    @property
    def id(self) -> str:
        return self.name.partition("-")[0]

    def is_for(self, operation: str, key: str) -> bool:
        return (not self.operations or operation in self.operations) and bool(re.search(self.keys, key))


def custom(
    lie: Lie, *operations: str, name: str = "custom", about: str = "a fault of one test", keys: str = ""
) -> Fault:
    """A fault of one test's own."""
    return Fault(name, about, frozenset(operations), lie, keys)


@dataclass(frozen=True)
class Logged:
    """A request that came, and the faults that were switched on for it."""

    operation: str
    bucket: str
    key: str
    method: str
    path: str
    faults: tuple[str, ...] = ()


@dataclass
class Switched:
    """A fault that is on, for which requests; `memory` is what it remembers of earlier ones."""

    fault: Fault
    bucket: str | None
    key: str | None
    one_key: bool
    memory: dict[Any, Any] = field(default_factory=dict)

    def takes(self, request: Request) -> bool:
        if not self.fault.is_for(request.operation, request.key):
            return False
        if self.bucket is not None and not re.search(self.bucket, request.bucket):
            return False
        if self.key is not None and not re.search(self.key, request.key):
            return False
        return not self.one_key or self.memory.setdefault("one key", request.key) == request.key


@dataclass(frozen=True)
class Upstream:
    """The site as a fault finds it: the real one behind the other faults that are on.

    `client` is boto3's client of the real site, past this proxy; `memory` is the fault's own.
    """

    ask: Callable[[Request], Answer]
    client: Any
    memory: dict[Any, Any]
    lock: threading.Lock

    def count(self, what: object) -> int:
        """How often this was counted, this time included."""
        with self.lock:
            counts = self.memory.setdefault("counts", {})
            counts[what] = counts.get(what, 0) + 1
            return int(counts[what])


@dataclass
class LyingSite:
    """The proxy: its `url`, the `log` of all requests, and the switches of its faults."""

    upstream: str
    client: Any = None
    url: str = ""
    log: list[Logged] = field(default_factory=list)
    _on: list[Switched] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def switch_on(
        self, fault: Fault | str, *, bucket: str | None = None, key: str | None = None, one_key: bool = False
    ) -> None:
        """Lie from now on, for buckets and keys that match these regular expressions.

        With `one_key`, only for the first key for which it could.
        """
        if isinstance(fault, str):
            from tests.lying.catalogue import FAULTS

            fault = FAULTS[fault]
        with self._lock:
            self._on = [*self._on, Switched(fault, bucket, key, one_key)]

    def switch_off(self) -> None:
        """Tell the truth from now on."""
        with self._lock:
            self._on = []

    def hits(self, name: str | None = None) -> list[Logged]:
        """The requests for which a fault, or the named one, was on."""
        return [hit for hit in list(self.log) if (name in hit.faults if name else hit.faults)]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            taken = [fault for fault in self._on if fault.takes(request)]
            names = tuple(outcome.fault.name for outcome in taken)
            self.log.append(Logged(request.operation, request.bucket, request.key, request.method, request.path, names))
        return self._through(request, taken)

    def _through(self, request: Request, faults: list[Switched]) -> Answer:
        if not faults:
            return relay(self.upstream, request)
        first, *others = faults
        upstream = Upstream(lambda asked: self._through(asked, others), self.client, first.memory, self._lock)
        return first.fault.lie(request, upstream)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: a client that gives up is no error of the proxy's."""


@contextmanager
def lying_site(upstream: str, *faults: Fault | str, client: Any = None) -> Iterator[LyingSite]:
    """A proxy in front of the real site `upstream`, with these faults switched on from the start.

    `client` is boto3's client of the real site: faults that store something else than what was sent need it.
    """
    site = LyingSite(upstream, client)
    for fault in faults:
        site.switch_on(fault)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm, wbufsize = True, 1 << 16  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def handle_expect_100(self) -> bool:
            went_on = super().handle_expect_100()
            self.wfile.flush()
            return went_on

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                answer = site.answer(read_request(self.command, self.path, dict(self.headers), body))
            except ConnectionAbortedError:  # a fault that gives no answer
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not answer.header("Date"):
                self.send_header("Date", self.date_time_string())
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
            if answer.cut is not None:
                self.wfile.flush()
                self.close_connection = True

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # http.server looks for a method of each HTTP method's name
                return self.respond
            raise AttributeError(name)

    server = _Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
