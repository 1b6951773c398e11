"""The interface to one site. Its adapter is `sites.s3.site` (boto3, and obstore for bodies); tests have one in memory.

Every write carries the body's SHA-256, which the site checks on arrival and stores as metadata `sha256`; every read can
be checked against it. All operations are idempotent, so a caller may repeat one that raised SiteUnavailable. A delete
without a version leaves a delete marker if the bucket keeps versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from rempart.sites.capabilities import CapabilityRecord


@dataclass(frozen=True)
class ObjectInfo:
    """One object version, or a delete marker (`marker`).

    `head`, `fetch` and `write` fill `metadata` and `content_type`, and `tags` on request; listings leave all three
    empty.
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
        """Return the SHA-256 that the writer recorded, hex."""
        return self.metadata.get("sha256")


@dataclass(frozen=True)
class Checks:
    """The site's checksums of a body, read without its bytes.

    `sha256` (hex, of the whole) and `composite` (of parts, in S3's form: base64 and their count): the checksum that the
    writer sent; empty if it sent none. `part`: bytes of each part but the last, 0 for a body in one piece. `encrypted`:
    the ETag may be of encrypted bytes and says nothing about the body.
    """

    size: int
    etag: str
    sha256: str = ""
    composite: str = ""
    part: int = 0
    encrypted: bool = False


class Upload(Protocol):
    """A large object being uploaded in parts, numbered from 1; each may be stored again."""

    def has(self, number: int, body: bytes) -> bool:
        """Return whether an interrupted upload already stored this part."""

    def part(self, number: int, body: bytes) -> None:
        """Store a part with its SHA-256."""

    @property
    def sent_etag(self) -> str:
        """Return the ETag of the object from the MD5s of the sent parts, regardless of the site's answer."""

    def complete(self) -> ObjectInfo:
        """Complete the object. It also succeeds if the answer was lost and the object exists."""

    def abort(self) -> None:
        """Discard the parts."""


class Site(Protocol):
    """One S3-compatible location. Errors: SiteError and its subclasses, naming site, bucket and key."""

    name: str
    endpoint: str

    def ensure_bucket(self, bucket: str, *, versioned: bool, locked: bool = False) -> None:
        """Create the bucket if it is missing and switch versioning on if asked.

        With `locked`, its objects can be put under lock. Raises SiteError for a bucket that was made without.
        """

    def rely_on(self, record: CapabilityRecord) -> None:
        """Apply proven capabilities: if the listing order is proven, an unordered listing is refused."""

    def drop_bucket(self, bucket: str) -> None:
        """Delete the bucket with all that it holds. Only for scratch buckets that the caller created."""

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield current objects under a prefix, each once, in the site's order. Raises if a page fails."""

    def keeps_versions(self, bucket: str) -> bool:
        """Return whether versioning is on."""

    def versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every version and delete marker under a prefix, each key's newest first. Raises if a page fails."""

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo:
        """Return the facts of the current or the named version. Raises ObjectMissing."""

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks:
        """Return the site's checksums of a body, and the length of its parts. Raises ObjectMissing."""

    def fetch(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        tags: bool = False,
        listed: ObjectInfo | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        """Return facts and body in one request (one more for tags), for bodies that fit in memory.

        With `listed`, the answer must have the listed size and ETag, and the caller checks the SHA-256; without, the
        body is checked against its writer's record, if any. Raises ObjectMissing, IntegrityError, and SiteUnavailable
        for an interrupted body or an error document.
        """

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """Return exactly that many bytes from an offset.

        Raises ObjectMissing, and SiteUnavailable for another range.
        """

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        """Return the whole body, checked against `sha256` if given, else against its writer's record if any.

        Raises ObjectMissing, IntegrityError, SiteUnavailable.
        """

    def open(
        self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False
    ) -> AbstractContextManager[BinaryIO]:
        """Open the body as a stream, for objects that do not fit in memory; `once`: never request it twice.

        Raises ObjectMissing, and SiteUnavailable for an error document.
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
        """Store a body with its SHA-256, which the caller may pass.

        A write whose answer was lost counts if the object exists. `etag` and `version_id` are empty if the site sends
        none.
        """

    def upload(self, bucket: str, like: ObjectInfo) -> Upload:
        """Start a large object in parts, or continue an earlier upload of the same key.

        It gets key, metadata, content type and tags of `like`.
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
        """Store a body unless the key exists. Return True if this call stored it, False if the key existed.

        Until `retain_until` nobody can delete this version or shorten the time (compliance mode); the bucket must have
        object lock.
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
        """Lock a version in compliance mode; a longer lock stays.

        Returns the end of the lock as the site reports it, to the second. Raises SiteError, for example for a bucket
        without locks, and ObjectMissing.
        """

    def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
        """Return the end of a version's compliance lock, possibly past; None without one, or under a weaker one."""

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        """Delete one object; a missing one is no error. Return the version of the new delete marker."""

    def probe(self, bucket: str, now: datetime) -> CapabilityRecord:
        """Probe all capabilities in a separate bucket, and log each finding.

        Raises SiteError if the bucket is missing and cannot be made.
        """
