"""The interface to one site. Adapters: `sites.s3` (boto3, and obstore for bodies) and `sites.memory` (tests).

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
    """One object version, or a delete marker (`marker`).

    `metadata` and `content_type` are filled by `head`, `fetch` and `write`, `tags` by those that are asked for them;
    listings leave all three empty.
    """

    key: str
    size: int
    modified: datetime
    version_id: str | None = None
    etag: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    marker: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that the writer recorded, hex."""
        return self.metadata.get("sha256")


class Upload(Protocol):
    """A large object on its way in parts. Parts are numbered from 1; each may be stored again."""

    def has(self, number: int, body: bytes) -> bool:
        """Whether this part is there already, from an upload that was broken off."""

    def part(self, number: int, body: bytes) -> None:
        """Store a part with its SHA-256."""

    def complete(self) -> ObjectInfo:
        """Make the object of all parts."""

    def abort(self) -> None:
        """Throw the parts away."""


class Site(Protocol):
    """One S3-compatible location. Errors: SiteError and its subclasses, naming site, bucket and key."""

    name: str
    endpoint: str

    def ensure_bucket(self, bucket: str, *, versioned: bool, locked: bool = False) -> None:
        """Create the bucket if it is missing and switch versioning on if asked.

        With `locked`, its objects can be put under lock. Raises SiteError for a bucket that was made without.
        """

    def rely_on(self, record: CapabilityRecord) -> None:
        """Hold the site to what was proven of it: where its listing order was, a listing out of order is refused."""

    def drop_bucket(self, bucket: str) -> None:
        """Delete the bucket with all that it holds. Only for scratch buckets that the caller created."""

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Current objects under a prefix, each once, in the site's order; a page that fails raises."""

    def keeps_versions(self, bucket: str) -> bool:
        """Whether versioning is on."""

    def versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every version and delete marker under a prefix, those of a key newest first; a page that fails raises."""

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo:
        """The facts of the current version, or of the one that is named. Raises ObjectMissing."""

    def fetch(
        self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False
    ) -> tuple[ObjectInfo, bytes]:
        """Facts and body in one request (and one more for the tags): for bodies that fit in memory.

        Raises ObjectMissing, and SiteUnavailable for a body that broke off.
        """

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """So many bytes from there on. Raises ObjectMissing."""

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        """The whole body, checked against `sha256` if given. Raises ObjectMissing, IntegrityError."""

    def open(
        self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False
    ) -> AbstractContextManager[BinaryIO]:
        """The body as a stream, for objects that do not fit in memory; `once`: it is not asked for again if that fails.

        Raises ObjectMissing.
        """

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
        tags: Mapping[str, str] | None = None,
        sha256: str | None = None,
    ) -> ObjectInfo:
        """Store a body with its SHA-256, which the caller may know already."""

    def upload(self, bucket: str, like: ObjectInfo) -> Upload:
        """Begin to store a large object in parts, or go on with what an earlier call for the same key began.

        It gets the key, metadata, content type and tags of `like`.
        """

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
        retain_until: datetime | None = None,
    ) -> ObjectInfo:
        """Store a file with its SHA-256, in constant memory; `retain_until` as in `write_new`."""

    def retain(self, bucket: str, key: str, version_id: str, until: datetime) -> datetime:
        """Lock a version until then, in compliance mode; one that is locked for longer stays so.

        Returns until when it is locked, as the site tells it. A time is kept to the second. Raises SiteError, among
        others for a bucket without locks, and ObjectMissing.
        """

    def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
        """Until when compliance mode keeps a version; it may be past. None without a lock, or under a weaker one."""

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        """Delete one object; a missing one is no error. Returns the version of the delete marker that was made."""

    def probe(self, bucket: str, now: datetime, say: Callable[[str], object] = lambda line: None) -> CapabilityRecord:
        """Try everything that we may ask of the site, in a bucket for that alone; `say` gets each finding.

        Raises SiteError if the bucket can neither be found nor made.
        """
