"""What two sites have that the other lacks, when both may have been written: found from listings, lost nowhere. Pure.

A version is *known* when the catalogue of either direction has it: then it was at both sites once, and is an ancestor
of whatever else is found. An unknown version was written at that site alone. If the standby wrote it while it was the
active site, a replication had it still to bring: it goes over any known version. If not, nobody was to write there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from rempart.sites.port import ObjectInfo


class Known(NamedTuple):
    """One version of an object by its ETag at one site, which is only ever compared with that site's."""

    key: str
    etag: str


@dataclass(frozen=True)
class Divergence:
    """`adopt`: what a replication still had to bring, and keys that the standby alone has; oldest first.

    `both`: keys of which each site has a version of its own, or that one of them deleted. Equal bytes are no conflict,
    which only a look at them can tell.
    """

    adopt: tuple[ObjectInfo, ...]
    both: tuple[ObjectInfo, ...]


def diverged(
    standby: Iterable[ObjectInfo],
    active: Iterable[ObjectInfo],
    known_standby: Iterable[Known],
    known_active: Iterable[Known],
    was_active: Callable[[datetime], bool],
) -> Divergence:
    """Compare complete listings of one bucket; `was_active` tells whether the standby was the active site at a time.

    What the standby never wrote alone needs nothing but a replication, and is not named.
    """
    there: Mapping[str, ObjectInfo] = {info.key: info for info in active}
    at_standby, at_active = set(known_standby), set(known_active)
    replicated = {info.key for info in at_active} | {info.key for info in at_standby}
    adopt: list[ObjectInfo] = []
    both: list[ObjectInfo] = []
    for info in standby:
        if Known(info.key, info.etag) in at_standby:
            continue
        other = there.get(info.key)
        alone = other is None and info.key not in replicated
        newer = other is not None and Known(other.key, other.etag) in at_active and was_active(info.modified)
        (adopt if alone or newer else both).append(info)
    return Divergence(tuple(sorted(adopt, key=_age)), tuple(sorted(both, key=_age)))


def _age(info: ObjectInfo) -> tuple[float, str]:
    return info.modified.timestamp(), info.key


def aside(generation: int, key: str) -> str:
    """Where the standby's version of a key is kept when the active site has one of its own."""
    return f"conflicts/{generation}/{key}"
