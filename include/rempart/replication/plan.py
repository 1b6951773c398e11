"""Plan what to copy: a pure merge of two listings and the catalogue, key by key, in constant memory.

All three are ordered by their keys' UTF-8 bytes, with the versions of a key newest first, as S3 lists them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, Literal, TypeVar
from unicodedata import is_normalized

from rempart.errors import SiteError
from rempart.sites.port import ObjectInfo

LONG = 255
"""Bytes of a key that every server takes: S3's own limit is 1,024, that of a file's name 255."""
Why = Literal["new", "changed", "replica missing", "replica altered", "out of order"]
Basis = Literal["read back", "checked on arrival", "found there", "marker"]
ACCEPTED: Basis = "checked on arrival"
"""The target checked the SHA-256 and listed the object as sent. It was not read back yet."""
DAMAGED = "damaged"
"""The ETag of a replica that is not what was copied: no listing agrees with it, so a comparison copies it again."""
Voucher = Literal["writer", "checksum", "checksum of parts", "none"]
"""Origin of the source's digest: its writer's record, a checksum sent by the writer, or none."""


def risks(key: str, *, folder: bool = False) -> frozenset[str]:
    """Return the capabilities without which a site may confuse a key with another; empty for most keys.

    `folder`: this key followed by a slash is the beginning of other keys. A server that stores files cannot have a file
    and a folder of one name.
    """
    needed = set()
    if folder or "\\" in key or any(step in ("", ".", "..") for step in key.split("/")):
        needed.add("path keys")
    if any(letter in key for letter in "%+ ?#&") or not key.isprintable() or not is_normalized("NFC", key):
        needed.add("escaped keys")
    if len(key.encode()) > LONG:
        needed.add("long keys")
    return frozenset(needed)


@dataclass(frozen=True)
class Replica:
    """One version of an object, or a delete marker, with a verified copy at the target.

    `etag`, `modified` and `version` are the source's, `target_etag` and `target_version` the target's: an ETag is
    compared only with earlier ones of the same site, because it depends on how an object was uploaded. `place` orders
    the versions of a key at the target. `missing_since` and `sightings`: since when, and in how many consecutive
    complete listings, the source lacked it. `hidden`: since when our delete marker hides it at the target. `vouched`:
    origin of the source's digest.
    """

    key: str
    version: str
    place: int
    marker: bool
    size: int
    sha256: str
    etag: str
    modified: datetime
    target_version: str
    target_etag: str
    basis: Basis
    copied: datetime
    verified: datetime
    missing_since: datetime | None = None
    sightings: int = 0
    hidden: datetime | None = None
    vouched: Voucher = "none"

    def is_of(self, info: ObjectInfo) -> bool:
        """Return whether the source still has what was copied. Without versions three facts decide."""
        return (self.size, self.etag, self.marker) == (info.size, info.etag, info.marker) and (
            bool(self.version) or self.modified == info.modified
        )

    def stands_in(self, info: ObjectInfo) -> bool:
        """Return whether the target still lists what was stored there."""
        return (self.marker, self.size, self.target_etag) == (info.marker, info.size, info.etag)


@dataclass(frozen=True)
class Copy:
    """One version to copy to the target, as the `place`-th of its key.

    `perhaps`: a version at the target that no catalogue knows and that may be this copy.
    """

    source: ObjectInfo
    place: int
    why: Why
    perhaps: ObjectInfo | None = None


@dataclass(frozen=True)
class KeyPlan:
    """Work for one key. `copies` run in order; after a failure the rest is skipped.

    `hides`: readers of the target would no longer find the key. `missing`: replicas that the source no longer lists;
    `back`: those listed again. `surplus`: superseded versions at the target, by age. `folder`: other keys begin
    with this key and a slash.
    """

    key: str
    copies: tuple[Copy, ...] = ()
    hides: bool = False
    missing: tuple[Replica, ...] = ()
    back: tuple[Replica, ...] = ()
    surplus: tuple[ObjectInfo, ...] = ()
    folder: bool = False

    def __bool__(self) -> bool:
        return bool(self.copies or self.missing or self.back or self.surplus)


@dataclass
class Tally:
    """Counts of a merge: readable keys and bytes at the source; verified keys; keys in the catalogue; keys readable
    only at the target; keys to hide there.

    Of the verified keys, `accepted` were not read at the target yet, the oldest since `unread`; `unvouched` have no
    writer's digest.
    """

    objects: int = 0
    bytes: int = 0
    current: int = 0
    known: int = 0
    kept: int = 0
    hides: int = 0
    accepted: int = 0
    unread: datetime | None = None
    unvouched: int = 0


def plan_key(
    key: str,
    source: Sequence[ObjectInfo],
    known: Sequence[Replica],
    target: Sequence[ObjectInfo] | None,
) -> KeyPlan:
    """Plan one key. `source` and `target` are newest first, `target` is None if not listed, `known` is in any order.

    Versions at the target stay if they are the beginning of the source's history. The following versions are stored
    again, so that readers find the same sequence of versions and markers.
    """
    by_version = {replica.version: replica for replica in known}
    standing = (
        None
        if target is None
        else {version.version_id or "": (n, version) for n, version in enumerate(reversed(target))}
    )
    history = list(reversed(source))
    kept, at, why = 0, -1, None
    for info in history:
        known_replica = by_version.get(info.version_id or "")
        why = _wrong(info, known_replica, standing)
        if why is None and standing is not None and known_replica is not None:
            position = standing[known_replica.target_version][0]
            if position <= at:
                why = "out of order"
            at = position
        if why:
            break
        kept += 1
    if kept == len(history) and history and standing is not None and at != len(standing) - 1:
        kept, why = kept - 1, "replica altered"  # somebody put a version of his own over ours
    place = max((replica.place for replica in known), default=-1) + 1
    twins = _twins(history, known, target)
    copies = tuple(
        Copy(info, place + n, why if n == 0 and why else _again(info, by_version), twins.get(info.version_id or ""))
        for n, info in enumerate(history[kept:])
    )
    listed = {info.version_id or "" for info in history}
    visible = (
        bool(target and not target[0].marker) if target is not None else any(not replica.hidden for replica in known)
    )
    return KeyPlan(
        key,
        copies,
        hides=bool(copies and copies[-1].source.marker and visible),
        missing=tuple(replica for replica in known if replica.version not in listed),
        back=tuple(
            replica for replica in known if replica.version in listed and (replica.missing_since or replica.hidden)
        ),
    )


def _wrong(info: ObjectInfo, replica: Replica | None, standing: dict[str, tuple[int, ObjectInfo]] | None) -> Why | None:
    if replica is None:
        return "new"
    if not replica.is_of(info):
        return "changed"
    if replica.hidden:
        return "replica missing"
    if standing is None:
        return None
    there = standing.get(replica.target_version)
    if there is None:
        return "replica missing"
    return None if replica.stands_in(there[1]) else "replica altered"


def _again(info: ObjectInfo, known: dict[str, Replica]) -> Why:
    return "out of order" if (info.version_id or "") in known else "new"


def _twins(
    history: Sequence[ObjectInfo], known: Sequence[Replica], target: Sequence[ObjectInfo] | None
) -> dict[str, ObjectInfo]:
    """Return versions at the target that may equal the source's, by source version, if the catalogue was lost."""
    if known or not target or len(target) > len(history):
        return {}
    pairs = list(zip(history, reversed(target), strict=False))
    if any((mine.size, mine.marker) != (there.size, there.marker) for mine, there in pairs):
        return {}
    return {mine.version_id or "": there for mine, there in pairs}


