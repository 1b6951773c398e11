"""Find what two sites lack from each other if both were written, from their listings, without losing anything. Pure.

A version is *known* if the catalogue of either direction has it: then it was at both sites once, and precedes anything
else found. An unknown version was written at that site alone. If the standby site wrote it while it was active, a
replication was pending: it replaces any known version. Otherwise nobody was allowed to write there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from rempart.sites.port import ObjectInfo


class KnownVersion(NamedTuple):
    """One version of an object by its ETag at one site. ETags are compared only within a site."""

    key: str
    etag: str


@dataclass(frozen=True)
class Divergence:
    """Result: `adopt` lists pending changes of the standby site and keys that only it has, oldest first.

    `both`: keys with a version of their own at each site, or deleted at one of them. Equal bytes are no conflict, which
    only reading reveals.
    """

    adopt: tuple[ObjectInfo, ...]
    both: tuple[ObjectInfo, ...]


def diverged(
    standby: Iterable[ObjectInfo],
    active: Iterable[ObjectInfo],
    known_standby: Iterable[KnownVersion],
    known_active: Iterable[KnownVersion],
    was_active: Callable[[datetime], bool],
) -> Divergence:
    """Compare complete listings of one bucket; `was_active` tells whether the standby site was ever active.

    Keys that the standby site never wrote alone only need a replication, and are left out.
    """
    there: Mapping[str, ObjectInfo] = {info.key: info for info in active}
    at_standby, at_active = set(known_standby), set(known_active)
    replicated = {info.key for info in at_active} | {info.key for info in at_standby}
    adopt: list[ObjectInfo] = []
    both: list[ObjectInfo] = []
    for info in standby:
        if KnownVersion(info.key, info.etag) in at_standby:
            continue
        other = there.get(info.key)
        alone = other is None and info.key not in replicated
        newer = other is not None and KnownVersion(other.key, other.etag) in at_active and was_active(info.modified)
        (adopt if alone or newer else both).append(info)
    return Divergence(tuple(sorted(adopt, key=_age)), tuple(sorted(both, key=_age)))


def _age(info: ObjectInfo) -> tuple[float, str]:
    return info.modified.timestamp(), info.key


def aside(generation: int, key: str) -> str:
    """Return the key for the standby site's version if the active site has a version of its own."""
    return f"conflicts/{generation}/{key}"
