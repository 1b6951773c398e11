"""An empty page is a usual end, and a day without rows is usual; a page that is none, or of empty rows, is neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rempart.errors import IngestError
from tests.http_service import Reply, Request, serving
from tests.unit.ingestion.sources.test_web import NOW, ROWS, MemorySink, as_json, opened

CURSOR = {"by": "cursor", "field": "next", "parameter": "at"}


def changes(asked: Request) -> Reply:
    """A feed of changes: its cursor stays where nothing is new."""
    at = int(asked.query.get("at", "0"))
    return as_json({"items": ROWS[at : at + 3] or None, "next": min(at + 3, len(ROWS))})


def numbered(asked: Request) -> Reply:
    at = 3 * (int(asked.query["page"]) - 1)
    return as_json(ROWS[at : at + 3]) if at < len(ROWS) else Reply(status=204, length=False)


@pytest.mark.parametrize(
    ("answers", "source"),
    [
        (changes, {"records": "items", "pagination": CURSOR}),
        (numbered, {"pagination": {"by": "page", "parameter": "page"}}),
    ],
    ids=["cursor", "page"],
)
def test_an_empty_page_ends_a_listing_with_every_row(
    answers: Callable[[Request], Reply], source: dict[str, Any]
) -> None:
    with serving(answers) as service:
        sink = MemorySink()
        found = opened(service, **source).extract({}, sink, NOW)
    assert [row["booking_id"] for row in sink.rows] == list(range(len(ROWS))) and found.complete


@pytest.mark.parametrize(
    ("reply", "source"),
    [
        (as_json([]), {}),
        (Reply(b"null"), {}),
        (Reply(status=204, length=False), {}),
        (Reply(status=204, length=False), {"records": "data.items", "format": "csv"}),
        (as_json({"data": {"items": None}}), {"records": "data.items"}),
        (as_json({"data": {"items": None}, "status": "success", "code": 200, "ok": True}), {"records": "data.items"}),
        (as_json({"items": [], "next": None}), {"records": "items", "pagination": CURSOR}),
        (as_json([]), {"cursor": {"column": "seen"}, "cursor_parameter": "since"}),
        (as_json([]), {"pagination": {"by": "page", "parameter": "page"}}),
    ],
)
def test_a_day_without_rows_delivers_nothing_and_says_so(
    reply: Reply, source: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with serving(lambda asked: reply) as service:
        sink = MemorySink()
        found = opened(service, **source).extract({}, sink, NOW)
    assert not sink.stored and not found.deliveries and found.complete
    assert "gave no row, so nothing is delivered" in caplog.text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "field 'data.items' is missing"),
        ({"data": None}, "field 'data.items' is missing"),
        ({"data": {"rows": []}}, "field 'data.items' is missing"),
        ({"data": {"items": {}}}, "is no list of rows"),
        ({"data": {"items": None}, "error": "quota"}, "is null, and the answer tells of an error"),
        ({"data": {"items": None, "errors": ["quota"]}}, "is null, and the answer tells of an error"),
        ({"data": {"items": None}, "success": False}, "is null, and the answer tells of an error"),
        ({"data": {"items": None}, "status": "error"}, "is null, and the answer tells of an error"),
        ({"data": {"items": None}, "code": 429}, "is null, and the answer tells of an error"),
    ],
)
def test_an_answer_without_a_list_is_not_taken_for_an_empty_one(answer: object, says: str) -> None:
    with serving(lambda asked: as_json(answer)) as service, pytest.raises(IngestError, match=says):
        opened(service, records="data.items").extract({}, MemorySink(), NOW)


def test_rows_without_a_value_are_delivered_and_judged_and_their_pages_in_a_row_are_refused() -> None:
    with serving(lambda asked: as_json([{}, {"other": 1}])) as service:
        sink = MemorySink()
        opened(service).extract({}, sink, NOW)
        assert sink.rows == [{}, {}]  # ingestion refuses each, with its reason
        with pytest.raises(IngestError, match="the same page again"):
            opened(service, pagination={"by": "page", "parameter": "page"}).extract({}, MemorySink(), NOW)


def test_an_empty_page_in_between_is_no_end() -> None:
    def answers(asked: Request) -> Reply:
        at = int(asked.query.get("at", "0"))
        return as_json({"items": ROWS[at : at + 1] if at % 2 else [], "next": at + 1 if at < 6 else None})

    with serving(answers) as service:
        sink = MemorySink()
        opened(service, records="items", pagination=CURSOR).extract({}, sink, NOW)
    assert [row["booking_id"] for row in sink.rows] == [1, 3, 5]
