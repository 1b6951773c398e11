"""The source `http`: rows of a REST API as JSON Lines, or one file as it is.

Pages are gathered into deliveries of a bounded size. A delivery is named by its content, so the same rows have the same
name and bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rempart.errors import CapabilityMissing, IngestError
from rempart.ingestion.sources import json_rows, origins, paging, web_download
from rempart.ingestion.sources.json_rows import NotRows
from rempart.ingestion.sources.port import Delivery, Extraction, Origin, Sink, State, Surroundings
from rempart.ingestion.sources.seen_rows import Progress
from rempart.ingestion.sources.web_client import Answer, Client, origin_of, shown
from rempart.settings.config import project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import HttpSource
from rempart.sites.spool import spool_folder
from rempart.sovereignty import places

PAGES = 10_000
"""Most pages of one extraction; the next one goes on from there."""
RUN_BYTES, RUN_SECONDS = 4 << 30, 1800.0
"""Bytes of rows, and seconds, after which an extraction ends with the page that it reads; the next one goes on."""
EMPTY_PAGES = 20
"""Most pages without a row in succession."""
DELIVERY_BYTES = 32 << 20
"""A delivery of rows ends with the first page that makes it so long."""
_MADE = 500
"""Most deliveries that are remembered, so that a whole listing without changes delivers nothing."""
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
        known = web_download.Version(state.get("etag", ""), state.get("modified", ""))
        came = web_download.download(client, self.source.url, file, known)
        if came is None:
            return Extraction([], state)
        after = {"etag": came.version.etag, "modified": came.version.modified, "sha256": came.sha256}
        after = {name: value for name, value in after.items() if value}
        if came.sha256 == state.get("sha256"):
            return Extraction([], after)
        return Extraction([sink.deliver(self._name(came.sha256), _blocks(file))], after)

    def _name(self, sha256: str) -> str:
        """Return the name of a delivery: the last part of the address, and the content's digest."""
        stem = urlsplit(self.source.url).path.rstrip("/").rpartition("/")[2]
        plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in stem)
        first, _, rest = plain.lstrip("._-")[-60:].partition(".")
        if not self.source.download:
            first, rest = plain.replace(".", "_").lstrip("_-")[-60:], "jsonl"
        return f"{first or 'file'}-{sha256[:32]}{'.' if rest else ''}{rest}"

    def _rows(self, client: Client, state: State, sink: Sink, now: datetime, file: Path) -> Extraction:
        source, made = self.source, _Made(self, sink, file, state)
        progress = None
        if source.cursor:
            column = self.pipeline.columns[source.cursor.column]
            progress = Progress(source.cursor, column, source, state, now)
        url: str | None = state.get("next") or paging.first(source, progress.since if progress else None)
        guard, headers, answer = _Guard(source.url), self._conditions(state), None
        for number in range(self.pages):
            answer = client.page(url or "", headers if not number else None)
            if answer.status == 304:
                return Extraction([], state)
            page = self._parsed(answer)
            guard.check(url or "", answer, len(page.rows))
            for row, line in zip(page.rows, json_rows.lines(page), strict=True):
                if progress is None or progress.is_new(row, line):
                    made.add(line)
            made.end_page()
            try:
                url = paging.following(source, url or "", answer.url, page, answer.headers.get("link", ""))
            except NotRows as fault:
                raise _refused(source.url, fault) from None
            if url is None or made.bytes >= RUN_BYTES or client.seconds >= RUN_SECONDS:
                break
        if progress and progress.rows and not progress.readable and source.cursor:
            raise IngestError(
                f"read {shown(source.url)}: no row has a time that can be read in its cursor '{source.cursor.column}'",
                "Correct source.cursor.column, source.dates or source.time_zone.",
            )
        made.end()
        after = progress.state() if progress else made.state(whole=url is None and "next" not in state)
        if url is not None:
            return Extraction(made.deliveries, after | {"next": url}, complete=False)
        if answer is not None and source.pagination.by == "none" and not source.cursor:
            version = web_download.version_of(answer.headers)
            after |= {k: v for k, v in (("etag", version.etag), ("modified", version.modified)) if v}
        return Extraction(made.deliveries, after)

    def _conditions(self, state: State) -> dict[str, str] | None:
        return web_download.Version(state.get("etag", ""), state.get("modified", "")).conditions()

    def _parsed(self, answer: Answer) -> json_rows.Page:
        try:
            return json_rows.parse(answer.body, self.source.records)
        except NotRows as fault:
            raise _refused(answer.url, fault) from None


def _refused(url: str, fault: NotRows) -> IngestError:
    return IngestError(
        f"read {shown(url)}: {fault}", "Compare `records` and `pagination` with the service's documentation."
    )


class _Guard:
    """Refuses a service that leads in a circle, repeats a page, or gives empty pages without an end."""

    def __init__(self, url: str) -> None:
        self._url, self._empty, self._before = url, 0, b""
        self._seen: set[bytes] = set()

    def check(self, url: str, answer: Answer, rows: int) -> None:
        here, body = (hashlib.blake2b(text, digest_size=16).digest() for text in (url.encode(), answer.body))
        self._empty = 0 if rows else self._empty + 1
        fault = (
            "its pages lead in a circle"
            if here in self._seen
            else "it gives the same page again"
            if rows and body == self._before
            else f"{EMPTY_PAGES} pages in succession hold no row"
            if self._empty >= EMPTY_PAGES
            else ""
        )
        if fault:
            raise IngestError(
                f"read {shown(self._url)}: {fault}",
                "Compare `pagination` with the service's documentation: does it know the parameter?",
            )
        self._seen.add(here)
        self._before = body


class _Made:
    """Gathers lines into deliveries. Those of the extraction before are not delivered again."""

    def __init__(self, source: Http, sink: Sink, file: Path, state: State) -> None:
        self._source, self._sink, self._file = source, sink, file
        self._before, self._all = state.get("made", "").split(), list[str]()
        self.deliveries: list[Delivery] = []
        self._digest, self._size, self._out, self.bytes = hashlib.sha256(), 0, file.open("wb"), 0

    def add(self, line: bytes) -> None:
        self._digest.update(line)
        self._size += self._out.write(line)
        self.bytes += len(line)

    def end_page(self) -> None:
        if self._size >= self._source.delivery_bytes:
            self.end()

    def end(self) -> None:
        self._out.close()
        if self._size:
            sha256 = self._digest.hexdigest()
            self._all.append(sha256)
            if sha256 not in self._before:
                name = self._source._name(sha256)
                self.deliveries.append(self._sink.deliver(name, _blocks(self._file)))
        self._digest, self._size, self._out = hashlib.sha256(), 0, self._file.open("wb")

    def state(self, *, whole: bool) -> dict[str, str]:
        """Return what is remembered of the deliveries: of a whole listing only its own."""
        made = self._all if whole else [*self._before, *self._all]
        return {"made": " ".join(made[-_MADE:])} if made else {}


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
