"""Copy the versions of one key: stream each to the target, verify it there, and return replicas.

A failed version stops the later ones of its key, so that their order holds, but no other key.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing, RempartError, SiteError, SiteUnavailable
from rempart.replication.plan import ACCEPTED, Basis, Copy, KeyPlan, Replica, Voucher
from rempart.replication.vouching import vouch
from rempart.sites.checking import check_listed
from rempart.sites.digests import Digests, md5
from rempart.sites.port import Checks, ObjectInfo, Site

IN_MEMORY = 16 << 20
"""Larger objects go in parts."""
PART = 16 << 20
MOST_PARTS = 1000
"""Every server takes that many; larger objects have larger parts."""
ONE_PUT = 1 << 30
"""A larger file goes in parts: at many operators a put may not exceed 5 GiB."""
AT_ONCE = 4
"""Number of parts of one object uploaded in parallel."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Failure:
    """One version that did not reach the target, and why."""

    copy: Copy
    error: RempartError


@dataclass(frozen=True)
class KeyResult:
    """Result of one key: replicas, number and bytes of new copies (the others existed), the failure.

    `hidden`: readers of the target no longer find the key, as checked there.
    """

    replicas: tuple[Replica, ...] = ()
    put: int = 0
    bytes: int = 0
    failure: Failure | None = None
    left: tuple[Copy, ...] = ()
    hidden: bool = False


