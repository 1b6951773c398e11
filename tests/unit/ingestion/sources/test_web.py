"""The source `http` against a real server with faults: nothing is lost, nothing comes twice, no secret leaks."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.deployment.setup import site_certificates
from rempart.errors import ConnectionMissing, EgressDenied, IngestError, PlacementDenied, SourceUnavailable
from rempart.ingestion.sources.port import Delivery, Origin
from rempart.ingestion.sources.web import client as web
from rempart.ingestion.sources.web.client import Client
from rempart.ingestion.sources.web.download import Version, digests_of, download
from rempart.ingestion.sources.web.source import Http
from rempart.settings.config import Connection, project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import HttpSource
from tests.http_service import Reply, Request, Service, serving

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHIPPED = project_root() / "include" / "pipelines" / "hotel_bookings.yaml"
ORIGIN = Origin("this-machine", "test", "FR", "FR")
TOKEN = Connection("shop", "http", password="not-to-be-seen")


@dataclass
class MemorySink:
    """A landing bucket in memory."""

    stored: dict[str, bytes] = field(default_factory=dict)

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        body = b"".join(blocks)
        self.stored[name] = body
        return Delivery(name, len(body), hashlib.sha256(body).hexdigest())

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for body in self.stored.values() for line in body.splitlines()]


def pipeline(**source: object) -> Pipeline:
    data = yaml.safe_load(SHIPPED.read_text())
    data["schema"]["seen"] = {"known": "booking", "type": "timestamp"}
    data["source"] = {"kind": "http", "prefix": "hotel_bookings/", "url": "http://127.0.0.1:1/rows", **source}
    return Pipeline.model_validate(data)


def client(url: str, *, waits: list[float] | None = None, **more: Any) -> Client:
    slept: list[float] = waits if waits is not None else []
    more = {"allow": lambda host, port: None, "sleep": slept.append, **more}
    return Client(url, **more)


def opened(service: Service, path: str = "/rows", *, waits: list[float] | None = None, **source: Any) -> Http:
    url = f"{service.url}{path}"
    declared = pipeline(url=url, **source)
    assert isinstance(declared.source, HttpSource)
    return Http(declared, declared.source, ORIGIN, lambda: client(url, waits=waits), pages=50)


def row(number: int, **more: object) -> dict[str, object]:
    return {"booking_id": number, "seen": f"2025-01-01T00:{number:02}:00Z", **more}


def as_json(rows: object, **headers: str) -> Reply:
    return Reply(json.dumps(rows).encode(), headers=headers)


# --- pages ------------------------------------------------------------------------------------------------------------

ROWS = [row(n) for n in range(7)]


def by_page(asked: Request) -> Reply:
    start = 2 * (int(asked.query["page"]) - 1)
    return as_json(ROWS[start : start + 2])


def by_offset(asked: Request) -> Reply:
    start = int(asked.query["from"])
    return as_json(ROWS[start : start + min(2, int(asked.query["count"]))])  # fewer than were asked for


def by_link(asked: Request) -> Reply:
    start = int(asked.query.get("at", "0"))
    more = {"Link": f'</rows?at={start + 2}>; rel="prev next", </rows>; rel=first'} if start + 2 < 7 else {}
    return as_json(ROWS[start : start + 2], **more)


def by_next(asked: Request) -> Reply:
    start = int(asked.query.get("at", "0"))
    more = f"?at={start + 2}" if start + 2 < 7 else None
    return as_json({"data": {"items": ROWS[start : start + 2]}, "paging": {"next": more}})


def by_cursor(asked: Request) -> Reply:
    start = int(asked.query.get("after", "0"))
    return as_json({"data": {"items": ROWS[start : start + 2]}, "next": start + 2 if start + 2 < 7 else ""})


@pytest.mark.parametrize(
    ("answers", "source"),
    [
        (by_page, {"pagination": {"by": "page", "parameter": "page"}}),
        (by_offset, {"pagination": {"by": "offset", "parameter": "from", "size": 5, "size_parameter": "count"}}),
        (by_link, {"pagination": {"by": "link_header"}}),
        (by_next, {"records": "data.items", "pagination": {"by": "next_url", "field": "paging.next"}}),
        (by_cursor, {"records": "data.items", "pagination": {"by": "cursor", "parameter": "after", "field": "next"}}),
        (lambda asked: as_json(ROWS), {}),
    ],
    ids=["page", "offset", "link_header", "next_url", "cursor", "none"],
)
def test_every_row_of_every_page_comes_once(answers: Callable[[Request], Reply], source: dict[str, Any]) -> None:
    with serving(answers) as service:
        sink = MemorySink()
        first = opened(service, **source).extract({}, sink, NOW)
        assert sink.rows == ROWS and first.complete
        again = opened(service, **source).extract(first.state, sink, NOW)
        assert (again.deliveries, again.state) == ([], first.state)


def test_a_whole_listing_delivers_new_and_changed_rows_only() -> None:
    rows = list(ROWS)
    with serving(lambda asked: as_json(rows)) as service:
        state = opened(service).extract({}, MemorySink(), NOW).state
        rows[2:3] = [row(2, country="FR"), row(9)]
        sink = MemorySink()
        opened(service).extract(state, sink, NOW)
        assert sink.rows == [row(2, country="FR"), row(9)]


def test_a_cursor_asks_for_what_is_new_and_reads_the_overlap_again() -> None:
    late = [row(4, booking_id="committed late"), row(20)]
    rows = list(ROWS)

    def answers(asked: Request) -> Reply:
        return as_json([r for r in rows if str(r["seen"]) >= asked.query.get("since", "")])

    source = {"cursor": {"column": "seen", "overlap": "3m"}, "cursor_parameter": "since"}
    with serving(answers) as service:
        state = opened(service, **source).extract({}, MemorySink(), NOW).state
        rows += late
        sink = MemorySink()
        opened(service, **source).extract(state, sink, NOW)
        assert service.asked[-1].query["since"] == "2025-01-01T00:03:00Z"
        assert sink.rows == late


def test_a_row_from_the_future_hides_no_other() -> None:
    rows = [row(1), {"booking_id": 2, "seen": "2999-01-01T00:00:00Z"}]
    source = {"cursor": {"column": "seen", "overlap": "3m"}, "cursor_parameter": "since"}
    with serving(lambda asked: as_json(rows)) as service:
        state = opened(service, **source).extract({}, MemorySink(), NOW).state
        opened(service, **source).extract(state, MemorySink(), NOW)
        assert service.asked[-1].query["since"] < "2026-01-01T00:00:01"


def test_a_limit_ends_an_extraction_and_the_next_goes_on() -> None:
    source: dict[str, Any] = {"pagination": {"by": "page", "parameter": "page"}}
    with serving(by_page) as service:
        sink, state, complete, rounds = MemorySink(), {}, False, 0
        while not complete and (rounds := rounds + 1) < 9:
            short = opened(service, **source)
            got = Http(short.pipeline, short.source, ORIGIN, short.connect, pages=2).extract(state, sink, NOW)
            state, complete = dict(got.state), got.complete
        assert sink.rows == ROWS and rounds == 3
        assert opened(service, **source).extract(state, sink, NOW).deliveries == []


def test_numbers_keep_their_text_and_only_declared_columns_are_taken() -> None:
    body = (
        b'[{"adr": 1, "booking_id": 12345678901234567890, "lead_time": 1.10, "country": "\\ud800", "secret": {"a": 1}}]'
    )
    with serving(lambda asked: Reply(body)) as service:
        sink = MemorySink()
        opened(service).extract({}, sink, NOW)
    assert b"".join(sink.stored.values()) in (
        b'{"booking_id":12345678901234567890,"country":"\\ud800","lead_time":1.10}\n',
        b'{"booking_id":12345678901234567890,"lead_time":1.10,"country":"\\ud800"}\n',
    )


def test_rows_can_be_csv_of_all_declared_columns() -> None:
    body = (
        b'[{"country": "F,R\\ud800", "lead_time": 1.10, "booking_id": ""}, {"country": null, "booking_id": [1, "x"]}]'
    )
    with serving(lambda asked: Reply(body)) as service:
        sink = MemorySink()
        opened(service, format="csv").extract({}, sink, NOW)
    ((name, text),) = sink.stored.items()
    one, two = csv.DictReader(io.StringIO(text.decode()))
    assert (one["country"], one["lead_time"], two["country"], two["booking_id"]) == (
        "F,R\\ud800",
        "1.10",
        "",
        '[1,"x"]',
    )
    assert list(one) == list(pipeline().columns) and name.endswith(".csv")


@pytest.mark.parametrize(
    ("answers", "source", "says"),
    [
        (lambda asked: as_json(ROWS), {"pagination": {"by": "page", "parameter": "page"}}, "the same page again"),
        (
            lambda asked: as_json({"items": ROWS, "next": "/rows"}),
            {"records": "items", "pagination": {"by": "next_url", "field": "next"}},
            "lead in a circle|same page again",
        ),
        (
            lambda asked: as_json({"items": [], "next": int(asked.query.get("at", "0")) + 1}),
            {"records": "items", "pagination": {"by": "cursor", "field": "next", "parameter": "at"}},
            "20 pages in succession hold no row",
        ),
        (lambda asked: Reply(b"<html>log in</html>"), {}, "not JSON, but HTML"),
        (lambda asked: Reply(b"[" * 100_000), {}, "nested too deeply|not JSON"),
        (lambda asked: Reply(b'[{"booking_id": NaN}]'), {}, "holds NaN"),
        (lambda asked: Reply(b'[{"a": 1, "a": 2}]'), {}, "a name twice"),
        (lambda asked: as_json({"items": 3}), {"records": "items"}, "is no list of rows"),
        (lambda asked: as_json([1]), {}, "a row is not an object"),
        (lambda asked: Reply(status=401), {}, "status 401"),
        (lambda asked: Reply(status=404), {}, "status 404"),
        (
            lambda asked: as_json([{"seen": "soon"}]),
            {"cursor": {"column": "seen"}, "cursor_parameter": "since"},
            "no row has a time that can be read",
        ),
    ],
)
def test_an_answer_that_is_none_is_refused(
    answers: Callable[[Request], Reply], source: dict[str, Any], says: str
) -> None:
    with serving(answers) as service, pytest.raises(IngestError, match=says) as refused:
        opened(service, **source).extract({}, MemorySink(), NOW)
    assert not refused.value.transient


def test_a_page_larger_than_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(web, "PAGE_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (4 << 20))
    packed = Reply(bomb, headers={"Content-Encoding": "gzip"})
    with serving(lambda asked: packed) as service, pytest.raises(IngestError, match="larger than 1 MiB"):
        opened(service).extract({}, MemorySink(), NOW)


# --- patience ---------------------------------------------------------------------------------------------------------


def after(faults: list[Reply], then: Reply) -> Callable[[Request], Reply]:
    left = list(faults)
    return lambda asked: left.pop(0) if left else then


@given(st.lists(st.sampled_from(["500", "503", "429", "cut", "short", "damaged"]), max_size=4))
def test_faults_that_pass_change_nothing(faults: list[str]) -> None:
    body = json.dumps(ROWS).encode()
    made = {
        "500": Reply(b"oops", 500),
        "503": Reply(b"", 503),
        "429": Reply(b"", 429, {"Retry-After": "7"}),
        "cut": Reply(body, cut=20),
        "short": Reply(body[:30], headers={"Content-Length": "1000"}, cut=30),
        "damaged": Reply(b"\x1f\x8bno", headers={"Content-Encoding": "gzip"}),
    }
    waits: list[float] = []
    with serving(after([made[fault] for fault in faults], Reply(body))) as service:
        sink = MemorySink()
        opened(service, waits=waits).extract({}, sink, NOW)
    assert sink.rows == ROWS
    assert [wait == 7 for wait in waits] == [fault == "429" for fault in faults]


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(status=429, headers={"Retry-After": "86400"})])
def test_a_service_that_stays_away_is_named_and_a_retry_can_help(reply: Reply) -> None:
    waits: list[float] = []
    with serving(lambda asked: reply) as service, pytest.raises(SourceUnavailable) as refused:
        opened(service, waits=waits).extract({}, MemorySink(), NOW)
    assert refused.value.transient and sum(waits) <= 60


def test_retry_after_is_seconds_or_a_date() -> None:
    assert web.wait_of({"retry-after": "12"}, 0, NOW) == 12
    assert web.wait_of({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 0, NOW) == 30
    assert web.wait_of({"retry-after": "Thu, 01 Jan 2015 00:00:30 GMT"}, 0, NOW) == 0
    assert [web.wait_of({"retry-after": "soon"}, n, NOW) for n in range(3)] == [1, 2, 4]


def test_requests_keep_the_pace_that_the_pipeline_declares() -> None:
    now, waits = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    with serving(lambda asked: as_json([])) as service:
        slow = client(service.url, per_minute=30, sleep=sleep, clock=lambda: now[0])
        for _ in range(3):
            slow.page(service.url)
    assert waits == [2.0, 2.0]


# --- secrets and places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "header", "value"),
    [
        (TOKEN, "authorization", "Bearer not-to-be-seen"),
        (Connection("shop", "http", login="me", password="x"), "authorization", "Basic bWU6eA=="),
        (Connection("shop", "http", password="key", extra={"header": "X-Api-Key"}), "x-api-key", "key"),
    ],
)
def test_the_secret_goes_in_a_header(connection: Connection, header: str, value: str) -> None:
    with serving(lambda asked: as_json([])) as service:
        client(service.url, connection=connection).page(f"{service.url}/rows")
        assert service.asked[0].headers[header] == value


@pytest.mark.parametrize(
    "connection", [Connection("shop", "http"), Connection("shop", "http", password="a\r\nHost: b")]
)
def test_a_secret_that_is_none_is_refused(connection: Connection) -> None:
    with pytest.raises(ConnectionMissing):
        client("http://127.0.0.1:9/", connection=connection)


def test_a_redirect_carries_no_secret_to_another_host_or_port() -> None:
    with serving(lambda asked: as_json(ROWS)) as other:
        with serving(lambda asked: Reply(status=302, headers={"Location": f"{other.url}/rows"})) as service:
            asked: list[tuple[str, int]] = []
            home = client(service.url, connection=TOKEN, allow=lambda host, port: asked.append((host, port)))
            with pytest.raises(IngestError, match="without TLS"):  # another server without TLS: not even asked
                home.page(f"{service.url}/rows")
        assert other.asked == []


def test_a_redirect_to_the_same_server_keeps_the_secret_and_an_endless_one_ends() -> None:
    def answers(asked: Request) -> Reply:
        if asked.path == "/old":
            return Reply(status=307, headers={"Location": "/rows"})
        return Reply(status=302, headers={"Location": "/loop"}) if asked.path == "/loop" else as_json([])

    with serving(answers) as service:
        client(service.url, connection=TOKEN).page(f"{service.url}/old")
        assert service.asked[-1].headers["authorization"] == "Bearer not-to-be-seen"
        with pytest.raises(IngestError, match="redirects"):
            client(service.url).page(f"{service.url}/loop")


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://me:pw@127.0.0.1/", "//", "http://[::1", "gopher://x:1/"],
)
def test_nothing_but_plain_http_is_followed(target: str) -> None:
    elsewhere = Reply(status=302, headers={"Location": target})
    with serving(lambda asked: elsewhere) as service, pytest.raises(IngestError):
        client(service.url).page(service.url)


def test_the_policy_is_asked_about_each_host_before_anything_is_sent() -> None:
    def allow(host: str, port: int) -> None:
        if host != "127.0.0.1":
            raise PlacementDenied(f"{host}", "no")

    inside = Reply(status=302, headers={"Location": "https://inside.example/"})
    with serving(lambda asked: inside) as service, pytest.raises(PlacementDenied, match=r"inside\.example"):
        client(service.url, allow=allow).page(service.url)


def test_a_name_that_leads_to_this_machine_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with serving(lambda asked: as_json([])) as service:
        real = socket.create_connection
        monkeypatch.setattr(
            socket, "create_connection", lambda address, *a, **k: real(("127.0.0.1", service.port), *a, **k)
        )
        for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(EgressDenied, match=r"leads to 127\.0\.0\.1"):
            client("https://api.acme.example/").page("https://api.acme.example/rows")
        assert service.asked == []


def test_messages_and_logs_hold_no_query_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda asked: Reply(status=403)) as service, pytest.raises(IngestError) as refused:
        client(service.url, connection=TOKEN).page(f"{service.url}/rows?since=a-value")
    assert "a-value" not in str(refused.value) + caplog.text
    assert "not-to-be-seen" not in str(refused.value) + caplog.text


def test_a_private_authority_counts_and_another_host_gets_no_secret(tmp_path: Path) -> None:
    made = site_certificates.make("test", datetime.now(UTC)).files()
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "site.pem", tmp_path / "site.key")
    with serving(lambda asked: as_json(ROWS), tls) as other:
        moved = Reply(status=302, headers={"Location": f"{other.url}/rows"})
        with serving(lambda asked: moved if asked.path == "/moved" else as_json([]), tls) as service:
            with pytest.raises(SourceUnavailable, match="certificate verify failed"):
                client(service.url, connection=TOKEN).page(service.url)
            home = client(service.url, connection=TOKEN, ca_file=tmp_path / "ca.pem")
            home.page(f"{service.url}/rows")
            assert "authorization" in service.asked[-1].headers
            home.page(f"{service.url}/moved")
            assert len(other.asked) == 1 and "authorization" not in other.asked[0].headers


# --- downloads --------------------------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 400


def ranged(asked: Request, body: bytes, etag: str, *, cut: int | None = None, **more: str) -> Reply:
    headers = {"ETag": etag, **more}
    if asked.headers.get("if-none-match") == etag:
        return Reply(status=304, headers=headers)
    wanted = asked.headers.get("range")
    if wanted and asked.headers.get("if-range") == etag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return Reply(status=416)
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Reply(body[start:], 206, headers, cut)
    return Reply(body, 200, headers, cut)


@given(st.lists(st.integers(0, 120_000), max_size=5))
def test_a_download_is_resumed_where_it_was_cut(cuts: list[int]) -> None:
    left = list(cuts)

    def answers(asked: Request) -> Reply:
        return ranged(asked, BODY, '"v1"', cut=left.pop(0) if left else None)

    with serving(answers) as service:
        sink = MemorySink()
        got = opened(service, "/year/bookings.csv.gz", download=True, format="csv").extract({}, sink, NOW)
    (name,) = sink.stored
    assert sink.stored[name] == BODY and got.state["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert name == f"bookings-{got.state['sha256'][:32]}.csv.gz"


def test_what_is_unchanged_is_not_downloaded_again() -> None:
    with serving(lambda asked: ranged(asked, BODY, '"v1"')) as service:
        file = opened(service, "/f.csv", download=True, format="csv")
        state = file.extract({}, MemorySink(), NOW).state
        again = file.extract(state, MemorySink(), NOW)
        assert (again.deliveries, again.state) == ([], state)
        assert service.asked[-1].headers["if-none-match"] == '"v1"'
    with serving(lambda asked: Reply(BODY)) as service:  # neither ETag nor time: its bytes tell
        file = opened(service, "/f.csv", download=True, format="csv")
        state = file.extract({}, MemorySink(), NOW).state
        assert file.extract(state, MemorySink(), NOW).deliveries == []


def test_a_file_that_changes_meanwhile_is_never_a_mixture() -> None:
    replies = [('"v1"', b"a" * 5000, 2000), ('"v2"', b"b" * 6000, 3000), ('"v2"', b"b" * 6000, None)]

    def answers(asked: Request) -> Reply:
        etag, body, cut = replies.pop(0)
        return ranged(asked, body, etag, cut=cut)

    with serving(answers) as service:
        sink = MemorySink()
        opened(service, "/f.csv", download=True, format="csv").extract({}, sink, NOW)
    assert list(sink.stored.values()) == [b"b" * 6000]


def test_a_range_that_lies_is_not_believed(tmp_path: Path) -> None:
    def answers(asked: Request) -> Reply:
        if "range" in asked.headers:
            return Reply(b"z" * 10, 206, {"ETag": '"v1"', "Content-Range": f"bytes 5-14/{len(BODY)}"})
        return Reply(BODY, 200, {"ETag": '"v1"'}, cut=100)

    with serving(answers) as service, client(service.url) as patient, pytest.raises(IngestError, match="changed"):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


@pytest.mark.parametrize("name", ["Repr-Digest", "Digest", "Content-MD5"])
def test_a_whole_file_has_the_digest_that_the_service_declares(name: str, tmp_path: Path) -> None:
    kind = "md5" if name == "Content-MD5" else "sha256"

    def declared(body: bytes) -> dict[str, str]:
        text = base64.b64encode(hashlib.new(kind, body, usedforsecurity=False).digest()).decode()
        return {name: {"Repr-Digest": f"sha-256=:{text}:", "Digest": f"SHA-256={text}"}.get(name, text)}

    with serving(lambda asked: Reply(BODY, headers=declared(BODY))) as service, client(service.url) as patient:
        got = download(patient, f"{service.url}/f", tmp_path / "f", Version())
    assert got is not None and got.size == len(BODY)
    with (
        serving(lambda asked: Reply(BODY, headers=declared(b"other"))) as service,
        client(service.url) as patient,
        pytest.raises(IngestError, match="its own digest"),
    ):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


def test_a_file_of_unknown_length_is_refused(tmp_path: Path) -> None:
    endless = Reply(BODY, length=False)
    with (
        serving(lambda asked: endless) as service,
        client(service.url) as patient,
        pytest.raises(IngestError, match="no length"),
    ):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


@given(st.text(max_size=40))
def test_no_header_breaks_the_digests(text: str) -> None:
    for name in ("repr-digest", "digest", "content-md5"):
        assert all(len(value) in (16, 32) for value in digests_of({name: text}).values())
