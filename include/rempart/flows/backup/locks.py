"""Lock what restore points need: manifests, database repositories, sealed objects whose locks end early."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rempart.backup.points import chain, garbage, locking, points
from rempart.backup.points.locking import FILE, POINTS, REPOSITORIES, KnownLocks, ListedVersions, Version
from rempart.counts import counted
from rempart.errors import BackupError, IntegrityError, LockLapses, ObjectMissing, RempartError, SiteError
from rempart.flows.backup.point_store import PointStore
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ledger.port import Ledger
from rempart.sites.once import bodies
from rempart.sites.port import ObjectInfo, Site

logger = logging.getLogger(__name__)

WORKERS = 16
LOOK_BACK = 200
"""Limit of versions of the note that are read: an attacker with the site's key may put others on top."""
NOTES = 3
"""Notes of which the latest counts."""
FRESH = timedelta(minutes=30)
_RESTIC_NAME = re.compile(r"[0-9a-f]{64}")
"""restic names its files by their SHA-256."""


@dataclass(frozen=True)
class ExtendedLocks:
    """Result of a run: known locks, repository objects, number of locks set, and hidden objects.

    `spent` are the lock files that restic takes and releases.
    """

    known: KnownLocks
    repositories: Mapping[str, str]
    set: int
    hidden: tuple[Version, ...]
    spent: ListedVersions = field(default_factory=lambda: ListedVersions({}))


def read_known(site: Site, bucket: str, trusted: Collection[bytes]) -> KnownLocks | None:
    """Return the newest note with a trusted signature, or None.

    A note whose time differs much from the site's time may be replayed, and counts only if no other exists. Of some
    notes the one with the latest time counts: a site may store an earlier one late. Raises IntegrityError if the limit
    of versions is reached, SiteError.
    """
    found, fresh = list[tuple[datetime, KnownLocks]](), list[tuple[datetime, KnownLocks]]()
    bodies = [version for version in site.versions(bucket, FILE) if not version.marker][:LOOK_BACK]
    for body in bodies:
        try:
            at, known = locking.decode(site.fetch(bucket, FILE, version_id=body.version_id)[1], trusted)
        except (ValueError, ObjectMissing):
            continue
        found.append((at, known))
        if abs(at - body.modified) < FRESH:
            fresh.append((at, known))
        if len(fresh) == NOTES:
            break
    if bodies and not found:
        raise IntegrityError(
            f"{bucket}/{FILE} at site '{site.name}' was overwritten: none of its {len(bodies)} newest versions "
            "has a trusted signature",
            "Replace the keys of the site, find out who overwrote the note, delete the foreign versions, and run "
            "again.",
        )
    return max(fresh or found, key=lambda pair: pair[0])[1] if found else None


def write_known(store: PointStore, known: KnownLocks) -> None:
    """Replace the note. Its lock lasts as long as the locks that it lists. Raises SiteError."""
    now, site, bucket = store.clock(), store.site, store.bucket
    written = site.write(bucket, FILE, locking.encode(known, now, store.signer()), content_type="application/json")
    if store.rules.locked and written.version_id:
        site.retain(bucket, FILE, written.version_id, now + locking.span(store.rules.locked))


