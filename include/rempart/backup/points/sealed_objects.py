"""Sealed objects as they stand at a site: which are there, and opened into a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.points import sealing
from rempart.backup.points.sealing import SealedObject
from rempart.errors import IntegrityError, KeyWrong
from rempart.sites.port import Site


def versions_of(target: Site, bucket: str, scopes: Iterable[EncryptionScope]) -> dict[str, dict[str, int]]:
    """Return sizes of the versions at the target, by key and version, newest first."""
    found: dict[str, dict[str, int]] = {}
    for scope in scopes:
        for info in target.versions(bucket, sealing.folder(scope)):
            if info.version_id and not info.marker:
                found.setdefault(info.key, {})[info.version_id] = info.size
    return found


class _Hashing:
    """Reads a stream and computes its SHA-256."""

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


def unseal(site: Site, bucket: str, key: ScopeKey, sealed: SealedObject, file: Path, *, sha256: str, size: int) -> None:
    """Open a sealed object into a file, which appears once complete; `sha256` and `size` are the original's.

    Raises IntegrityError if it differs from its record, KeyWrong, ObjectMissing, SiteUnavailable.
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
    return IntegrityError(
        f"read {where}: the SHA-256 of its {what} differs from the recorded one", "Use another copy or restore point."
    )
