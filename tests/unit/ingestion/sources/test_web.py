"""The source `http` against a real server with faults: nothing is lost, nothing comes twice, no secret leaks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import IngestError, SourceUnavailable
from rempart.ingestion.sources import row_memory
from rempart.ingestion.sources.port import Delivery, Origin
from rempart.ingestion.sources.web import client as web
from rempart.ingestion.sources.web.client import Client
from rempart.ingestion.sources.web.source import Http
from rempart.settings.config import Connection, project_root
from rempart.settings.pipeline import ModelPipeline
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


def pipeline(**source: object) -> ModelPipeline:
    data = yaml.safe_load(SHIPPED.read_text())
    data["schema"]["seen"] = {"known": "booking", "type": "timestamp"}
    data["source"] = {"kind": "http", "prefix": "hotel_bookings/", "url": "http://127.0.0.1:1/rows", **source}
    return ModelPipeline.model_validate(data)


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


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_listing_whose_next_page_is_gone_begins_anew(status: int) -> None:
    """The newest rows come first, so the highest cursor is known before most rows are read."""
    gone: list[Reply] = []

    def answers(asked: Request) -> Reply:
        start = 2 * (int(asked.query["page"]) - 1)
        return gone.pop() if gone else as_json(ROWS[::-1][start : start + 2])

    source: dict[str, Any] = {
        "pagination": {"by": "page", "parameter": "page"},
        "cursor": {"column": "seen", "overlap": "3m"},
        "cursor_parameter": "since",
    }
    with serving(answers) as service:
        sink, whole = MemorySink(), opened(service, **source)
        part = Http(whole.pipeline, whole.source, ORIGIN, whole.connect, pages=2).extract({}, sink, NOW)
        assert not part.complete and "cursor" not in part.state
        gone.append(Reply(status=status))
        before = len(service.asked)
        rest = opened(service, **source).extract(part.state, sink, NOW)
        assert [asked.query for asked in service.asked[before : before + 2]] == [{"page": "3"}, {"page": "1"}]
        assert rest.complete and sorted(row["booking_id"] for row in sink.rows) == list(range(7))
        again = opened(service, **source).extract(rest.state, MemorySink(), NOW)
        assert service.asked[-1].query["since"] == "2025-01-01T00:03:00Z"
        assert set(again.state) == {"cursor", "rows"}


def test_parts_of_a_listing_together_remember_no_more_rows_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_memory, "MOST", 5)
    source: dict[str, Any] = {"pagination": {"by": "page", "parameter": "page"}}
    with serving(by_page) as service:
        whole = opened(service, **source)
        state = Http(whole.pipeline, whole.source, ORIGIN, whole.connect, pages=2).extract({}, MemorySink(), NOW).state
        with pytest.raises(IngestError, match="more than 5 rows"):
            opened(service, **source).extract(state, MemorySink(), NOW)


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
    first, second = csv.DictReader(io.StringIO(text.decode()))
    assert (first["country"], first["lead_time"], second["country"], second["booking_id"]) == (
        "F,R\\ud800",
        "1.10",
        "",
        '[1,"x"]',
    )
    assert list(first) == list(pipeline().columns) and name.endswith(".csv")


@pytest.mark.parametrize(
    ("answers", "source", "says"),
    [
        (lambda asked: as_json(ROWS), {"pagination": {"by": "page", "parameter": "page"}}, "the same page again"),
        (  # two pages in turn, each with a fresh token and a fresh time
            lambda asked: as_json(
                {"items": [ROWS[(at := int(asked.query.get("at", "0"))) % 2]], "next": at + 1, "served": at}
            ),
            {"records": "items", "pagination": {"by": "cursor", "field": "next", "parameter": "at"}},
            "the same page again",
        ),
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
        (
            lambda asked: Reply(b'[{"booking_id": ' + b"[" * 600 + b"]" * 600 + b"}]"),
            {},
            "nested too deeply",
        ),
        (
            lambda asked: as_json(ROWS, Link="<https://[x>; rel=next"),
            {"pagination": {"by": "link_header"}},
            "is no address",
        ),
        (
            lambda asked: as_json({"items": ROWS, "next": "https://[x"}),
            {"records": "items", "pagination": {"by": "next_url", "field": "next"}},
            "is no address",
        ),
        (
            lambda asked: as_json({"items": ROWS, "next": "\ud800"}),
            {"records": "items", "pagination": {"by": "cursor", "parameter": "at", "field": "next"}},
            "is no address",
        ),
        (lambda asked: Reply(b'[{"booking_id": NaN}]'), {}, "holds NaN"),
        (lambda asked: Reply(b'[{"a": 1, "a": 2}]'), {}, "a name twice"),
        (lambda asked: as_json({"items": 3}), {"records": "items"}, "is no list of rows"),
        (lambda asked: as_json([1]), {}, "a row is not an object"),
        (lambda asked: Reply(status=401), {}, "status 401"),
        (lambda asked: Reply(status=404), {}, "status 404"),
        (lambda asked: Reply(status=304), {}, "status 304"),  # without a version that was asked for
        (
            lambda asked: Reply(status=304) if asked.query["page"] == "2" else by_page(asked),
            {"pagination": {"by": "page", "parameter": "page"}},
            "status 304",
        ),
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


@pytest.mark.parametrize("packed", ["gzip, gzip", "deflate", "br", "zstd", "x-unknown"])
def test_an_answer_that_is_packed_otherwise_or_twice_is_refused(packed: str) -> None:
    import gzip

    twice = Reply(gzip.compress(gzip.compress(b"[]")), headers={"Content-Encoding": packed})
    with serving(lambda asked: twice) as service, pytest.raises(IngestError, match="is packed by"):
        opened(service).extract({}, MemorySink(), NOW)
    assert service.asked[0].headers["accept-encoding"] == "gzip"


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