class Throttle:
    """Limits the bytes per second over all threads; None for no limit."""

    def __init__(
        self,
        rate: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._now, self._sleep = rate, now, sleep
        self._free, self._lock = now(), threading.Lock()

    def take(self, size: int) -> None:
        """Wait until that many more bytes are allowed."""
        if not self._rate:
            return
        with self._lock:
            begin = max(self._free, self._now())
            self._free = begin + size / self._rate
        if (wait := begin - self._now()) > 0:
            self._sleep(wait)


@dataclass(frozen=True)
class Mover:
    """Copies versions of one bucket from a source to a target.

    `arrival`: the target is proven to refuse a body with a wrong SHA-256, so accepted bodies are verified; otherwise
    each is read back. `parts_arrival`: the same for parts. `md5_etags`: the source is proven to return the MD5 as ETag.
    `tags`: copy tags, with one more request for each object.
    """

    source: Site
    target: Site
    bucket: str
    clock: Callable[[], datetime]
    arrival: bool = False
    parts_arrival: bool = False
    md5_etags: bool = False
    tags: bool = True
    throttle: Throttle = field(default_factory=lambda: Throttle(None))
    kept: list[bool] = field(default_factory=list)
    """Whether the target's bucket keeps versions, once known."""

    def carry(self, plan: KeyPlan) -> KeyResult:
        """Copy the versions of one key in order. Errors of the sites become a failure."""
        replicas: list[Replica] = []
        put = size = 0
        for n, copy in enumerate(plan.copies):
            try:
                replica = self._one(plan.key, copy)
                if plan.hides and copy is plan.copies[-1]:
                    see_hidden(self.target, self.bucket, plan.key)
            except RempartError as error:
                return KeyResult(tuple(replicas), put, size, Failure(copy, error), plan.copies[n:])
            replicas.append(replica)
            put += replica.basis != "found there"
            size += replica.size
        return KeyResult(tuple(replicas), put, size, hidden=plan.hides)

    def _one(self, key: str, copy: Copy) -> Replica:
        self.throttle.take(copy.source.size)
        if copy.source.marker:
            return self._marker(key, copy)
        if copy.source.size > IN_MEMORY:
            return self._in_parts(key, copy)
        version = copy.source.version_id
        info, body = self.source.fetch(self.bucket, key, version_id=version, tags=self.tags, listed=copy.source)
        if len(body) != info.size:
            raise self._short(key, len(body), info.size)
        checks = self._checks(info)
        came = _digests(checks)
        came.update(body)
        voucher = self._vouch(info, checks, came)
        basis: Basis = "found there"
        if (stored := self._found(key, copy.perhaps, came.sha256)) is None:
            stored = self.target.write(
                self.bucket,
                key,
                body,
                metadata={name: value for name, value in info.metadata.items() if name != "sha256"},
                content_type=info.content_type or "application/octet-stream",
                tags=info.tags,
                sha256=came.sha256,
            )
            stored, basis = self._verified(stored, self._sent_etag(info, stored, body), came.sha256, self.arrival)
        return self._replica(copy, info, stored, came.sha256, basis, voucher)

    def _sent_etag(self, info: ObjectInfo, stored: ObjectInfo, body: bytes) -> str:
        """Return the ETag that the target must list for a body stored in one piece: its MD5.

        Not computed if both sites report the same ETag: the source's MD5 is from the writer's bytes, the target's from
        the received bytes.
        """
        return info.etag if self.md5_etags and info.etag == stored.etag else md5(body).hex()

    def _marker(self, key: str, copy: Copy) -> Replica:
        if copy.perhaps is not None:
            version: str | None = copy.perhaps.version_id
        else:
            version = self.target.delete(self.bucket, key) or self._newest_marker(key)
        stored = ObjectInfo(key, 0, self.clock(), version, marker=True)
        return self._replica(copy, copy.source, stored, "", "found there" if copy.perhaps else "marker", "writer")

    def _newest_marker(self, key: str) -> str | None:
        """Return the version of a key's delete marker if the answer to the delete lacked it."""
        if not self._keeps_versions():
            return None
        newest = next((version for version in self.target.versions(self.bucket, key) if version.key == key), None)
        if newest is None or not newest.marker or not newest.version_id:
            raise self._no_version(key)
        return newest.version_id

    def _in_parts(self, key: str, copy: Copy) -> Replica:
        """Copy a large object in constant memory. Parts stored by an earlier run are not sent again."""
        info = self.source.head(self.bucket, key, version_id=copy.source.version_id, tags=self.tags)
        if copy.source.version_id:
            check_listed(f"head {self.bucket}/{key} at site '{self.source.name}'", copy.source, info)
        checks = self._checks(info)
        if copy.perhaps is not None:
            came = read_through(self.source, self.bucket, key, info.version_id, _digests(checks))
            voucher = self._vouch(info, checks, came)
            if (stored := self._found(key, copy.perhaps, came.sha256)) is not None:
                return self._replica(copy, info, stored, came.sha256, "found there", voucher)
        length = max(PART, -(-info.size // MOST_PARTS))
        upload = self.target.upload(self.bucket, info)
        came = _digests(checks)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="parts") as pool:
            for number, start in enumerate(range(0, info.size, length), start=1):
                wanted = min(length, info.size - start)
                body = self.source.read_part(self.bucket, key, start, wanted, version_id=info.version_id)
                if len(body) != wanted:
                    raise self._short(key, len(body), wanted)
                came.update(body)
                if not upload.has(number, body):
                    waiting.append(pool.submit(upload.part, number, body))
                del body
                while len(waiting) >= AT_ONCE:
                    waiting.popleft().result()
            for part in waiting:
                part.result()
        try:
            voucher = self._vouch(info, checks, came)
        except IntegrityError:
            upload.abort()
            raise
        stored, basis = self._verified(upload.complete(), upload.sent_etag, came.sha256, self.parts_arrival)
        return self._replica(copy, info, stored, came.sha256, basis, voucher)

    def _checks(self, info: ObjectInfo) -> Checks | None:
        """Return the site's checksums of a body without its writer's record, requested only if needed."""
        return None if info.sha256 else self.source.checks(self.bucket, info.key, version_id=info.version_id)

    def _vouch(self, info: ObjectInfo, checks: Checks | None, came: Digests) -> Voucher:
        where = f"get {self.bucket}/{info.key} at site '{self.source.name}'"
        return vouch(where, info, checks, came, md5_etags=self.md5_etags)

    def _found(self, key: str, perhaps: ObjectInfo | None, sha256: str) -> ObjectInfo | None:
        """Return the version at the target with exactly these bytes, if any (after a crash, or without a catalogue)."""
        if perhaps is None:
            return None
        try:
            same = stored_sha256(self.target, self.bucket, key, version_id=perhaps.version_id) == sha256
        except (ObjectMissing, SiteUnavailable):
            return None
        return perhaps if same else None

    def _verified(self, stored: ObjectInfo, sent_etag: str, sha256: str, arrival: bool) -> tuple[ObjectInfo, Basis]:
        """Return what was stored, the ETag that the target must list, and how it was verified."""
        if not stored.version_id and self._keeps_versions():
            stored = self._with_version(stored, sent_etag, sha256)
        if arrival:
            if stored.sha256 not in (None, sha256):  # by its writer's record, which a part's upload hands on
                raise IntegrityError(
                    f"put {self.bucket}/{stored.key} at site '{self.target.name}': the sent bytes differ from the "
                    "bytes read",
                    "The object does not count as a replica. Run again. If it fails again, test this machine's memory.",
                )
            return replace(stored, etag=sent_etag), ACCEPTED
        read_back(self.target, self.bucket, stored, sha256)
        return replace(stored, etag=stored.etag or sent_etag), "read back"

    def _keeps_versions(self) -> bool:
        if not self.kept:
            self.kept.append(self.target.keeps_versions(self.bucket))
        return self.kept[0]

    def _with_version(self, stored: ObjectInfo, sent_etag: str, sha256: str) -> ObjectInfo:
        """Add the version to what was stored: ask the site if its answer lacked it. Raises SiteError."""
        there = self.target.head(self.bucket, stored.key)
        same = there.size == stored.size and (there.sha256 == sha256 or there.etag == sent_etag)
        if not same or not there.version_id:
            raise self._no_version(stored.key)
        return replace(stored, version_id=there.version_id)

    def _no_version(self, key: str) -> SiteError:
        return SiteError(
            f"put {self.bucket}/{key} at site '{self.target.name}': neither the answer nor HEAD names a version",
            "The object does not count as a replica. Run again. If it fails again, ask the site's operator.",
        )

    def _replica(
        self, copy: Copy, info: ObjectInfo, stored: ObjectInfo, sha256: str, basis: Basis, vouched: Voucher
    ) -> Replica:
        now = self.clock()
        same = (info.etag, info.size) == (copy.source.etag, copy.source.size)
        modified = copy.source.modified if same else info.modified  # a listing and a read may differ in precision
        version = copy.source.version_id or ""  # a source without versions has none in its listing
        return Replica(
            info.key,
            version,
            copy.place,
            info.marker,
            info.size,
            sha256,
            info.etag,
            modified,
            stored.version_id or "",
            stored.etag,
            basis,
            now,
            now,
            vouched=vouched,
        )

    def _short(self, key: str, came: int, announced: int) -> IntegrityError:
        return IntegrityError(
            f"get {self.bucket}/{key} at site '{self.source.name}': received {came} bytes instead of {announced}",
            "Nothing was copied. Run again. If it fails again, ask the site's operator.",
        )


def store_file(
    site: Site, bucket: str, like: ObjectInfo, file: Path, *, retain_until: datetime | None = None
) -> ObjectInfo:
    """Store a file as `like` describes (key, size, metadata with its `sha256`, content type). A large file is stored in
    parts.

    With `retain_until` it is locked; a multipart object only after its upload is complete.
    """
    if like.size <= ONE_PUT:
        return site.write_file(
            bucket,
            like.key,
            file,
            metadata={name: value for name, value in like.metadata.items() if name != "sha256"},
            content_type=like.content_type,
            retain_until=retain_until,
        )
    upload, length = site.upload(bucket, like), max(PART, -(-like.size // MOST_PARTS))
    with file.open("rb") as stream:
        for number, part in enumerate(iter(partial(stream.read, length), b""), start=1):
            if not upload.has(number, part):
                upload.part(number, part)
    stored = upload.complete()
    if retain_until and stored.version_id:
        site.retain(bucket, like.key, stored.version_id, retain_until)
    return stored


def stored_sha256(site: Site, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> str:
    """Return the SHA-256 of what the site returns, in constant memory; `once` as in `Site.open`.

    Raises ObjectMissing.
    """
    return read_through(site, bucket, key, version_id, Digests(etag=False), once=once).sha256


def read_through(
    site: Site, bucket: str, key: str, version_id: str | None, into: Digests, *, once: bool = False
) -> Digests:
    """Read a body in constant memory, for its digests. Raises ObjectMissing."""
    with site.open(bucket, key, version_id=version_id, once=once) as stream:
        while chunk := stream.read(_CHUNK):
            into.update(chunk)
    return into


def _digests(checks: Checks | None) -> Digests:
    """Return the digests that the source's account of a body is compared with."""
    return Digests(checks.part if checks else 0, etag=checks is not None)


def read_back(target: Site, bucket: str, stored: ObjectInfo, sha256: str) -> None:
    """Check that the target returns the bytes that it reported as stored. Raises IntegrityError."""
    where = f"{bucket}/{stored.key} at site '{target.name}'"
    try:
        digest = stored_sha256(target, bucket, stored.key, version_id=stored.version_id)
    except ObjectMissing as cause:
        raise absent(target, bucket, stored.key) from cause
    if digest != sha256:
        raise IntegrityError(
            f"read back {where}: SHA-256 {digest[:12]}…, the source has {sha256[:12]}…",
            "The object does not count as a replica. Run again. If it fails again, stop using this site and ask "
            "its operator.",
        )


def see_hidden(target: Site, bucket: str, key: str) -> None:
    """Check that readers of the target no longer find a key with a delete marker. Raises IntegrityError."""
    try:
        target.head(bucket, key)
    except ObjectMissing:
        return
    raise IntegrityError(
        f"hide {bucket}/{key} at site '{target.name}': the site reported a delete marker, but still returns the object",
        "The object does not count as hidden. Run again. If it fails again, ask the site's operator.",
    )


def absent(target: Site, bucket: str, key: str) -> IntegrityError:
    return IntegrityError(
        f"put {bucket}/{key} at site '{target.name}': the site reported success, but the object is missing or differs",
        "Run again. If it fails again, stop using this site and ask its operator.",
    )


def as_stored(replica: Replica) -> ObjectInfo:
    """Return a replica as the target lists it."""
    return ObjectInfo(
        replica.key,
        replica.size,
        replica.copied,
        replica.target_version or None,
        replica.target_etag,
        marker=replica.marker,
    )


def proven_again(replica: Replica, now: datetime) -> Replica:
    return replace(replica, basis="read back", verified=now)
