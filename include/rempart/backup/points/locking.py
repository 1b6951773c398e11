"""Plan the locks of manifests and restic repositories: their length, what is due, what is hidden. Pure.

The locks are noted in one object, `locks/known.json` in the backup bucket: signed in the form of a heartbeat
(`backup.watch.heartbeat`), so that a run asks the site only about new objects. Replaying an older note only causes
extra extensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.backup.watch import heartbeat
from rempart.backup.watch.heartbeat import Heartbeat
from rempart.ledger.keys import Signer
from rempart.sites.port import ObjectInfo

KIND, FILE = "locks", "locks/known.json"
REPOSITORIES, POINTS, CHAIN = "restic/", "points/", "chain/"
SEALED_FOR = timedelta(days=30)
"""Locks of sealed objects whose point outlives them are extended by so much, once in that time."""
_BUSY = re.compile(r"restic/[^/]+/[^/]+/locks/")
"""restic's own locks, which come and go."""
_ONCE = re.compile(
    r"chain/\d{9}(?:\.lost)?\.json|points/[^/]+/manifest\.json|erasures/.+|"
    r"restic/[^/]+/[^/]+/(?:config|(?:keys|data|index|snapshots)/.+)"
)
"""Prefixes that are written once, by us or by restic."""

Version = tuple[str, str]
"""A key and one of its versions."""


def span(locked: timedelta) -> timedelta:
    """Return the length of new locks: each is extended a few times in `locked`, not at every backup."""
    return locked + locked / 3


def first(now: datetime, locked: timedelta) -> datetime | None:
    """Return until when a new object is locked; None without locks."""
    return now + span(locked) if locked else None


@dataclass(frozen=True)
class KnownLocks:
    """Result of a run: until when each version is locked, and the sealed objects of a point (by id).

    `pruning`: restic was removing unneeded data, so missing objects are no attack. `cleared`: time of the last garbage
    collection.
    """

    until: Mapping[Version, datetime] = field(default_factory=dict)
    sealed: Mapping[str, datetime] = field(default_factory=dict)
    pruning: bool = False
    cleared: datetime | None = None


def encode(known: KnownLocks, at: datetime, signer: Signer) -> bytes:
    facts: dict[str, Any] = {
        "until": {key: [version, int(until.timestamp())] for (key, version), until in known.until.items()},
        "sealed": {point: int(until.timestamp()) for point, until in known.sealed.items()},
        "pruning": known.pruning,
        "cleared": int(known.cleared.timestamp()) if known.cleared else None,
    }
    return heartbeat.encode(Heartbeat(KIND, at, facts), signer)


def decode(body: bytes, trusted: Iterable[bytes]) -> tuple[datetime, KnownLocks]:
    """Return time and content of the note. Raises ValueError without a trusted signature."""
    note = heartbeat.decode(KIND, body, trusted)
    facts = note.facts
    try:
        return note.at, KnownLocks(
            {(key, str(version)): _time(until) for key, (version, until) in facts["until"].items()},
            {point: _time(until) for point, until in facts["sealed"].items()},
            facts["pruning"] is True,
            _time(facts["cleared"]) if facts["cleared"] is not None else None,
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise ValueError("it is not a note of locks") from cause


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True)
class ListedVersions:
    """The versions at a site, of each key the newest first, markers among them."""

    keys: Mapping[str, Sequence[ObjectInfo]]

    def current(self) -> dict[str, str]:
        """Return each key's first version if a reader finds any; without restic's locks."""
        found = {}
        for key, versions in self.keys.items():
            first = (
                next(version for version in reversed(versions) if not version.marker)
                if not versions[0].marker
                else None
            )
            if first and first.version_id and not _BUSY.match(key):
                found[key] = first.version_id
        return found

    def busy(self) -> ListedVersions:
        """Return restic's own locks."""
        return ListedVersions({key: versions for key, versions in self.keys.items() if _BUSY.match(key)})

    def version(self, object_version: Version) -> ObjectInfo:
        return next(version for version in self.keys[object_version[0]] if version.version_id == object_version[1])

    def reads(self, object_version: Version) -> bool:
        """Return whether a reader finds this version or, by size and ETag, a copy of it."""
        newest, right = self.keys[object_version[0]][0], self.version(object_version)
        return not newest.marker and (newest.size, newest.etag) == (right.size, right.etag)

    def holds(self, object_version: Version) -> bool:
        return any(
            version.version_id == object_version[1] and not version.marker
            for version in self.keys.get(object_version[0], ())
        )


def listed(versions: Iterable[ObjectInfo]) -> ListedVersions:
    """Build the state from a listing of all versions, each key's newest first."""
    keys: dict[str, list[ObjectInfo]] = {}
    for version in versions:
        keys.setdefault(version.key, []).append(version)
    return ListedVersions(keys)


def hidden(known: KnownLocks, listed_versions: ListedVersions) -> tuple[Version, ...]:
    """Return locked versions that a point needs, that exist, and that readers no longer find."""
    if known.pruning:
        return ()
    return tuple(
        sorted(
            object_version
            for object_version in known.until
            if listed_versions.holds(object_version) and not listed_versions.reads(object_version)
        )
    )


def outlives(moment: datetime, length: timedelta | None, now: datetime, locked: timedelta) -> bool:
    """Return whether the locks of a point's sealed objects end soon or have ended; they were set for `length`.

    None: the point has none, as in the first formats.
    """
    return length is not None and now - moment + locked + span(locked) > length


def due(versions: Iterable[Version], known: KnownLocks, needed: datetime) -> list[Version]:
    """Return versions that are not known to be locked until `needed`."""
    return sorted(object_version for object_version in versions if known.until.get(object_version, _LONG_AGO) < needed)


_LONG_AGO = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Cover:
    """A write-once key whose first version is hidden by `markers` and perhaps other versions.

    `right` is the version of its writer.
    """

    right: ObjectInfo
    markers: tuple[ObjectInfo, ...]
    written_over: bool


def covers(listed_versions: ListedVersions) -> tuple[Cover, ...]:
    """Return every write-once key that is hidden by delete markers or foreign versions.

    A key with a copy of the right version on top (same size and ETag) is not hidden.
    """
    covered = []
    for key, versions in sorted(listed_versions.keys.items()):
        bodies = [version for version in versions if not version.marker]
        if not _ONCE.fullmatch(key) or not bodies:
            continue
        right, newest = bodies[-1], versions[0]
        if newest is right or (not newest.marker and (newest.size, newest.etag) == (right.size, right.etag)):
            continue
        later = [body for body in bodies[:-1] if (body.size, body.etag) != (right.size, right.etag)]
        markers = tuple(version for version in versions[: versions.index(bodies[0])] if version.marker)
        covered.append(Cover(right, markers, bool(later)))
    return tuple(covered)
