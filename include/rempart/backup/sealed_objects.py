"""Sealed objects as they stand at a site: which are there, opened into a file, deleted when nothing needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart.backup import age, sealing
from rempart.backup.domains import Domain
from rempart.backup.sealing import SealedObject
from rempart.backup.wrapping import DomainKey
from rempart.errors import BackupError, IntegrityError, KeyWrong
from rempart.sites.port import Site


@dataclass(frozen=True)
class Released:
    """Sealed versions that nothing needs: how many were deleted, and how many locks retain, the last until when."""

    deleted: int = 0
    retained: int = 0
    retained_until: datetime | None = None


def versions_of(target: Site, bucket: str, domains: Iterable[Domain]) -> dict[str, dict[str, int]]:
    """Sizes of the versions at the target, by key and version, the newest first."""
    found: dict[str, dict[str, int]] = {}
    for domain in domains:
        for info in target.versions(bucket, sealing.folder(domain)):
            if info.version_id and not info.marker:
                found.setdefault(info.key, {})[info.version_id] = info.size
    return found


class _Hashing:
    """Reads a stream, and tells the SHA-256 of what it read."""

    def __init__(self, stream: age.Reader) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        part = self._stream.read(size)
        self.digest.update(part)
        return part

    def drain(self) -> None:
        """Read what is left, for its hash alone."""
        while self.read(1 << 20):
            pass


def unseal(
    site: Site, bucket: str, key: DomainKey, sealed: SealedObject, file: Path, *, sha256: str, size: int
) -> None:
    """Open a sealed object into a file, which appears once it is whole; `sha256` and `size` are those of the original.

    Raises IntegrityError when it is not what is on record, KeyWrong, ObjectMissing, SiteUnavailable.
    """
    where = f"{bucket}/{sealed.key} at site '{site.name}'"
    partial_ = file.with_name(f".{file.name}.partial")
    try:
        with site.open(bucket, sealed.key, version_id=sealed.version or None) as body, partial_.open("wb") as out:
            stream = _Hashing(body)
            try:
                found = sealing.open_sealed(stream, key.identity, out, limit=size, where=where)
            except KeyWrong:
                stream.drain()  # a damaged header looks like a wrong key: the hash tells them apart
                if stream.digest.hexdigest() != sealed.sha256:
                    raise _differs(where, "encrypted bytes") from None
                raise
            stream.drain()
        if stream.digest.hexdigest() != sealed.sha256:
            raise _differs(where, "encrypted bytes")
        if found != (sha256, size):
            raise _differs(where, "content")
        partial_.replace(file)
    finally:
        partial_.unlink(missing_ok=True)


def _differs(where: str, what: str) -> IntegrityError:
    return IntegrityError(f"{where}: the SHA-256 of its {what} is not the one on record", "Take another copy or point.")


def release(
    site: Site, bucket: str, needed: Iterable[SealedObject], now: datetime, *, dry_run: bool = True
) -> Released:
    """Delete the sealed versions that no kept restore point needs. One under lock is retained, which is no error.

    Raises BackupError if nothing at all is needed: that is an accident more often than a wish. Raises SiteError.
    """
    kept = tuple(needed)
    if not kept:
        raise BackupError(
            f"No restore point needs any sealed object in {bucket} at site '{site.name}'",
            "Nothing was deleted. Check that the manifests of the kept points were read.",
        )
    there = ((one.key, one.version_id) for one in site.versions(bucket, sealing.PREFIX) if not one.marker)
    deleted, ends = 0, []
    for key, version in sealing.unneeded(((k, v) for k, v in there if v), kept):
        until = site.retained_until(bucket, key, version)
        if until and until > now:
            ends.append(until)
            continue
        if not dry_run:
            site.delete(bucket, key, version_id=version)
        deleted += 1
    return Released(deleted, len(ends), max(ends, default=None))
