"""Compute digests of a body or a file: SHA-256, MD5, and the same of parts as S3 computes them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

ERROR_BYTES = 64 << 10
"""An S3 error document is shorter."""
_CHUNK = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]*)?")


class Digests:
    """Compute SHA-256 and ETag of a body in chunks. `part`: bytes of each part but the last; 0 for one piece.

    The ETag is S3's: the MD5 of a body in one piece, else the MD5 of the parts' MD5s. It is not computed without
    `etag`.
    """

    def __init__(self, part: int = 0, *, etag: bool = True) -> None:
        self._part, self._left, self._wanted, self.size = part, part, etag, 0
        self._whole = hashlib.sha256()
        self._md5: Any = hashlib.md5(usedforsecurity=False)
        self._sha256: Any = hashlib.sha256() if part else None
        self._md5s: list[bytes] = []
        self._sha256s: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        self._whole.update(chunk)
        self.size += len(chunk)
        if not self._wanted:
            return
        if not self._part:
            self._md5.update(chunk)
            return
        view = memoryview(chunk)
        while view:
            here, view = view[: self._left], view[self._left :]
            self._md5.update(here)
            self._sha256.update(here)
            self._left -= len(here)
            if not self._left:
                self._end_part()

    def _end_part(self) -> None:
        self._md5s.append(self._md5.digest())
        self._sha256s.append(self._sha256.digest())
        self._md5, self._sha256, self._left = hashlib.md5(usedforsecurity=False), hashlib.sha256(), self._part

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the whole body, in hex."""
        return self._whole.hexdigest()

    @property
    def etag(self) -> str:
        """Return the ETag that S3 would give."""
        self._close()
        return etag_of_parts(self._md5s) if self._part else str(self._md5.hexdigest())

    @property
    def composite(self) -> str:
        """Return the SHA-256 of the parts' SHA-256s in S3's form: base64 and number of parts.

        Empty for a body in one piece.
        """
        if not self._part:
            return ""
        self._close()
        joined = hashlib.sha256(b"".join(self._sha256s)).digest()
        return f"{base64.b64encode(joined).decode()}-{len(self._sha256s)}"

    def _close(self) -> None:
        if self._part and self._left < self._part:
            self._end_part()


def of_file(file: Path, part: int = 0) -> Digests:
    """Return the digests of a file; `part` as in Digests."""
    digests = Digests(part)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digests.update(chunk)
    return digests


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copied(body: IO[bytes], out: IO[bytes] | None = None) -> str:
    """Return the SHA-256 of a body, hex, in constant memory, and write the body to `out` if given."""
    digest = hashlib.sha256()
    while chunk := body.read(_CHUNK):
        digest.update(chunk)
        if out is not None:
            out.write(chunk)
    return digest.hexdigest()


def md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def etag_of_parts(md5s: Iterable[bytes]) -> str:
    """Return the ETag that S3 gives an object of parts with these MD5s, in order."""
    parts = list(md5s)
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def may_be_md5(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5 of a body or of its parts."""
    return bool(_MD5.fullmatch(etag))


def error_code(body: bytes) -> str | None:
    """Return the code in an S3 error document; None for any other body."""
    if len(body) > ERROR_BYTES or b"<Error" not in body[:1000]:
        return None
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 # expat bounds what entities may grow to
    except ElementTree.ParseError:
        return None
    if root.tag.rpartition("}")[2] != "Error":
        return None
    return next((child.text or "" for child in root if child.tag.rpartition("}")[2] == "Code"), None)
