"""The interface to one site. Its adapter: `sites.s3.site` (boto3, and obstore for bodies); tests have one in memory.

Every write carries the body's SHA-256, which the site checks on arrival and keeps as metadata `sha256`; every read
can be checked against it. All operations are idempotent, so a caller may repeat one that raised SiteUnavailable.
Deletes without a version leave a delete marker where the bucket keeps versions.
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


@dataclass(frozen=True)
class Checks:
    """What a site tells of a body without sending it.

    `sha256` (hex, of the whole) and `composite` (of parts, as S3 writes it: base64 and their count): the checksum that
    the writer sent along; empty without one. `part`: bytes of each part but the last, 0 for a body that was sent whole.
    `encrypted`: the ETag may be of encrypted bytes, so that it says nothing of the body.
    """

    size: int
    etag: str
    sha256: str = ""
    composite: str = ""
    part: int = 0
    encrypted: bool = False


class Upload(Protocol):
    """A large object on its way in parts. Parts are numbered from 1; each may be stored again."""

    def has(self, number: int, body: bytes) -> bool:
        """Whether this part is there already, from an upload that was broken off."""

    def part(self, number: int, body: bytes) -> None:
        """Store a part with its SHA-256."""

    @property
    def sent_etag(self) -> str:
        """The ETag of the object by the MD5s of what was sent, whatever the site tells."""

    def complete(self) -> ObjectInfo:
        """Make the object of all parts. It counts, too, if the answer was lost and the object is there."""

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

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks:
        """The checksums that the site has of a body, and the length of its parts. Raises ObjectMissing."""

    def fetch(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        tags: bool = False,
        listed: ObjectInfo | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        """Facts and body in one request (and one more for the tags): for bodies that fit in memory.

        With `listed` the answer must be of the size and ETag that a listing told, and the caller checks the SHA-256;
        without, the body is checked against its writer's record, if there is one. Raises ObjectMissing,
        IntegrityError, and SiteUnavailable for a body that broke off or is an error of the site's.
        """

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """Exactly so many bytes from there on. Raises ObjectMissing, and SiteUnavailable for an answer of others."""

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        """The whole body, checked against `sha256` if given, else against its writer's record if there is one.

        Raises ObjectMissing, IntegrityError, SiteUnavailable.
        """

    def open(
        self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False
    ) -> AbstractContextManager[BinaryIO]:
        """The body as a stream, for objects that do not fit in memory; `once`: it is not asked for again if that fails.

        Raises ObjectMissing, and SiteUnavailable for a body that is an error of the site's.
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
        """Store a body with its SHA-256, which the caller may know already.

        A write of which the answer was lost counts if the object is there. `etag` and `version_id` are empty if the
        site tells none.
        """

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

    def probe(self, bucket: str, now: datetime) -> CapabilityRecord:
        """Try everything that we may ask of the site, in a bucket for that alone; `say` gets each finding.

        Raises SiteError if the bucket can neither be found nor made.
        """
