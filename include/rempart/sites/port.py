"""The interface to one site. Adapters: `sites.s3` (boto3) and `sites.memory` (tests); one contract suite runs on both.

Every write carries the body's SHA-256, which the site checks on arrival and keeps as metadata `sha256`; every read
can be checked against it. All operations are idempotent, so a caller may repeat one that raised SiteUnavailable.
Deletes without a version leave a delete marker where the bucket keeps versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from rempart.sites.capabilities import CapabilityRecord


@dataclass(frozen=True)
class ObjectInfo:
    """One object version. `metadata` and `content_type` are filled by `head` and `write`; listings leave them empty."""

    key: str
    size: int
    modified: datetime
    version_id: str | None = None
    etag: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that the writer recorded, hex."""
        return self.metadata.get("sha256")


class Site(Protocol):
    """One S3-compatible location. Errors: SiteError and its subclasses, naming site, bucket and key."""

    name: str
    endpoint: str

    def ensure_bucket(self, bucket: str, *, versioned: bool, locked: bool = False) -> None:
        """Create the bucket if it is missing and switch versioning on if asked.

        With `locked`, its objects can be put under lock. Raises SiteError for a bucket that was made without.
        """

    def drop_bucket(self, bucket: str) -> None:
        """Delete the bucket with all that it holds. Only for scratch buckets that the caller created."""

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Current objects under a prefix, each once, in the site's order; a page that fails raises."""

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """The current version's facts. Raises ObjectMissing."""

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        """The whole body, checked against `sha256` if given. Raises ObjectMissing, IntegrityError."""

    def open(self, bucket: str, key: str, *, version_id: str | None = None) -> AbstractContextManager[BinaryIO]:
        """The body as a stream, for objects that do not fit in memory. Raises ObjectMissing."""

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        """Store a body with its SHA-256."""

    def write_new(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
        retain_until: datetime | None = None,
    ) -> bool:
        """Store a body unless the key exists: True if this call stored it, False if the key was there.

        Until `retain_until` nobody can delete this version, nor shorten the time (compliance mode); the bucket must be
        one with locks.
        """

    def write_file(
        self,
        bucket: str,
        key: str,
        file: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        """Store a file with its SHA-256, in constant memory."""

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> None:
        """Delete one object; a missing one is no error."""

    def probe(self, bucket: str, now: datetime, say: Callable[[str], object] = lambda line: None) -> CapabilityRecord:
        """Try everything that we may ask of the site, in a bucket for that alone; `say` gets each finding.

        Raises SiteError if the bucket can neither be found nor made.
        """