def extend(store: PointStore, kept: Collection[str] | None, outliving: Collection[str] = ()) -> ExtendedLocks:
    """Lock the repositories and the manifests of kept points for at least `backup.locked` from now.

    With `kept=None` the manifests are left to the next prune. Sealed objects of points that are `outliving` their locks
    are extended too. One failed lock does not stop the others; LockLapses names the first at the end. Hidden objects
    are extended and reported. With `backup.locked: 0s` nothing is done. Raises SiteError.
    """
    locked, site, bucket = store.rules.locked, store.site, store.bucket
    known = read_known(site, bucket, store.trusted_keys().values()) or KnownLocks()
    if not locked:
        return ExtendedLocks(known, {}, 0, ())
    now = store.clock()
    repositories = locking.listed(site.versions(bucket, REPOSITORIES))
    manifests = ListedVersions({}) if kept is None else locking.listed(site.versions(bucket, POINTS))
    both = ListedVersions({**repositories.keys, **manifests.keys})
    covered = tuple(
        object_version
        for object_version in locking.hidden(_of(known, REPOSITORIES) if kept is None else known, both)
        if not (
            reads_the_same(site, bucket, version := both.version(object_version)) or is_altered(site, bucket, version)
        )
    )
    wanted = {*repositories.current().items(), *covered}
    wanted |= {covered_version for point in kept or () if (covered_version := _manifest(store, point, manifests))}
    wait = locking.due(wanted, known, now + locked)
    set_, failures = _retain(site, bucket, wait, now + locking.span(locked))
    until = {
        object_version: set_.get(object_version) or known.until[object_version]
        for object_version in wanted
        if object_version in set_ or object_version in known.until
    }
    if kept is None:
        until |= {
            object_version: at for object_version, at in known.until.items() if object_version[0].startswith(POINTS)
        }
    sealed = {point: at for point, at in known.sealed.items() if point in outliving or kept is None}
    for point in outliving:
        if known.sealed.get(point, now) < now + locked:
            manifest = _manifest(store, point, locking.listed(site.versions(bucket, points.prefix(point))))
            link, until_then = _link(store.ledger, point), now + locking.SEALED_FOR
            count, refused = _retain_sealed(site, bucket, point, manifest, link, until_then)
            failures += refused
            if not refused:
                sealed[point] = now + locking.SEALED_FOR
            logger.info("locked %d sealed objects of point %s until %s", count, point, until_then.date())
    after = replace(known, until=until, sealed=sealed, pruning=False)
    if after != known:
        write_known(store, after)
    if set_:
        logger.info("locked %d objects until %s", len(set_), (now + locking.span(locked)).isoformat(" ", "minutes"))
    if failures:
        raise _lapses(failures, now + locked)
    return ExtendedLocks(after, repositories.current(), len(set_), covered, repositories.busy())


def _manifest(store: PointStore, point: str, listed_versions: ListedVersions) -> Version | None:
    """Return the manifest version that matches the ledger's SHA-256, else the writer's version, or None.

    A site may have altered the writer's version; a repair then wrote the same bytes as another version.
    """
    key = f"{points.prefix(point)}manifest.json"
    first = listed_versions.current().get(key)
    if sum(not version.marker for version in listed_versions.keys.get(key, ())) > 1:
        for record in store.ledger.find("restore-point", point, limit=1):
            for info, body in bodies(store.site, store.bucket, key):
                if info.version_id and hashlib.sha256(body).hexdigest() == record.body.get("manifest_sha256"):
                    return key, info.version_id
    return (key, first) if first else None


def reads_the_same(site: Site, bucket: str, right: ObjectInfo) -> bool:
    """Return whether a reader finds the bytes of a version that is not the newest: a repair put them on top."""
    try:
        newest = site.head(bucket, right.key)
    except ObjectMissing:
        return False
    if newest.size != right.size:
        return False
    return site.read(bucket, right.key) == site.read(bucket, right.key, version_id=right.version_id)


def is_altered(site: Site, bucket: str, version: ObjectInfo) -> bool:
    """Return whether a version differs from what its writer stored. Such a version is not restored."""
    info, body = site.fetch(bucket, version.key, version_id=version.version_id)
    name = version.key.rpartition("/")[2]
    expected = info.sha256 or (name if _RESTIC_NAME.fullmatch(name) else None)
    return expected is not None and hashlib.sha256(body).hexdigest() != expected


def _of(known: KnownLocks, prefix: str) -> KnownLocks:
    return replace(
        known,
        until={
            object_version: at for object_version, at in known.until.items() if object_version[0].startswith(prefix)
        },
    )


