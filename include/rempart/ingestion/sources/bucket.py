"""The sources `site` and `files` with a site: objects of a bucket, read and never written.

An object is new if its key was not taken before with this size and ETag. It is delivered as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from rempart.errors import CapabilityMissing, ConfigError, IngestError, IntegrityError, ObjectMissing, PipelineError
from rempart.ingestion.sources import origins
from rempart.ingestion.sources.names import delivery_name
from rempart.ingestion.sources.port import Delivery, Extraction, Origin, Sink, State, Surroundings
from rempart.settings.pipeline import Pipeline
from rempart.settings.policy.rules import Place
from rempart.settings.sources import FilesSource, SiteSource
from rempart.sites.digests import Digests
from rempart.sites.port import Checks, ObjectInfo
from rempart.sovereignty import places
from rempart.sovereignty.egress import is_this_machine
from rempart.sovereignty.sources import source_fault

OBJECTS = 100_000
"""Most objects below the folder of a source."""
AT_ONCE = 1_000
"""Most objects of one extraction; the next one goes on."""
RUN_BYTES = 4 << 30
"""Bytes after which an extraction ends with the object that it reads; the next one goes on."""
OBJECT_BYTES = 4 << 30
"""Largest object."""
_BLOCK = 1 << 20


class Readable(Protocol):
    """The part of a site that a source needs. It cannot write."""

    name: str

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]: ...

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo: ...

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks: ...

    def open(
        self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False
    ) -> AbstractContextManager[BinaryIO]: ...


def open_bucket(pipeline: Pipeline, around: Surroundings) -> BucketFiles:
    """Open the bucket of a pipeline's source. Raises PlacementDenied, ConnectionMissing, ConfigError, PipelineError,
    SiteError.
    """
    from rempart.sites.s3.reader import S3Reader

    source, config = pipeline.source, around.config
    if not isinstance(source, SiteSource | FilesSource) or source.site is None or source.bucket is None:
        raise TypeError(f"a source of kind {source.kind} is no bucket")
    if fault := source_fault(config, source):
        raise PipelineError(f"source of pipeline '{pipeline.name}': {fault}", "Correct `source` in the pipeline file.")
    site: Place
    if source.kind == "site":
        site = config.origins[source.site]
        name, most = config.origins[source.site].connection, OBJECTS
    else:
        site = config.sites[source.site]
        name, most = config.sites[source.site].connection, config.sites[source.site].most_listed
    connection = around.connections(name or "")
    endpoint = str(connection.extra.get("endpoint_url") or "")
    decision = places.decide_origin(
        config, pipeline.classification, source.site, on=around.now.date(), endpoint=endpoint
    )
    around.record(decision)
    if source.kind == "site":
        _check_tls(connection.name, endpoint)
    reader = S3Reader(source.site, connection, site.region, decision, most_listed=most)
    where = f"{source.site}/{source.bucket}/{source.folder or ''}"
    origin = origins.origin(config, places.placement(decision.place, site), where)
    return BucketFiles(reader, source.bucket, source.folder or "", origin)


def _check_tls(connection: str, endpoint: str) -> None:
    """Raise ConfigError for a bucket of another machine that would be read without TLS."""
    parts = urlsplit(endpoint)
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        raise ConfigError(
            f"Connection '{connection}': its endpoint is http://{parts.hostname}, another machine without TLS",
            "Write the endpoint_url of its extra with https://.",
        )


@dataclass(frozen=True)
class BucketFiles:
    """A folder of a bucket, opened for one extraction."""

    site: Readable
    bucket: str
    folder: str
    origin: Origin
    at_once: int = AT_ONCE

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        """Deliver new objects, oldest first. The state holds digests of keys, sizes and ETags, and no key."""
        found = self._found()
        marks = {_mark(info.key): _version(info) for info in found}
        new = [info for info in found if state.get(_mark(info.key)) != _version(info)]
        after = {mark: version for mark, version in state.items() if mark in marks}  # what is gone is forgotten
        deliveries = []
        done = size = 0
        for info in new[: self.at_once]:
            if size >= RUN_BYTES:
                break
            done, size = done + 1, size + info.size
            delivery = self._deliver(info, sink)
            if delivery is not None:
                deliveries.append(delivery)
                after[_mark(info.key)] = _version(info)
        return Extraction(deliveries, after, complete=done == len(new))

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        raise CapabilityMissing(
            f"compare the keys of {self.origin.place}: a bucket holds files and answers no query",
            "Deliver whole files, or use a source of kind `sql`.",
        )

    def _found(self) -> list[ObjectInfo]:
        """Return the objects of the folder, oldest first. Markers (`_SUCCESS`), hidden and empty ones are left out."""
        found = []
        for info in self.site.list(self.bucket, self.folder):
            if info.key.rpartition("/")[2][:1] in ("_", ".", "") or not info.size:
                continue
            if info.size > OBJECT_BYTES:
                raise IngestError(
                    f"{self._where(info)}: the object is larger than {OBJECT_BYTES >> 30} GiB",
                    "Ask for it in parts, or name a `folder` without it. Nothing was delivered.",
                )
            found.append(info)
            if len(found) > OBJECTS:
                raise IngestError(
                    f"list {self.origin.place}: more than {OBJECTS:,} objects",
                    "Name a `folder` with fewer, such as the folder of a year.",
                )
        return sorted(found, key=lambda info: (info.modified, info.key))

    def _where(self, info: ObjectInfo) -> str:
        return f"get {self.bucket}/{info.key} at '{self.site.name}'"

    def _deliver(self, info: ObjectInfo, sink: Sink) -> Delivery | None:
        """Deliver one object; None if it is gone or another since the listing: the next extraction finds it."""
        try:
            head = self.site.head(self.bucket, info.key)
            if (head.size, head.etag) != (info.size, info.etag):
                return None
            return sink.deliver(_name(info), self._blocks(head))
        except (ObjectMissing, _Replaced):
            return None

    def _blocks(self, head: ObjectInfo) -> Iterator[bytes]:
        """Yield the body, and raise at its end if it is not the one that the site announced and checked."""
        checks = self.site.checks(self.bucket, head.key, version_id=head.version_id)
        came = Digests(checks.part, etag=bool(checks.part))
        with self.site.open(self.bucket, head.key, version_id=head.version_id) as stream:
            while block := stream.read(_BLOCK):
                came.update(block)
                yield block
                if came.size > head.size:
                    break
        after = self.site.head(self.bucket, head.key, version_id=head.version_id)
        regular = checks.etag.rpartition("-")[2] == str(-(-checks.size // checks.part)) if checks.part else False
        if (after.size, after.etag) != (head.size, head.etag):
            raise _Replaced
        wrong = (
            f"{came.size} bytes came, {head.size} were announced"
            if came.size != head.size
            else "its SHA-256 is not the one on record there"
            if (checks.sha256 and checks.sha256 != came.sha256)
            or (checks.composite and regular and checks.composite != came.composite)
            else ""
        )
        if wrong:
            raise IntegrityError(
                f"{self._where(head)}: {wrong}", "Run again. If it fails again, ask the operator. It was not delivered."
            )


class _Replaced(Exception):
    """Raised when an object was replaced while it was read."""


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _version(info: ObjectInfo) -> str:
    return hashlib.sha256(f"{info.size} {info.etag} {info.version_id or ''}".encode()).hexdigest()[:32]


def _name(info: ObjectInfo) -> str:
    """Return the name of a delivery: the last part of the key, and what tells it from others of the same name."""
    mark = hashlib.sha256(f"{_mark(info.key)} {_version(info)}".encode()).hexdigest()[:16]
    return delivery_name(info.key.rpartition("/")[2], mark)