def surplus(target: Sequence[ObjectInfo], known: Sequence[Replica], before: datetime) -> tuple[ObjectInfo, ...]:
    """Return superseded versions of our keys at the target that no replica needs."""
    ours = {replica.target_version for replica in known}
    return tuple(
        older
        for newer, older in pairwise(target)
        if (older.version_id or "") not in ours and newer.modified < before and older.version_id
    )


def merge(
    source: Iterable[ObjectInfo],
    known: Iterable[Replica],
    target: Iterable[ObjectInfo] | None,
    tally: Tally,
    *,
    superseded_before: datetime | None = None,
    where: str = "whole bucket",
) -> Iterator[KeyPlan]:
    """Yield plans of all keys with work; `tally` is filled on the way.

    The plan of a key is yielded once it is known whether other keys use it as a folder. Raises SiteError for an
    unordered listing, or an empty one where objects were before.
    """

    def plans() -> Iterator[tuple[str, KeyPlan | None]]:
        for key, (mine, rows, there) in by_key(source, known, target or ()):
            plan = plan_key(key, mine, rows, None if target is None else there)
            if superseded_before and rows:
                plan = replace(plan, surplus=surplus(there, rows, superseded_before))
            _count(tally, plan, mine, rows, there, target is not None)
            yield key, plan or None

    for key_plan, folder in _with_folders(plans()):
        yield replace(key_plan, folder=folder)
    check_source(tally, where)


