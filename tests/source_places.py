"""Places with rows (name, growing number) for the contract suite of sources: an HTTP service, and a bucket."""

from __future__ import annotations

import atexit
import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import yaml

from rempart.ingestion.sources.bucket import BucketFiles
from rempart.ingestion.sources.port import Origin
from rempart.ingestion.sources.web.client import Client
from rempart.ingestion.sources.web.source import Http
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sources import HttpSource
from tests.http_service import Reply, Request, Service, serving
from tests.memory_site import MemorySite

Rows = list[tuple[str, int]]
_FIRST = datetime(2025, 1, 1, tzinfo=UTC)


def _answers(asked: Request) -> Reply:
    """Pages of two rows each, from those in the query that are not before `since`."""
    rows = [
        {"country": name, "seen": (_FIRST + timedelta(hours=number)).isoformat()}
        for name, number in json.loads(asked.query["rows"])
    ]
    since = datetime.fromisoformat(asked.query["since"]) if "since" in asked.query else _FIRST
    wanted = [row for row in rows if datetime.fromisoformat(row["seen"]) >= since]
    start = 2 * (int(asked.query["page"]) - 1)
    return Reply(json.dumps(wanted[start : start + 2]).encode())


@cache
def _service() -> Service:
    """A service for all tests of this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(serving(_answers))


def http_pipeline(**source: Any) -> ModelPipeline:
    """The shipped pipeline with a column for the cursor, and this source."""
    data = yaml.safe_load((project_root() / "include" / "pipelines" / "hotel_bookings.yaml").read_text())
    data["schema"]["seen"] = {"known": "booking", "type": "timestamp"}
    data["source"] = {"kind": "http", "prefix": "hotel_bookings/", **source}
    return ModelPipeline.model_validate(data)


def over_http(rows: Rows) -> Http:
    """Rows of an API in pages of two, read by a cursor; each page is a delivery."""
    url = f"{_service().url}/rows?rows={json.dumps(rows, separators=(',', ':')).replace(' ', '%20')}"
    pipeline = http_pipeline(
        url=url,
        pagination={"by": "page", "parameter": "page"},
        cursor={"column": "seen", "overlap": "90m"},
        cursor_parameter="since",
    )
    assert isinstance(pipeline.source, HttpSource)
    client = lambda: Client(url, allow=lambda host, port: None)  # noqa: E731
    return Http(pipeline, pipeline.source, Origin("this-machine", "api", "FR", "FR"), client, delivery_bytes=90)


def in_bucket(rows: Rows) -> BucketFiles:
    """Rows in files of a bucket, one each."""
    site = MemorySite("acme")
    site.ensure_bucket("shared", versioned=False)
    site.write("shared", "rows/_SUCCESS", b"")
    for name, number in rows:
        site.write("shared", f"rows/2025/{number}.csv", f"{name},{number}\n".encode())
    return BucketFiles(site, "shared", "rows/", Origin("acme", "acme/shared/rows/", "US", "US"))
