"""A site in memory, for unit tests: the same contract as S3, no server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from rempart.errors import IntegrityError, ObjectMissing, SiteError
from rempart.sites.capabilities import CAPABILITIES, CapabilityRecord, Proof
from rempart.sites.port import Checks, ObjectInfo

_EPOCH = datetime.fromtimestamp(0, UTC)


class MemorySite:
    """Buckets as dictionaries of version lists; a version without body is a delete marker."""

    def __init__(self, name: str = "memory") -> None:
        self.name, self.endpoint = name, f"memory:{name}"
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._versioned: dict[str, bool] = {}
        self._buckets: dict[str, dict[str, list[tuple[ObjectInfo, bytes | None]]]] = {}
        self._locking: set[str] = set()
        self._retained: dict[str, datetime] = {}
        self._writes = 0
        self._uploads: dict[tuple[str, str], _Upload] = {}

    def _check_lock(self, bucket: str, key: str, version_id: str | None) -> None:
        if version_id and self._retained.get(version_id, _EPOCH) > self.clock():
            raise SiteError(
                f"delete {bucket}/{key} at site '{self.name}': it is locked until {self._retained[version_id]}",
                "Wait until then.",
            )

    def _check_locking(self, bucket: str, key: str, until: datetime | None) -> None:
        if until and bucket not in self._locking:
            raise SiteError(f"lock {bucket}/{key} at site '{self.name}': no locks here", "Make it with locked=True.")

    def _bucket(self, bucket: str) -> dict[str, list[tuple[ObjectInfo, bytes | None]]]:
        if bucket not in self._buckets:
            raise ObjectMissing(f"bucket {bucket} at site '{self.name}': not there", "Create it with ensure_bucket.")
        return self._buckets[bucket]

    def _find(self, bucket: str, key: str, version_id: str | None = None) -> tuple[ObjectInfo, bytes]:
        versions = self._bucket(bucket).get(key, [])
        wanted = [v for v in versions if v[0].version_id == version_id] if version_id else versions[-1:]
        if not wanted or wanted[0][1] is None:
            raise ObjectMissing(f"get {bucket}/{key} at site '{self.name}': not there", "Check the bucket and key.")
        return wanted[0][0], wanted[0][1]

    def ensure_bucket(self, bucket: str, *, versioned: bool, locked: bool = False) -> None:
        if locked and bucket in self._buckets and bucket not in self._locking:
            raise SiteError(f"bucket {bucket} at site '{self.name}' was made without locks", "Use another bucket.")
        if locked:
            self._locking.add(bucket)
            versioned = True
        self._buckets.setdefault(bucket, {})
        self._versioned[bucket] = versioned or self._versioned.get(bucket, False)

    def rely_on(self, record: CapabilityRecord) -> None:
        """Nothing: its listings are in order."""

    def drop_bucket(self, bucket: str) -> None:
        self._bucket(bucket)
        for key, versions in self._buckets[bucket].items():
            for info, _ in versions:
                self._check_lock(bucket, key, info.version_id)
        del self._buckets[bucket]
        self._locking.discard(bucket)

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        for key, versions in sorted(self._bucket(bucket).items(), key=lambda item: item[0].encode()):
            if key.startswith(prefix) and versions[-1][1] is not None:
                yield replace(versions[-1][0], metadata={}, version_id=None, content_type="")

    def keeps_versions(self, bucket: str) -> bool:
        self._bucket(bucket)
        return self._versioned[bucket]

    def versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        for key, versions in sorted(self._bucket(bucket).items(), key=lambda item: item[0].encode()):
            if key.startswith(prefix):
                for info, _ in reversed(versions):
                    yield replace(info, metadata={}, content_type="", tags={})

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo:
        return self._find(bucket, key, version_id)[0]

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks:
        info = self._find(bucket, key, version_id)[0]
        return Checks(info.size, info.etag, info.sha256 or "")

    def fetch(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        tags: bool = False,
        listed: ObjectInfo | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        return self._find(bucket, key, version_id)

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        return self._find(bucket, key, version_id)[1][start : start + length]

    def upload(self, bucket: str, like: ObjectInfo) -> _Upload:
        self._bucket(bucket)
        return self._uploads.setdefault((bucket, like.key), _Upload(self, bucket, like))

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        body = self._find(bucket, key, version_id)[1]
        if sha256 and hashlib.sha256(body).hexdigest() != sha256:
            raise IntegrityError(
                f"read {bucket}/{key} at site '{self.name}': SHA-256 differs from the record",
                "Restore the object from its replica or a restore point.",
            )
        return body

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        yield io.BytesIO(self._find(bucket, key, version_id)[1])

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
        self._writes += 1
        digest = sha256 or hashlib.sha256(body).hexdigest()
        info = ObjectInfo(
            key,
            len(body),
            self.clock(),
            f"{self._writes:08d}" if self._versioned.get(bucket) else None,
            hashlib.md5(body, usedforsecurity=False).hexdigest(),
            {**(metadata or {}), "sha256": digest},
            content_type,
            tags=dict(tags or {}),
        )
        versions = self._bucket(bucket).setdefault(key, [])
        if not self._versioned[bucket]:
            versions.clear()
        versions.append((info, body))
        return info

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
        self._check_locking(bucket, key, retain_until)
        versions = self._bucket(bucket).get(key)
        if versions and versions[-1][1] is not None:
            return False
        written = self.write(bucket, key, body, metadata=metadata, content_type=content_type)
        if retain_until and written.version_id:
            self._retained[written.version_id] = retain_until
        return True

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
        self._check_locking(bucket, key, retain_until)
        written = self.write(bucket, key, file.read_bytes(), metadata=metadata, content_type=content_type)
        if retain_until and written.version_id:
            self._retained[written.version_id] = retain_until
        return written

    def retain(self, bucket: str, key: str, version_id: str, until: datetime) -> datetime:
        self._find(bucket, key, version_id)
        self._check_locking(bucket, key, until)
        self._retained[version_id] = max(until, self._retained.get(version_id, _EPOCH))
        return self._retained[version_id]

    def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
        self._find(bucket, key, version_id)
        return self._retained.get(version_id)

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        versions = self._bucket(bucket).get(key, [])
        self._check_lock(bucket, key, version_id)
        made = None
        if version_id:
            versions[:] = [v for v in versions if v[0].version_id != version_id]
        elif self._versioned[bucket]:
            self._writes += 1
            made = f"{self._writes:08d}"
            marker = ObjectInfo(key, 0, self.clock(), made, marker=True)
            self._bucket(bucket).setdefault(key, versions).append((marker, None))
        else:
            versions.clear()
        if not versions:
            self._bucket(bucket).pop(key, None)
        return made

    def probe(self, bucket: str, now: datetime) -> CapabilityRecord:
        """Nothing is tried: its contract suite is the proof."""
        proofs = tuple(Proof(capability.name, "proven", "in memory") for capability in CAPABILITIES)
        return CapabilityRecord(self.name, self.endpoint, now, proofs)


class _Upload:
    """Parts of a large object."""

    def __init__(self, site: MemorySite, bucket: str, like: ObjectInfo) -> None:
        self._site, self._bucket, self._like = site, bucket, like
        self._bodies: dict[int, bytes] = {}

    def has(self, number: int, body: bytes) -> bool:
        return self._bodies.get(number) == body

    def part(self, number: int, body: bytes) -> None:
        self._bodies[number] = body

    @property
    def sent_etag(self) -> str:
        return hashlib.md5(self._body, usedforsecurity=False).hexdigest()

    @property
    def _body(self) -> bytes:
        return b"".join(self._bodies[number] for number in sorted(self._bodies))

    def complete(self) -> ObjectInfo:
        like, body = self._like, self._body
        self.abort()
        return self._site.write(
            self._bucket,
            like.key,
            body,
            metadata={name: value for name, value in like.metadata.items() if name != "sha256"},
            content_type=like.content_type,
            tags=like.tags,
        )

    def abort(self) -> None:
        self._site._uploads.pop((self._bucket, self._like.key), None)
