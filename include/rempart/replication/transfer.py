"""Carry out a plan: stream each object to the target, read it back, record it. A failing key never stops the others."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing, RempartError
from rempart.replication.plan import Copy, Replica
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

IN_MEMORY = 16 << 20
"""Objects above this size go through a temporary file."""
WORKERS = 8
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Failure:
    """One key that did not reach the target, and why."""

    source: ObjectInfo
    error: RempartError


@dataclass(frozen=True)
class Transferred:
    """What a run achieved: verified replicas, how many of them were put (the others were there), and failures."""

    replicas: tuple[Replica, ...]
    put: int
    failures: tuple[Failure, ...]


def stored_sha256(site: Site, bucket: str, key: str, *, version_id: str | None = None) -> str:
    """SHA-256 of what the site gives back, in constant memory. Raises ObjectMissing."""
    digest = hashlib.sha256()
    with site.open(bucket, key, version_id=version_id) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(site: Site, bucket: str, info: ObjectInfo, folder: Path | None) -> tuple[bytes | Path, str]:
    """The version that `info` names, whole, and its SHA-256: as bytes, or as a file in `folder`."""
    digest, size = hashlib.sha256(), 0
    spool = (folder / "body").open("wb") if folder else io.BytesIO()
    with site.open(bucket, info.key, version_id=info.version_id) as stream, spool:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            spool.write(chunk)
        body = folder / "body" if folder else spool.getvalue()  # type: ignore[union-attr] # a BytesIO without folder
    if size != info.size:
        raise IntegrityError(
            f"get {bucket}/{info.key} at site '{site.name}': {size} bytes came, {info.size} were announced",
            "Nothing was copied. Run again; if it lasts, ask the operator.",
        )
    return body, digest.hexdigest()


def copy_object(source: Site, target: Site, bucket: str, copy: Copy, now: datetime) -> tuple[Replica, bool]:
    """Bring one object to the target and read it back; True if it had to be put. Raises SiteError and its subclasses.

    The source's own record of the SHA-256, where its writer left one, must agree with the bytes that came: an object
    that went bad at the source never replaces its replica.
    """
    key = copy.source.key
    head = source.head(bucket, key)
    with ExitStack() as stack:
        large = head.size > IN_MEMORY
        folder = stack.enter_context(spool_folder()) if large else None
        body, sha256 = _fetch(source, bucket, head, folder)
        if head.sha256 and head.sha256 != sha256:
            raise IntegrityError(
                f"get {bucket}/{key} at site '{source.name}': SHA-256 {sha256[:12]}…,"
                f" its writer recorded {head.sha256[:12]}…",
                "The source's copy is damaged and was not copied. Restore it from its replica.",
            )
        stored = _already_there(target, bucket, key, head.size, sha256) if copy.perhaps_there else None
        put = stored is None
        if stored is None:
            metadata = {name: value for name, value in head.metadata.items() if name != "sha256"}
            kind = head.content_type or "application/octet-stream"
            if isinstance(body, Path):
                stored = target.write_file(bucket, key, body, metadata=metadata, content_type=kind)
            else:
                stored = target.write(bucket, key, body, metadata=metadata, content_type=kind)
            _read_back(target, bucket, stored, sha256)
    same = (head.etag, head.size) == (copy.source.etag, copy.source.size)
    modified = copy.source.modified if same else head.modified  # a listing and a head may differ in precision
    version = stored.version_id
    return Replica(key, head.size, sha256, head.etag, modified, head.version_id, stored.etag, version, now), put


def _read_back(target: Site, bucket: str, stored: ObjectInfo, sha256: str) -> None:
    """Raises IntegrityError unless the target gives back what it said it stored."""
    where = f"{bucket}/{stored.key} at site '{target.name}'"
    try:
        found = stored_sha256(target, bucket, stored.key, version_id=stored.version_id)
    except ObjectMissing as cause:
        raise IntegrityError(
            f"put {where}: reported as stored, but it is not there",
            "Run again; if it lasts, do not rely on this site and ask its operator.",
        ) from cause
    if found != sha256:
        raise IntegrityError(
            f"read back {where}: SHA-256 {found[:12]}…, the source has {sha256[:12]}…",
            "It does not count as a replica. Run again; if it lasts, do not rely on this site and ask its operator.",
        )


def _already_there(target: Site, bucket: str, key: str, size: int, sha256: str) -> ObjectInfo | None:
    """What the target holds, if it gives back exactly these bytes (after a crash, or when the catalogue was lost)."""
    try:
        stored = target.head(bucket, key)
        same = stored.size == size and stored_sha256(target, bucket, key, version_id=stored.version_id) == sha256
    except ObjectMissing:
        return None
    return stored if same else None


def transfer(
    source: Site,
    target: Site,
    bucket: str,
    copies: Iterable[Copy],
    clock: Callable[[], datetime],
    checkpoint: Callable[[tuple[Replica, ...]], None] = lambda replicas: None,
    *,
    workers: int = WORKERS,
    every: int = 1000,
) -> Transferred:
    """Make all copies, `workers` at a time; `checkpoint` gets what is verified so far after each `every` objects."""
    replicas: list[Replica] = []
    failures: list[Failure] = []
    put = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="replicate") as pool:
        waiting = {pool.submit(copy_object, source, target, bucket, copy, clock()): copy for copy in copies}
        try:
            for done in as_completed(waiting):
                try:
                    replica, was_put = done.result()
                except RempartError as error:
                    failures.append(Failure(waiting[done].source, error))
                    continue
                replicas.append(replica)
                put += was_put
                if len(replicas) % every == 0:
                    checkpoint(tuple(replicas))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failures.sort(key=lambda failure: failure.source.key)
    return Transferred(tuple(replicas), put, tuple(failures))
