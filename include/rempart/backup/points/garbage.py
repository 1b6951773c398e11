"""Find garbage at a backup site: sealed objects that no point needs, and old versions. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Protocol

from rempart.backup.points.locking import ListedVersions, Version
from rempart.sites.port import ObjectInfo

EVERY = timedelta(hours=23)
"""Between two clearings: once a day, whichever run comes first."""
MOST = 20_000
"""Maximum number of versions that one garbage collection examines or deletes."""
_SEALED = re.compile(
    rb'"key":"(sealed/[^"\\]+\.age)","retained_until":"([^"\\]+)","scope":"[^"\\]*","serial":"[^"\\]*","sha256":"[0-9a-f]*",'
    rb'"size":\d+,"version":"([^"\\]*)"\}'
)
_ONE = re.compile(rb'"sealed":\{')
_CHUNK, _LONGEST = 1 << 18, 4096


class _Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Named:
    """Yields the sealed objects of a manifest (key, version, recorded lock), read as a stream.

    After the last object, `sha256` is the manifest's digest. Raises ValueError for a non-canonical manifest, which may
    name more objects.
    """

    def __init__(self, stream: _Reader) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[str, str, datetime]]:
        rest, found, named = b"", 0, 0
        while True:
            chunk = self._stream.read(_CHUNK)
            self._digest.update(chunk)
            rest += chunk
            end = len(rest) if not chunk else max(0, len(rest) - _LONGEST)
            past = 0
            for found_name in _SEALED.finditer(rest):
                if found_name.start() >= end:
                    break
                found, past = found + 1, found_name.end()
                yield found_name[1].decode(), found_name[3].decode(), datetime.fromisoformat(found_name[2].decode())
            cut = max(past, end)
            named += sum(1 for mark in _ONE.finditer(rest) if mark.start() < cut)
            rest = rest[cut:]
            if not chunk:
                break
        if found != named:
            raise ValueError(f"it names {named} sealed objects, but {found} can be read")


def fingerprint(version: Version) -> int:
    """Return a fingerprint of a version in eight bytes. A collision only keeps one more version."""
    return int.from_bytes(hashlib.blake2b(f"{version[0]}\n{version[1]}".encode(), digest_size=8).digest())


def lapsed(listed: Iterable[ObjectInfo], now: datetime, kept: timedelta) -> list[ObjectInfo]:
    """Return sealed versions older than the longest retention: only later backups can have extended their locks.

    The caller must still check the locks, and whether a point names the version.
    """
    return [
        version for version in listed if version.version_id and not version.marker and now - version.modified > kept
    ]


def unneeded(candidates: Iterable[ObjectInfo], needed: Collection[int], day: str, most: int = MOST) -> list[ObjectInfo]:
    """Return the versions that no standing point names, at most `most`; `day` selects the start."""
    free = [
        candidate for candidate in candidates if fingerprint((candidate.key, str(candidate.version_id))) not in needed
    ]
    free.sort(key=lambda info: hashlib.blake2b(f"{day}{info.key}{info.version_id}".encode(), digest_size=8).digest())
    return free[:most]


def old_versions(
    listed_versions: ListedVersions, protected: Collection[Version], now: datetime, kept: timedelta, most: int = MOST
) -> list[tuple[ObjectInfo, ...]]:
    """Return versions of each key superseded for longer than `kept`, in the order of deletion.

    Oldest first, and a marker without other versions last, so that nothing deleted reappears. By the site's times: a
    version is old once its successor is. Keys with a `protected` version are skipped.
    """
    old: list[tuple[ObjectInfo, ...]] = []
    count = 0
    for versions in listed_versions.keys.values():
        if any((version.key, version.version_id) in protected for version in versions):
            continue
        newest = versions[0]
        gone = [version for above, version in pairwise(versions) if now - above.modified > kept]
        if newest.marker and len(gone) == len(versions) - 1 and now - newest.modified > kept:
            gone.insert(0, newest)
        if gone and count < most:
            old.append(tuple(reversed(gone)))
            count += len(gone)
    return old
