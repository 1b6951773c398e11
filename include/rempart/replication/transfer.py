"""Carry out the plan of one key: each version streamed to the target, verified there, and told as a replica.

A version that fails stops those after it of the same key, so that their order holds, and no other key.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing, RempartError, SiteUnavailable
from rempart.replication.plan import Basis, Copy, KeyPlan, Replica
from rempart.sites.port import ObjectInfo, Site

IN_MEMORY = 16 << 20
"""Larger objects go in parts."""
PART = 16 << 20
MOST_PARTS = 1000
"""Every server takes that many; larger objects have larger parts."""
ONE_PUT = 1 << 30
"""A larger file goes in parts: at many operators a put may not exceed 5 GiB."""
AT_ONCE = 4
"""Parts of one object under way at a time."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Failure:
    """One version that did not reach the target, and why."""

    copy: Copy
    error: RempartError


@dataclass(frozen=True)
class Carried:
    """What came of one key: replicas, how many of them were put (the others were there), their bytes, what failed."""

    replicas: tuple[Replica, ...] = ()
    put: int = 0
    bytes: int = 0
    failure: Failure | None = None
    left: tuple[Copy, ...] = ()


class Throttle:
    """No more than so many bytes a second, over all threads; None for no limit."""

    def __init__(
        self,
        rate: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._now, self._sleep = rate, now, sleep
        self._free, self._lock = now(), threading.Lock()

    def take(self, size: int) -> None:
        """Wait until that many more bytes may pass."""
        if not self._rate:
            return
        with self._lock:
            begin = max(self._free, self._now())
            self._free = begin + size / self._rate
        if (wait := begin - self._now()) > 0:
            self._sleep(wait)


@dataclass(frozen=True)
class Mover:
    """Brings versions of one bucket from a source to a target.

    `arrival`: the target was proven to refuse a body that is not of its SHA-256, so one that it took is verified; else
    each is read back. `parts_arrival`: the same of parts. `tags`: tags are copied, at one more request for each object.
    """

    source: Site
    target: Site
    bucket: str
    clock: Callable[[], datetime]
    arrival: bool = False
    parts_arrival: bool = False
    tags: bool = True
    throttle: Throttle = field(default_factory=lambda: Throttle(None))

    def carry(self, plan: KeyPlan) -> Carried:
        """Make the copies of one key, in order. Errors of the sites become a failure."""
        replicas: list[Replica] = []
        put = size = 0
        for n, copy in enumerate(plan.copies):
            try:
                made = self._one(plan.key, copy)
            except RempartError as error:
                return Carried(tuple(replicas), put, size, Failure(copy, error), plan.copies[n:])
            replicas.append(made)
            put += made.basis != "found there"
            size += made.size
        return Carried(tuple(replicas), put, size)

    def _one(self, key: str, copy: Copy) -> Replica:
        self.throttle.take(copy.source.size)
        if copy.source.marker:
            return self._marker(key, copy)
        if copy.source.size > IN_MEMORY:
            return self._in_parts(key, copy)
        info, body = self.source.fetch(self.bucket, key, version_id=copy.source.version_id, tags=self.tags)
        sha256 = hashlib.sha256(body).hexdigest()
        if len(body) != info.size:
            raise self._short(key, len(body), info.size)
        self._believe(info, sha256, body)
        basis: Basis = "found there"
        if (stored := self._found(key, copy.perhaps, sha256)) is None:
            stored = self.target.write(
                self.bucket,
                key,
                body,
                metadata={name: value for name, value in info.metadata.items() if name != "sha256"},
                content_type=info.content_type or "application/octet-stream",
                tags=info.tags,
                sha256=sha256,
            )
            basis = self._verified(stored, sha256, self.arrival)
        return self._replica(copy, info, stored, sha256, basis)

    def _marker(self, key: str, copy: Copy) -> Replica:
        if copy.perhaps is not None:
            version: str | None = copy.perhaps.version_id
        else:
            version = self.target.delete(self.bucket, key)
        stored = ObjectInfo(key, 0, self.clock(), version, marker=True)
        return self._replica(copy, copy.source, stored, "", "found there" if copy.perhaps else "marker")

    def _in_parts(self, key: str, copy: Copy) -> Replica:
        """A large object, in constant memory; parts that an earlier run stored are not sent again."""
        info = self.source.head(self.bucket, key, version_id=copy.source.version_id, tags=self.tags)
        if copy.perhaps is not None:
            sha256 = stored_sha256(self.source, self.bucket, key, version_id=info.version_id)
            if (stored := self._found(key, copy.perhaps, sha256)) is not None:
                return self._replica(copy, info, stored, sha256, "found there")
        length = max(PART, -(-info.size // MOST_PARTS))
        upload = self.target.upload(self.bucket, info)
        digest = hashlib.sha256()
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="parts") as pool:
            for number, start in enumerate(range(0, info.size, length), start=1):
                wanted = min(length, info.size - start)
                body = self.source.read_part(self.bucket, key, start, wanted, version_id=info.version_id)
                if len(body) != wanted:
                    raise self._short(key, len(body), wanted)
                digest.update(body)
                if not upload.has(number, body):
                    waiting.append(pool.submit(upload.part, number, body))
                del body
                while len(waiting) >= AT_ONCE:
                    waiting.popleft().result()
            for part in waiting:
                part.result()
        sha256 = digest.hexdigest()
        try:
            self._believe(info, sha256)
        except IntegrityError:
            upload.abort()
            raise
        stored = upload.complete()
        return self._replica(copy, info, stored, sha256, self._verified(stored, sha256, self.parts_arrival))

    def _believe(self, info: ObjectInfo, sha256: str, body: bytes | None = None) -> None:
        """That the bytes which came are those that were stored at the source. Raises IntegrityError.

        By its writer's record of the SHA-256; without one by the ETag if that is the body's MD5. If it is not, the same
        bytes must come twice: at some sites an ETag is no MD5.
        """
        where = f"get {self.bucket}/{info.key} at site '{self.source.name}'"
        if info.sha256:
            if info.sha256 != sha256:
                raise IntegrityError(
                    f"{where}: SHA-256 {sha256[:12]}…, its writer recorded {info.sha256[:12]}…",
                    "The source's copy is damaged and was not copied. Restore it from its replica.",
                )
            return
        if body is None or len(info.etag) != 32 or info.etag == hashlib.md5(body, usedforsecurity=False).hexdigest():
            return
        if stored_sha256(self.source, self.bucket, info.key, version_id=info.version_id) != sha256:
            raise IntegrityError(
                f"{where}: other bytes came each time it was read",
                "Nothing was copied. Run again; if it lasts, ask the operator.",
            )

    def _found(self, key: str, perhaps: ObjectInfo | None, sha256: str) -> ObjectInfo | None:
        """The version at the target, if it gives back exactly these bytes (after a crash, or without a catalogue)."""
        if perhaps is None:
            return None
        try:
            same = stored_sha256(self.target, self.bucket, key, version_id=perhaps.version_id) == sha256
        except (ObjectMissing, SiteUnavailable):
            return None
        return perhaps if same else None

    def _verified(self, stored: ObjectInfo, sha256: str, arrival: bool) -> Basis:
        if arrival:
            if stored.sha256 not in (None, sha256):  # by its writer's record, which a part's upload hands on
                raise IntegrityError(
                    f"put {self.bucket}/{stored.key} at site '{self.target.name}': other bytes were sent than read",
                    "It does not count as a replica. Run again; if it lasts, this machine's memory may be at fault.",
                )
            return "checked on arrival"
        read_back(self.target, self.bucket, stored, sha256)
        return "read back"

    def _replica(self, copy: Copy, info: ObjectInfo, stored: ObjectInfo, sha256: str, basis: Basis) -> Replica:
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
        )

    def _short(self, key: str, came: int, announced: int) -> IntegrityError:
        return IntegrityError(
            f"get {self.bucket}/{key} at site '{self.source.name}': {came} bytes came, {announced} were announced",
            "Nothing was copied. Run again; if it lasts, ask the operator.",
        )


def store_file(
    site: Site, bucket: str, like: ObjectInfo, file: Path, *, retain_until: datetime | None = None
) -> ObjectInfo:
    """Store a file as `like` says (key, size, metadata with its `sha256`, content type); a large one goes in parts.

    With `retain_until`, under lock: one that went in parts only once it is whole.
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
    """SHA-256 of what the site gives back, in constant memory; `once` as in `Site.open`. Raises ObjectMissing."""
    digest = hashlib.sha256()
    with site.open(bucket, key, version_id=version_id, once=once) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_back(target: Site, bucket: str, stored: ObjectInfo, sha256: str) -> None:
    """Raises IntegrityError unless the target gives back what it said it stored."""
    where = f"{bucket}/{stored.key} at site '{target.name}'"
    try:
        found = stored_sha256(target, bucket, stored.key, version_id=stored.version_id)
    except ObjectMissing as cause:
        raise absent(target, bucket, stored.key) from cause
    if found != sha256:
        raise IntegrityError(
            f"read back {where}: SHA-256 {found[:12]}…, the source has {sha256[:12]}…",
            "It does not count as a replica. Run again; if it lasts, do not rely on this site and ask its operator.",
        )


def absent(target: Site, bucket: str, key: str) -> IntegrityError:
    return IntegrityError(
        f"put {bucket}/{key} at site '{target.name}': reported as stored, but it is not there as it was sent",
        "Run again; if it lasts, do not rely on this site and ask its operator.",
    )


def as_stored(replica: Replica) -> ObjectInfo:
    """A replica as the target lists it."""
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