def _retain(
    site: Site, bucket: str, versions: Iterable[Version], until: datetime
) -> tuple[dict[Version, datetime], list[RempartError]]:
    """Return until when each version is locked, and the refusals."""
    done: dict[Version, datetime] = {}
    failures: list[RempartError] = []

    def retain_version(version: Version) -> tuple[Version, datetime | RempartError]:
        try:
            return version, site.retain(bucket, *version, until)
        except RempartError as error:
            return version, error

    for version, outcome in bounded_map(list(versions), retain_version, WORKERS):
        if isinstance(outcome, datetime):
            done[version] = outcome
        elif not isinstance(outcome, ObjectMissing):  # restic removed the object meanwhile
            failures.append(outcome)
    return done, failures


def _link(ledger: Ledger, point: str) -> str | None:
    """Return the key of the chain link of a restore point, according to the ledger."""
    records = ledger.find("restore-point", point, limit=1)
    seq = records[0].body.get("link") if records else None
    return chain.key_of(int(seq)) if seq else None


def _retain_sealed(
    site: Site, bucket: str, point: str, manifest: Version | None, link: str | None, until: datetime
) -> tuple[int, list[RempartError]]:
    key, version_id = manifest or (f"{points.prefix(point)}manifest.json", None)
    with site.open(bucket, key, version_id=version_id) as stream:
        named = garbage.Named(stream)
        wanted = {(key, version) for key, version, _ in named}
    if link:
        wanted |= {
            (version.key, str(version.version_id)) for version in site.versions(bucket, link) if not version.marker
        }
    done, failures = _retain(site, bucket, wanted, until)
    if len(done) + len(failures) < len(wanted):
        gone = next(object_version for object_version in sorted(wanted) if object_version not in done)
        failures.append(
            SiteError(f"{bucket}/{gone[0]} (version {gone[1]}) does not exist", "Restore it from its replica.")
        )
    return len(done), failures


def _lapses(failures: list[RempartError], needed: datetime) -> LockLapses:
    first = failures[0]
    return LockLapses(
        f"{counted(len(failures), 'object')} that restore points need could not be locked until "
        f"{needed:%Y-%m-%d %H:%M} UTC. "
        f"First error: {first.what}",
        "Give the site's connection the right s3:PutObjectRetention, or ask the operator, then run again. After "
        "a lock ends, anyone with the site's key can delete the object.",
    )


def refuse_hidden(site: Site, extended_locks: ExtendedLocks) -> None:
    """Check that nothing that restore points need is hidden before anything is deleted. Raises BackupError."""
    if hidden := len(extended_locks.hidden):
        raise BackupError(
            f"Nothing was pruned, because {counted(hidden, 'needed object is', 'needed objects are')} hidden at site "
            f"'{site.name}', for example {extended_locks.hidden[0][0]}, by a delete marker or another version",
            "Replace the keys of the site, find out who hid the objects, then run `rempart backup repair`.",
        )


def note_pruning(store: PointStore, extended_locks: ExtendedLocks) -> ExtendedLocks:
    """Record a prune before restic removes data, so that the removal is not taken for an attack, also after a kill."""
    if not store.rules.locked:
        return extended_locks
    after = replace(extended_locks, known=replace(extended_locks.known, pruning=True))
    write_known(store, after.known)
    return after


def settle(store: PointStore, extended_locks: ExtendedLocks, cleared: datetime | None = None) -> KnownLocks:
    """Record that removed data is no longer needed, after a prune."""
    known = extended_locks.known
    until = known.until
    if known.pruning:
        current = locking.listed(store.site.versions(store.bucket, REPOSITORIES)).current()
        gone = {
            repository
            for repository in extended_locks.repositories.items()
            if current.get(repository[0]) != repository[1]
        }
        until = {object_version: at for object_version, at in until.items() if object_version not in gone}
    after = replace(known, until=until, pruning=False, cleared=cleared or known.cleared)
    if after != known:
        write_known(store, after)
    return after
