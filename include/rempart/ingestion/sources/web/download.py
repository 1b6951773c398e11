"""Download one file: in constant memory, resumed where it was cut, and checked as a whole."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import IngestError, SourceUnavailable
from rempart.ingestion.sources.web.client import AGAIN, Client, CutShort, refuse, shown

if TYPE_CHECKING:
    import httpx

DOWNLOAD_BYTES = 4 << 30
"""Largest download."""
DOWNLOAD_SECONDS = 3000.0
"""Longest time of a download."""
STARTS = 5
"""Most times that a download starts from its beginning, because the file changed meanwhile."""
PIECES = 50
"""Most requests of one download."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True)
class Version:
    """What the service says of the version that it sends: ETag, time of the last change, and length, where it does."""

    etag: str = ""
    modified: str = ""
    length: int | None = None

    @property
    def validator(self) -> str:
        """Return what If-Range may carry: a strong ETag, else the time; empty where neither identifies the bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else "" if self.etag else self.modified

    def conditions(self) -> dict[str, str]:
        """Return the headers that ask for the file only if it is another version."""
        found = {"If-None-Match": self.etag, "If-Modified-Since": "" if self.etag else self.modified}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True)
class Downloaded:
    """A file as it came: its version, bytes and SHA-256."""

    version: Version
    size: int
    sha256: str


def version_of(headers: Mapping[str, str]) -> Version:
    """Return the version that an answer with the whole file describes."""
    text = headers.get("content-length", "")
    return Version(
        _plain(headers.get("etag", "")),
        _plain(headers.get("last-modified", "")),
        int(text) if re.fullmatch("[0-9]{1,18}", text) else None,
    )


def _plain(text: str) -> str:
    """Return a text that a header of the next request can carry as it is, or nothing."""
    return text if len(text) <= 1000 and text.isascii() and text.isprintable() else ""


def digests_of(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Return the digests of the whole file that the service declares, by their name in hashlib.

    `Repr-Digest` (RFC 9530), `Digest` (RFC 3230) with SHA-256, and `Content-MD5`. One that cannot be read is left out.
    """
    found: dict[str, bytes] = {}
    texts = [
        ("sha256", re.search(r"sha-256=:([A-Za-z0-9+/=]+):", headers.get("repr-digest", ""))),
        ("sha256", re.search(r"sha-256=([A-Za-z0-9+/=]+)", headers.get("digest", ""), re.IGNORECASE)),
        ("md5", re.fullmatch(r"([A-Za-z0-9+/=]+)", headers.get("content-md5", ""))),
    ]
    for name, match in texts:
        try:
            value = base64.b64decode(match[1], validate=True) if match else b""
        except binascii.Error:
            continue
        if len(value) == hashlib.new(name, usedforsecurity=False).digest_size:
            found.setdefault(name, value)
    return found


def download(client: Client, url: str, file: Path, known: Version) -> Downloaded | None:
    """Download into `file`. Return None if the service still has the `known` version.

    Raises IngestError for a file that does not arrive whole, SourceUnavailable, PlacementDenied.
    """
    version, headers, attempt, starts = Version(), {}, 0, 0
    file.write_bytes(b"")
    for _ in range(PIECES):
        done = file.stat().st_size
        conditions = {} if done or starts else known.conditions()
        asked = {"Accept": "*/*", "Accept-Encoding": "identity", **conditions}
        if done and version.validator:
            asked |= {"Range": f"bytes={done}-", "If-Range": version.validator}
        try:
            with client.opened(url, asked) as answer:
                status, given = answer.status_code, {name.lower(): value for name, value in answer.headers.items()}
                if status == 304 and conditions:
                    return None
                if status == 206 and "range" in map(str.lower, asked) and _goes_on(given, version, done):
                    pass
                elif status in (200, 206, 416):
                    file.write_bytes(b"")
                    if status != 200 or (done and version_of(given) != version):
                        starts += 1
                        _check_starts(url, starts)
                    if status != 200:
                        continue
                    version, headers = version_of(given), given
                    _check_length(url, version, given)
                elif status in AGAIN:
                    client.wait(url, given, attempt, f"status {status}")
                    attempt += 1
                    continue
                else:
                    refuse(url, status)
                _append(client, url, answer, file)
        except CutShort as cut:
            attempt = 0 if file.stat().st_size > done else attempt
            if not version.validator:
                file.write_bytes(b"")
            client.wait(url, {}, attempt, f"{cut} after {file.stat().st_size:,} bytes")
            attempt += 1
            continue
        got = _finished(url, file, version, headers)
        if got is not None:
            return got
        starts += 1
        _check_starts(url, starts)
        file.write_bytes(b"")
    raise IngestError(
        f"download {shown(url)}: not complete after {PIECES} requests",
        "Ask the service's operator. Nothing was delivered.",
    )


def _goes_on(given: Mapping[str, str], version: Version, done: int) -> bool:
    """Return whether a partial answer is the rest of the same version, from the byte that was asked for."""
    found = _RANGE.fullmatch(given.get("content-range", ""))
    same = "etag" not in given or version_of(given).etag == version.etag
    if not found or not same or int(found[1]) != done or int(found[2]) + 1 != int(found[3]):
        return False
    return version.length in (None, int(found[3]))


def _check_starts(url: str, starts: int) -> None:
    if starts >= STARTS:
        raise IngestError(
            f"download {shown(url)}: the file changed {starts} times while it was read, or never had its own digest",
            "Run again when the file is no longer written. Nothing was delivered.",
        )


def _check_length(url: str, version: Version, given: Mapping[str, str]) -> None:
    if version.length is not None and version.length > DOWNLOAD_BYTES:
        raise _too_large(url)
    chunked = "chunked" in given.get("transfer-encoding", "").lower()
    if version.length is None and not chunked and not digests_of(given):
        raise IngestError(
            f"download {shown(url)}: the service gives no length, so a file that is cut short would look whole",
            "Ask the service's operator for Content-Length, chunked transfer, or Repr-Digest. Nothing was delivered.",
        )


def _too_large(url: str) -> IngestError:
    return IngestError(
        f"download {shown(url)}: the file is larger than {DOWNLOAD_BYTES >> 30} GiB", "Ask for it in parts."
    )


def _append(client: Client, url: str, answer: httpx.Response, file: Path) -> None:
    size = file.stat().st_size
    with file.open("ab") as out:
        for block in client.blocks(answer, raw=True):
            size += len(block)
            if size > DOWNLOAD_BYTES:
                raise _too_large(url)
            if client.seconds > DOWNLOAD_SECONDS:
                raise SourceUnavailable(
                    f"download {shown(url)}: not complete after {DOWNLOAD_SECONDS / 60:.0f} minutes ({size:,} bytes)",
                    "Run again when the service is faster. Nothing was delivered.",
                )
            out.write(block)


def _finished(url: str, file: Path, version: Version, headers: Mapping[str, str]) -> Downloaded | None:
    """Return the file if it has the announced length and digests, else None."""
    size, declared = file.stat().st_size, digests_of(headers)
    if version.length not in (None, size):
        return None
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", *declared}}
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            for found in sums.values():
                found.update(block)
    if any(sums[name].digest() != value for name, value in declared.items()):
        return None
    return Downloaded(version, size, sums["sha256"].hexdigest())
