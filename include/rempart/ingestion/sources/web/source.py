"""The source `http`: rows of a REST API as JSON Lines or CSV, or one file as it is.

Rows that were taken before are not delivered again (see `row_memory`). Of each row only the columns that the pipeline
declares are taken. A delivery is named by its content, so the same rows have the same name and bytes.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from rempart.errors import CapabilityMissing, IngestError
from rempart.ingestion.parsing import instants, recognise
from rempart.ingestion.sources import csv_deliveries, origins, row_memory
from rempart.ingestion.sources.names import delivery_name
from rempart.ingestion.sources.port import Delivery, Extraction, Origin, Sink, State, Surroundings
from rempart.ingestion.sources.row_memory import CURSOR, DIGEST, ROWS, RowMemory, microseconds, moment
from rempart.ingestion.sources.web import download as downloads
from rempart.ingestion.sources.web import json_rows, paging
from rempart.ingestion.sources.web.client import NO_CONTENT, Client, origin_of, shown
from rempart.ingestion.sources.web.json_rows import NO_ROW, NotRows
from rempart.settings.config import project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import HttpSource
from rempart.sites.spool import spool_folder
from rempart.sovereignty import places

logger = logging.getLogger(__name__)

PAGES = 10_000
"""Most pages of one extraction; the next one goes on from there."""
RUN_BYTES, RUN_SECONDS = 4 << 30, 1800.0
"""Bytes of rows, and seconds, after which an extraction ends with the page that it reads; the next one goes on."""
EMPTY_PAGES = 20
"""Most pages without a row in succession."""
DELIVERY_BYTES, DELIVERY_ROWS = 32 << 20, 250_000
"""A delivery of rows ends with the row that makes it so long."""
NEXT = "next"
"""The address of the next page, in the state after an extraction that a limit ended."""
HIGHEST = "highest"
"""The highest cursor of a listing of which a part was read; until its end the cursor stays that of the one before."""
_GONE = frozenset({400, 404, 410})
"""Statuses by which a service tells that it knows the address of a next page no more."""
_BLOCK = 1 << 20


def open_http(pipeline: Pipeline, around: Surroundings) -> Http:
    """Open the source of a pipeline. Raises PlacementDenied, ConnectionMissing, PipelineError, IngestError."""
    source = pipeline.source
    if not isinstance(source, HttpSource):
        raise TypeError(f"a source of kind {source.kind} is no HTTP service")
    _, host, port = origin_of(source.url)
    allow = partial(origins.permit_host, around, pipeline.classification)
    allow(host, port)
    connection = origins.token(around, pipeline.classification, source.connection, host, port)
    placement = places.origin_placements(around.config, host, port)[0]
    client = partial(
        Client,
        source.url,
        allow=allow,
        connection=connection,
        ca_file=project_root() / source.ca_file if source.ca_file else None,
        per_minute=source.requests_per_minute,
    )
    return Http(pipeline, source, origins.origin(around.config, placement, shown(source.url)), client)


@dataclass(frozen=True)
class Http:
    """A REST API or a file, opened for one extraction. `connect` makes the client."""

    pipeline: Pipeline
    source: HttpSource
    origin: Origin
    connect: Callable[[], Client]
    delivery_bytes: int = DELIVERY_BYTES
    pages: int = PAGES

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        with self.connect() as client, spool_folder() as folder:
            if self.source.download:
                return self._file(client, state, sink, folder / "file")
            return self._rows(client, state, sink, now, folder / "rows")

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        raise CapabilityMissing(
            f"compare the keys of {shown(self.source.url)}: an HTTP service has no such query",
            "Read the source whole, without `cursor`, to find what is gone.",
        )

    def _file(self, client: Client, state: State, sink: Sink, file: Path) -> Extraction:
        known = downloads.Version(state.get("etag", ""), state.get("modified", ""))
        came = downloads.download(client, self.source.url, file, known)
        if came is None:
            return Extraction([], state)
        after = {"etag": came.version.etag, "modified": came.version.modified, "sha256": came.sha256}
        after = {name: value for name, value in after.items() if value}
        if came.sha256 == state.get("sha256"):
            return Extraction([], after)
        return Extraction([sink.deliver(self._name(came.sha256), _blocks(file))], after)

    def _name(self, sha256: str) -> str:
        """Return the name of a delivery: the last part of the address, and the content's digest."""
        last = urlsplit(self.source.url).path.rstrip("/").rpartition("/")[2]
        return delivery_name(
            last if self.source.download else f"{last.replace('.', '_')}.{self.source.format}", sha256[:32]
        )

    def _rows(self, client: Client, state: State, sink: Sink, now: datetime, file: Path) -> Extraction:
        memory = RowMemory(state, self._overlap, microseconds(now))
        pages = Pages(self, client, state, memory.since)
        made = list(self._deliveries(memory.new(pages.rows()), sink, file))
        if pages.unchanged:
            return Extraction([], state)
        if not pages.count:
            logger.info("%s gave no row, so nothing is delivered", shown(self.source.url))
        cursor = self.source.cursor
        if cursor and pages.count and not pages.readable:
            raise IngestError(
                f"read {shown(self.source.url)}: no row has a time that can be read in its cursor '{cursor.column}'",
                "Correct source.cursor.column, source.dates or source.time_zone.",
            )
        after = dict(memory.after())
        if pages.next is not None or NEXT in state:  # a part of a listing: what was taken before still counts
            known = union(state.get(ROWS, ""), after.get(ROWS, ""), self._overlap)
            after = _part(state, after, complete=pages.next is None) | {ROWS: known}
        return Extraction(made, after | pages.state(), complete=pages.next is None)

    @property
    def _overlap(self) -> timedelta | None:
        cursor = self.source.cursor
        if cursor is None:
            return None
        if self.pipeline.columns[cursor.column].type == "date":  # a day goes on after its rows were read
            return timedelta(days=max(1, -(-cursor.overlap // timedelta(days=1))))
        return cursor.overlap

    @property
    def _header(self) -> bytes:
        names = list(self.source.names(self.pipeline.columns).values())
        return csv_deliveries.header(names) + b"\n" if self.source.format == "csv" else b""

    def _deliveries(self, lines: Iterator[bytes], sink: Sink, file: Path) -> Iterator[Delivery]:
        while True:
            digest, size = hashlib.sha256(self._header), 0
            with file.open("wb") as out:
                out.write(self._header)
                for line in islice(lines, DELIVERY_ROWS):
                    out.write(line + b"\n")
                    digest.update(line + b"\n")
                    size += len(line) + 1
                    if size >= self.delivery_bytes:
                        break
            if not size:
                return
            yield sink.deliver(self._name(digest.hexdigest()), _blocks(file))


class Pages:
    """Reads the pages of one extraction, and where it ended."""

    def __init__(self, opened: Http, client: Client, state: State, since: int | None) -> None:
        self._source, self._pipeline, self._most = opened.source, opened.pipeline, opened.pages
        self._names = opened.source.names(opened.pipeline.columns)
        self._client, self._version = client, downloads.Version(state.get("etag", ""), state.get("modified", ""))
        self._first = paging.first(self._source, self._text(since))
        self.next: str | None = state.get(NEXT) or self._first
        self.count = self.readable = self._bytes = 0
        self.unchanged = False

    def _text(self, since: int | None) -> str | None:
        """Return the value of the cursor's parameter: ISO 8601, a time in UTC with Z."""
        if since is None or self._source.cursor is None:
            return None
        at = moment(since)
        if self._pipeline.columns[self._source.cursor.column].type == "date":
            return at.date().isoformat()
        return at.isoformat().replace("+00:00", "Z")

    def rows(self) -> Iterator[tuple[int | None, bytes]]:
        """Yield each row of the pages: its cursor, and its declared columns as one line."""
        source, guard = self._source, _CircleCheck(self._source.url)
        for number in range(self._most):
            here = self.next or ""
            gone: frozenset[int] = _GONE if not number and here != self._first else frozenset()
            answer = self._client.page(here, None if number else self._version.conditions(), gone=gone)
            if answer.status in gone:  # from its first page; rows that are remembered do not come again
                here = self._first
                answer = self._client.page(here)
            self.unchanged = answer.status == 304
            if self.unchanged:
                self.next = None
                return
            try:
                page = NO_ROW if answer.status == NO_CONTENT else json_rows.parse(answer.body, source.records)
                lines = list(self._lines(page))
                guard.check(here, lines)
                for row, line in zip(page.rows, lines, strict=True):
                    at = self._cursor(row.get(self._names[source.cursor.column])) if source.cursor else None
                    self.count, self.readable = self.count + 1, self.readable + (at is not None)
                    yield at, line
                self.next = paging.following(source, here, answer.url, page, answer.headers.get("link", ""))
                if not page.rows and self.next == here:  # the end, as a service tells it whose cursor stays
                    self.next = None
            except NotRows as fault:
                raise IngestError(
                    f"read {shown(answer.url)}: {fault}",
                    "Compare `records` and `pagination` with the service's documentation.",
                ) from None
            self._version = downloads.version_of(answer.headers)
            self._bytes += len(answer.body)
            if self.next is None or self._bytes >= RUN_BYTES or self._client.seconds >= RUN_SECONDS:
                return

    def _lines(self, page: json_rows.RowsPage) -> Iterator[bytes]:
        names = self._names.values()
        if self._source.format == "csv":
            return map(csv_deliveries.line, json_rows.cells(page, names))
        return json_rows.lines(page, names)

    def _cursor(self, value: object) -> int | None:
        if not isinstance(value, str) or self._source.cursor is None:
            return None
        if self._pipeline.columns[self._source.cursor.column].type == "timestamp":
            found = instants.instant(value, self._source)
            return microseconds(found) if isinstance(found, datetime) else None
        day = recognise.day(value, self._source)
        return microseconds(datetime.combine(day, time(), UTC)) if day else None

    def state(self) -> dict[str, str]:
        """Return where the next extraction goes on; for a single answer its version."""
        if self.next is not None:
            return {NEXT: self.next}
        if self._source.pagination.by != "none" or self._source.cursor:
            return {}
        found = {"etag": self._version.etag, "modified": self._version.modified}
        return {name: value for name, value in found.items() if value}


def union(before: str, after: str, overlap: timedelta | None) -> str:
    """Return the digests of both, as `RowMemory` keeps them. Raises IngestError for too many."""
    packed = base64.b64decode(before) + base64.b64decode(after)
    found = sorted({packed[i : i + DIGEST] for i in range(0, len(packed), DIGEST)})
    if len(found) > row_memory.MOST:
        raise row_memory.too_many(overlap)
    return base64.b64encode(b"".join(found)).decode()


def _part(state: State, after: State, *, complete: bool) -> dict[str, str]:
    """Return the state after a part of a listing. One that starts again asks from where the first part began."""
    found = {name: value for name, value in after.items() if name != CURSOR}
    read = [int(cursor) for cursor in (state.get(HIGHEST), after.get(CURSOR)) if cursor is not None]
    if read:
        found[CURSOR if complete else HIGHEST] = str(max(read))
    if not complete and CURSOR in state:
        found[CURSOR] = state[CURSOR]
    return found


class _CircleCheck:
    """Refuses a service that leads in a circle, repeats a page, or gives empty pages without an end."""

    def __init__(self, url: str) -> None:
        self._url, self._empty = url, 0
        self._addresses: set[bytes] = set()
        self._pages: set[bytes] = set()

    def check(self, url: str, rows: Sequence[bytes]) -> None:
        here, page = (hashlib.blake2b(text, digest_size=16).digest() for text in (url.encode(), b"\n".join(rows)))
        self._empty = 0 if rows else self._empty + 1
        fault = (
            "its pages lead in a circle"
            if here in self._addresses
            else "it gives the same page again"
            if rows and page in self._pages
            else f"{EMPTY_PAGES} pages in succession hold no row"
            if self._empty >= EMPTY_PAGES
            else ""
        )
        if fault:
            raise IngestError(
                f"read {shown(self._url)}: {fault}",
                "Compare `pagination` with the service's documentation: does it know the parameter?",
            )
        self._addresses.add(here)
        self._pages.add(page)


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
