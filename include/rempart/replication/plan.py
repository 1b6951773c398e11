"""What to copy: pure functions of two listings and the catalogue of what was copied and verified before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from unicodedata import is_normalized

from rempart.errors import SiteError
from rempart.sites.port import ObjectInfo

LONG = 255
"""Bytes of a key that every server takes: S3's own limit is 1,024, that of a file's name 255."""
Why = Literal["new", "changed", "replica missing", "replica altered"]


def risks(key: str, folders: Collection[str] = ()) -> frozenset[str]:
    """The capabilities without which a site may take a key for another; none for most keys.

    `folders` holds what other keys have before one of their slashes: a server that keeps files has no place for a file
    and a folder of one name.
    """
    found = set()
    if key in folders or "\\" in key or any(step in ("", ".", "..") for step in key.split("/")):
        found.add("path keys")
    if any(letter in key for letter in "%+ ?#&") or not key.isprintable() or not is_normalized("NFC", key):
        found.add("escaped keys")
    if len(key.encode()) > LONG:
        found.add("long keys")
    return frozenset(found)


def folders_of(keys: Iterable[str]) -> set[str]:
    """Everything that stands before a slash in one of the keys."""
    found: set[str] = set()
    for key in keys:
        while (key := key.rpartition("/")[0]) and key not in found:
            found.add(key)
    return found


@dataclass(frozen=True)
class Replica:
    """One object whose copy was read back from the target and had this SHA-256.

    `etag`, `modified` and `source_version` are the source's, `target_etag` and `target_version` the target's: an ETag
    is only ever compared with an earlier one of the same site, since it depends on how an object was uploaded.
    """

    key: str
    size: int
    sha256: str
    etag: str
    modified: datetime
    source_version: str | None
    target_etag: str
    target_version: str | None
    copied_at: datetime


@dataclass(frozen=True)
class Copy:
    """One object to bring to the target. `perhaps_there`: the target holds one of this size that no catalogue knows."""

    source: ObjectInfo
    why: Why
    perhaps_there: bool


@dataclass(frozen=True)
class Plan:
    """Copies to make (oldest change first), objects whose replica is current, keys that only the target still has."""

    copies: tuple[Copy, ...]
    current: tuple[Replica, ...]
    kept: tuple[str, ...]


def plan(
    source: Iterable[ObjectInfo],
    target: Iterable[ObjectInfo],
    catalogue: Mapping[str, Replica],
    where: str = "whole bucket",
) -> Plan:
    """Compare two complete listings. Raises SiteError when the source lists nothing though it had objects before."""
    there = {info.key: info for info in target}
    copies: list[Copy] = []
    current: list[Replica] = []
    seen: set[str] = set()
    for info in source:
        seen.add(info.key)
        known, found = catalogue.get(info.key), there.get(info.key)
        why: Why | None = None
        if known is None:
            why = "new"
        elif (info.size, info.etag, info.modified) != (known.size, known.etag, known.modified):
            why = "changed"
        elif found is None:
            why = "replica missing"
        elif (found.size, found.etag) != (known.size, known.target_etag):
            why = "replica altered"
        if why:
            perhaps_there = known is None and found is not None and found.size == info.size
            copies.append(Copy(info, why, perhaps_there))
        elif known:
            current.append(known)
    if not seen and catalogue:
        raise SiteError(
            f"The source lists no object ({where}), though {len(catalogue)} were replicated from it",
            "Nothing was changed at the target. Check the source's bucket and rights; if it was emptied on purpose, "
            "delete the pair's catalogue (docs/runbooks/replica.md).",
        )
    copies.sort(key=lambda copy: (copy.source.modified, copy.source.key))
    return Plan(tuple(copies), tuple(current), tuple(sorted(there.keys() - seen)))


def lag_seconds(pending: Iterable[ObjectInfo], now: datetime) -> float:
    """Age of the oldest change at the source that has no verified replica; 0 when every change has one."""
    oldest = min((info.modified for info in pending), default=None)
    return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
