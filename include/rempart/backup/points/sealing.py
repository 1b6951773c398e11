"""Seal objects: gzip, then age, under a name that reveals nothing. `age -d -i KEY FILE | gunzip` reads a sealed object.

An object is sealed once for its scope, in however many restore points it occurs. Its key is
`sealed/<scope>/<hh>/<name>.age`, where the name is the HMAC-SHA256 of its SHA-256 under the scope's hash key. Without
that key nobody can tell from the names whether a known file is among them.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.errors import IntegrityError

PREFIX = "sealed/"
Step = Literal["keep", "extend", "examine", "store"]
_CHUNK = 1 << 18
_GZIP = 31  # of zlib: a gzip header, which then holds no name and the time 0


@dataclass(frozen=True)
class Original:
    """An object version to seal; `bucket` is the logical name, `sha256` that of its content."""

    bucket: str
    key: str
    version: str | None
    sha256: str
    size: int
    scope: EncryptionScope


@dataclass(frozen=True)
class SealedObject:
    """Place of an object's sealed form: `sha256` and `size` are of the encrypted bytes.

    `serial` names the key of the scope that opens it; until `retained_until` nobody can delete it.
    """

    scope: str
    serial: str
    key: str
    version: str
    sha256: str
    size: int
    retained_until: datetime


def key_of(scope: EncryptionScope, hash_key: bytes, sha256: str) -> str:
    """Return the key of the sealed form of a content."""
    name = hmac.new(hash_key, bytes.fromhex(sha256), hashlib.sha256).hexdigest()
    return f"{folder(scope)}{name[:2]}/{name}.age"


def folder(scope: EncryptionScope) -> str:
    """Return the folder of all sealed objects of a scope."""
    return f"{PREFIX}{scope.id}/"


class _Compressing:
    """Reads a stream as gzip; provides SHA-256 and size of the original."""

    def __init__(self, stream: age.Reader) -> None:
        self._stream, self._gzip, self._rest = stream, zlib.compressobj(1, zlib.DEFLATED, _GZIP), bytearray()
        self._ended, self.digest, self.size = False, hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        while not self._ended and (size < 0 or len(self._rest) < size):
            chunk = self._stream.read(_CHUNK)
            self._ended = not chunk
            self.digest.update(chunk)
            self.size += len(chunk)
            self._rest += self._gzip.compress(chunk) if chunk else self._gzip.flush()
        part = bytes(self._rest if size < 0 else self._rest[:size])
        del self._rest[: len(part)]
        return part


class _Expanding:
    """Expands gzip, at most `limit` bytes; provides their SHA-256 and number."""

    def __init__(self, out: BinaryIO, limit: int, where: str) -> None:
        self._out, self._limit, self._where = out, limit, where
        self._gzip = zlib.decompressobj(_GZIP)
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, body: bytes, /) -> int:
        left = body
        while left:
            if self._gzip.eof:
                raise self._wrong("it has further bytes after its end")
            try:
                chunk = self._gzip.decompress(left, _CHUNK)
            except zlib.error as cause:
                raise self._wrong("it is not gzip") from cause
            left = self._gzip.unconsumed_tail or self._gzip.unused_data
            self.size += len(chunk)
            if self.size > self._limit:
                raise self._wrong(f"it unpacks to more than the recorded {self._limit} bytes")
            self.digest.update(chunk)
            self._out.write(chunk)
        return len(body)

    def flush(self) -> None:
        """Do nothing: no data is held back."""

    def end(self) -> tuple[str, int]:
        """Return SHA-256 and size. Raises IntegrityError if the end is missing."""
        if not self._gzip.eof:
            raise self._wrong("its end is missing")
        return self.digest.hexdigest(), self.size

    def _wrong(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._where}: {why}", "Use another copy, or an earlier restore point.")


def seal(stream: age.Reader, recipients: Iterable[str], out: BinaryIO) -> tuple[str, int]:
    """Compress and encrypt a stream in constant memory. Return SHA-256 and size of the original.

    Raises the errors of the stream.
    """
    reader = _Compressing(stream)
    age.encrypt_stream(reader, out, recipients)
    return reader.digest.hexdigest(), reader.size


def open_sealed(
    stream: age.Reader, identity: age.Identity, out: BinaryIO, *, limit: int, where: str
) -> tuple[str, int]:
    """Decrypt and expand a stream, in constant memory; SHA-256 and size of what was written, `limit` bytes at most.

    Nothing that was written counts before this returns. Raises KeyWrong, IntegrityError; both name `where`.
    """
    writer = _Expanding(out, limit, where)
    age.decrypt_stream(stream, writer, identity, where)
    return writer.end()


def plan(
    wanted: Iterable[str],
    present: Mapping[str, Mapping[str, int]],
    known: Mapping[str, SealedObject],
    until: datetime,
) -> dict[str, Step]:
    """Return the action for each wanted key.

    `present`: sizes of the versions at the site, by key. `known`: objects that an earlier run sealed and verified. A
    known object is `keep` if unchanged and locked long enough, else `extend`. An unknown present object is `examine`,
    because anyone who can write at the site may have put it there. All others are `store`.
    """
    steps: dict[str, Step] = {}
    for key in wanted:
        before, versions = known.get(key), present.get(key, {})
        if before and versions.get(before.version) == before.size:
            steps[key] = "keep" if before.retained_until >= until else "extend"
        else:
            steps[key] = "examine" if versions else "store"
    return steps


def as_json(sealed_object: SealedObject) -> dict[str, Any]:
    """Return the form of a manifest."""
    return {**sealed_object.__dict__, "retained_until": sealed_object.retained_until.isoformat()}


def from_json(plain: Mapping[str, Any]) -> SealedObject:
    """Return an object from its form in a manifest. Raises KeyError, TypeError, ValueError."""
    return SealedObject(**{**plain, "retained_until": datetime.fromisoformat(plain["retained_until"])})