def differing(
    source: Iterable[ObjectInfo],
    known: Iterable[Replica],
    target: Iterable[ObjectInfo],
    tally: Tally,
    where: str = "whole bucket",
) -> Iterator[tuple[str, bool]]:
    """Yield keys to examine, and whether each is a folder of others, from listings without versions.

    `known` holds all replicas; only a key's newest version is compared. Changes of older versions are found by a merge
    of all versions. Raises the errors of `merge`.
    """

    def keys() -> Iterator[tuple[str, str | None]]:
        for key, (mine, rows, there) in by_key(source, known, target):
            settled = _is_settled(mine, rows, there)
            if settled:
                _count(tally, KeyPlan(key), mine, rows, there, True)
            else:  # counted when it is planned, but for what guards the source
                tally.known += any(not (row.marker or row.hidden) for row in rows)
                tally.objects += bool(mine)
            yield key, None if settled else key

    yield from _with_folders(keys())
    check_source(tally, where)


def _is_settled(source: Sequence[ObjectInfo], known: Sequence[Replica], target: Sequence[ObjectInfo]) -> bool:
    newest = max(known, key=lambda replica: replica.place, default=None)
    if any(replica.missing_since or replica.hidden for replica in known):
        return False
    if newest is None:
        return not source
    if newest.marker:
        return not source and not target
    if not source or not target:
        return False
    info = source[0]
    same = (newest.size, newest.etag) == (info.size, info.etag)
    # one listing tells whole seconds, another their fractions
    return same and abs(newest.modified - info.modified) < timedelta(seconds=1) and newest.stands_in(target[0])


T = TypeVar("T")


def _with_folders(items: Iterable[tuple[str, T | None]]) -> Iterator[tuple[T, bool]]:
    """Add to ordered keys whether other keys have them before a slash, once that is known."""
    open_: list[tuple[str, T, bool]] = []  # of keys that begin the present one: at most as many as it has letters
    for key, what in items:
        while open_ and not key.startswith(open_[-1][0]):
            yield open_.pop()[1:]
        open_ = [
            (folder_name, held, folder or key.startswith(f"{folder_name}/")) for folder_name, held, folder in open_
        ]
        if what is not None:
            open_.append((key, what, False))
    yield from (entry[1:] for entry in reversed(open_))


def check_source(tally: Tally, where: str) -> None:
    """Check that the source is not suddenly empty. Raises SiteError."""
    if not tally.objects and tally.known:
        raise SiteError(
            f"list the source ({where}): it has no object, although {tally.known} objects were replicated from it",
            "Nothing was changed at the target. Check the source's bucket and rights. If it was emptied on "
            "purpose, delete the pair's catalogue (docs/runbooks/replica.md).",
        )


def by_key(*sides: Iterable[Any]) -> Iterator[tuple[str, list[list[Any]]]]:
    """Group the entries of several ordered listings by key.

    Raises SiteError for an unordered listing.
    """
    groups = [_grouped(side, n) for n, side in enumerate(sides)]
    for _, group in groupby(heapq.merge(*groups, key=lambda group: group[:2]), key=lambda group: group[0]):
        there = {number: (key, entries) for _, number, key, entries in group}
        key = next(key for key, _ in there.values())
        yield key, [there[n][1] if n in there else [] for n in range(len(sides))]


def _grouped(listing: Iterable[Any], side: int) -> Iterator[tuple[bytes, int, str, list[Any]]]:
    last: bytes | None = None
    for key, group in groupby(listing, key=lambda info: info.key):
        order = key.encode("utf-8", "surrogatepass")
        if last is not None and order <= last:
            raise SiteError(
                f"read a listing: it is out of order, {key[:80]!r} came after a later key",
                "Nothing was changed at the target. Run `rempart site doctor`, which checks the order of listings.",
            )
        last = order
        yield order, side, key, list(group)


def _count(
    tally: Tally,
    plan: KeyPlan,
    source: Sequence[ObjectInfo],
    known: Sequence[Replica],
    target: Sequence[ObjectInfo],
    listed: bool,
) -> None:
    tally.known += any(not (replica.marker or replica.hidden) for replica in known)
    tally.objects += bool(source and not source[0].marker)
    recount(tally, plan, source, known, target, listed)


def recount(
    tally: Tally,
    plan: KeyPlan,
    source: Sequence[ObjectInfo],
    known: Sequence[Replica],
    target: Sequence[ObjectInfo],
    listed: bool = True,
) -> None:
    """Correct the counts of a key that `differing` has already counted."""
    if source and not source[0].marker:
        tally.bytes += source[0].size
        tally.current += not plan.copies
        if known and not plan.copies:
            _grade(tally, max(known, key=lambda replica: replica.place))
    elif plan.hides:
        tally.hides += 1
    elif (
        (target and not target[0].marker)
        if listed
        else any(not (replica.marker or replica.hidden) for replica in known)
    ):
        tally.kept += 1


def _grade(tally: Tally, row: Replica) -> None:
    tally.unvouched += row.vouched == "none"
    if row.basis == ACCEPTED:
        tally.accepted += 1
        tally.unread = min(tally.unread or row.copied, row.copied)
