"""Keep what restore points need under lock: manifests, the databases' repositories, sealed objects that lapse early."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rempart.backup.points import chain, clearing, locking, points
from rempart.backup.points.locking import FILE, POINTS, REPOSITORIES, Known, Listed, Version
from rempart.errors import BackupError, IntegrityError, LockLapses, ObjectMissing, RempartError, SiteError
from rempart.flows.shared.abreast import abreast
from rempart.flows.shared.platform import Platform
from rempart.sites.once import bodies
from rempart.sites.port import ObjectInfo, Site

WORKERS = 16
LOOK_BACK = 200
"""Versions of the note that are read at most: whoever has the site's key may put others on top."""
FRESH = timedelta(minutes=30)
_RESTIC_NAME = re.compile(r"[0-9a-f]{64}")
"""restic names what it stores by the SHA-256 of it."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class Extended:
    """Result of a run: known locks, objects of the repositories, how many locks were set, and hidden objects.

    `spent`: the locks that restic itself takes and gives back.
    """

    known: Known
    repositories: Mapping[str, str]
    set: int
    hidden: tuple[Version, ...]
    spent: Listed = field(default_factory=lambda: Listed({}))


def read_known(site: Site, bucket: str, trusted: Collection[bytes]) -> Known | None:
    """Return the newest note that one of the trusted keys signed; None where there is none.

    One whose time is far from the site's was put back by somebody, and counts only without another. Raises
    IntegrityError if others wrote over it more often than we look, SiteError.
    """
    found: list[tuple[datetime, Known]] = []
    bodies = [one for one in site.versions(bucket, FILE) if not one.marker][:LOOK_BACK]
    for one in bodies:
        try:
            at, known = locking.decode(site.fetch(bucket, FILE, version_id=one.version_id)[1], trusted)
        except (ValueError, ObjectMissing):
            continue
        if abs(at - one.modified) < FRESH:
            return known
        found.append((at, known))
    if bodies and not found:
        raise IntegrityError(
            f"{bucket}/{FILE} at site '{site.name}' was written over: of {len(bodies)} newest versions none is ours",
            "Replace the keys of the site, find out who did it, delete what he wrote there, and run again.",
        )
    return max(found, key=lambda pair: pair[0])[1] if found else None


def write_known(platform: Platform, site: Site, known: Known) -> None:
    """Replace the note; it is under lock as long as what it tells of. Raises SiteError."""
    now, bucket = platform.clock(), platform.config.buckets.backups
    written = site.write(bucket, FILE, locking.encode(known, now, platform.signer()), content_type="application/json")
    if platform.config.backup.locked and written.version_id:
        site.retain(bucket, FILE, written.version_id, now + locking.span(platform.config.backup.locked))


def extend(
    platform: Platform,
    site: Site,
    kept: Collection[str] | None,
    outliving: Collection[str] = (),
    say: Say = lambda line: None,
) -> Extended:
    """Have the repositories, and the manifests of kept points, locked for `backup.locked` from now at least.

    Without any `kept` (None) the manifests are left to the next prune. So also the sealed objects of the points that
    are `outliving` the locks which they were given. One lock that cannot be set stops no other; afterwards LockLapses
    names the first. What somebody hid is extended, too, and told. With `backup.locked: 0s` nothing is done. Raises
    SiteError.
    """
    locked, bucket = platform.config.backup.locked, platform.config.buckets.backups
    known = read_known(site, bucket, platform.trusted_keys().values()) or Known()
    if not locked:
        return Extended(known, {}, 0, ())
    now = platform.clock()
    repositories = locking.listed(site.versions(bucket, REPOSITORIES))
    manifests = Listed({}) if kept is None else locking.listed(site.versions(bucket, POINTS))
    both = Listed({**repositories.keys, **manifests.keys})
    covered = tuple(
        one
        for one in locking.hidden(_of(known, REPOSITORIES) if kept is None else known, both)
        if not (reads_the_same(site, bucket, version := both.version(one)) or is_altered(site, bucket, version))
    )
    wanted = {*repositories.current().items(), *covered}
    wanted |= {one for point in kept or () if (one := _manifest(platform, site, point, manifests))}
    wait = locking.due(wanted, known, now + locked)
    set_, failures = _retain(site, bucket, wait, now + locking.span(locked))
    until = {one: set_.get(one) or known.until[one] for one in wanted if one in set_ or one in known.until}
    if kept is None:
        until |= {one: at for one, at in known.until.items() if one[0].startswith(POINTS)}
    sealed = {point: at for point, at in known.sealed.items() if point in outliving or kept is None}
    for point in outliving:
        if known.sealed.get(point, now) < now + locked:
            manifest = _manifest(platform, site, point, locking.listed(site.versions(bucket, points.prefix(point))))
            link, until_then = _link(platform, point), now + locking.SEALED_FOR
            count, refused = _retain_sealed(site, bucket, point, manifest, link, until_then)
            failures += refused
            if not refused:
                sealed[point] = now + locking.SEALED_FOR
            say(f"{point}: {count} sealed objects locked until {now + locking.SEALED_FOR:%Y-%m-%d}")
    after = replace(known, until=until, sealed=sealed, pruning=False)
    if after != known:
        write_known(platform, site, after)
    if set_:
        say(f"{len(set_)} locks set until {now + locking.span(locked):%Y-%m-%d %H:%M} UTC")
    if failures:
        raise _lapses(failures, now + locked)
    return Extended(after, repositories.current(), len(set_), covered, repositories.busy())


def _manifest(platform: Platform, site: Site, point: str, found: Listed) -> Version | None:
    """The version of a point's manifest that has the SHA-256 in the ledger, else its writer's; None without any.

    A site may have altered the writer's version; a repair then put the same bytes beside it.
    """
    bucket, key = platform.config.buckets.backups, f"{points.prefix(point)}manifest.json"
    first = found.current().get(key)
    if sum(not one.marker for one in found.keys.get(key, ())) > 1:
        for record in platform.ledger.find("restore-point", point, limit=1):
            for info, body in bodies(site, bucket, key):
                if info.version_id and hashlib.sha256(body).hexdigest() == record.body.get("manifest_sha256"):
                    return key, info.version_id
    return (key, first) if first else None


def reads_the_same(site: Site, bucket: str, right: ObjectInfo) -> bool:
    """Whether a reader finds the bytes of a version though it is not the newest: a repair put them on top."""
    try:
        newest = site.head(bucket, right.key)
    except ObjectMissing:
        return False
    if newest.size != right.size:
        return False
    return site.read(bucket, right.key) == site.read(bucket, right.key, version_id=right.version_id)


def is_altered(site: Site, bucket: str, version: ObjectInfo) -> bool:
    """Whether a version is not what its writer gave the site: then it is nothing to bring back."""
    info, body = site.fetch(bucket, version.key, version_id=version.version_id)
    name = version.key.rpartition("/")[2]
    expected = info.sha256 or (name if _RESTIC_NAME.fullmatch(name) else None)
    return expected is not None and hashlib.sha256(body).hexdigest() != expected


def _of(known: Known, prefix: str) -> Known:
    return replace(known, until={one: at for one, at in known.until.items() if one[0].startswith(prefix)})


def _retain(
    site: Site, bucket: str, wanted: Iterable[Version], until: datetime
) -> tuple[dict[Version, datetime], list[RempartError]]:
    """Until when each is locked now, and what was refused."""
    done: dict[Version, datetime] = {}
    failures: list[RempartError] = []

    def one(version: Version) -> tuple[Version, datetime | RempartError]:
        try:
            return version, site.retain(bucket, *version, until)
        except RempartError as error:
            return version, error

    for version, outcome in abreast(list(wanted), one, WORKERS):
        if isinstance(outcome, datetime):
            done[version] = outcome
        elif not isinstance(outcome, ObjectMissing):  # restic removed it meanwhile
            failures.append(outcome)
    return done, failures


def _link(platform: Platform, point: str) -> str | None:
    """The key of the link that vouches for a point, by the ledger."""
    records = platform.ledger.find("restore-point", point, limit=1)
    seq = records[0].body.get("link") if records else None
    return chain.key_of(int(seq)) if seq else None


def _retain_sealed(
    site: Site, bucket: str, point: str, manifest: Version | None, link: str | None, until: datetime
) -> tuple[int, list[RempartError]]:
    key, version_id = manifest or (f"{points.prefix(point)}manifest.json", None)
    with site.open(bucket, key, version_id=version_id) as stream:
        named = clearing.Named(stream)
        wanted = {(key, version) for key, version, _ in named}
    if link:
        wanted |= {(one.key, str(one.version_id)) for one in site.versions(bucket, link) if not one.marker}
    done, failures = _retain(site, bucket, wanted, until)
    if len(done) + len(failures) < len(wanted):
        gone = next(one for one in sorted(wanted) if one not in done)
        failures.append(SiteError(f"{bucket}/{gone[0]} (version {gone[1]}) is gone", "Restore it from its replica."))
    return len(done), failures


def _lapses(failures: list[RempartError], needed: datetime) -> LockLapses:
    first = failures[0]
    return LockLapses(
        f"{len(failures)} locks of what restore points need could not be set until {needed:%Y-%m-%d %H:%M} UTC. One of"
        f" them: {first.what}",
        "Anybody with the site's key can delete it once its lock is over. Give the site's connection the right "
        "s3:PutObjectRetention, or have the operator mend it, and run again.",
    )


def refuse_hidden(site: Site, found: Extended) -> None:
    """Raises BackupError while what a point needs is hidden: who did it may still be there, so nothing is deleted."""
    if found.hidden:
        raise BackupError(
            f"Somebody hid {len(found.hidden)} objects that restore points at site '{site.name}' need, among them "
            f"{found.hidden[0][0]}: a delete marker or another version is on top of each. Nothing was pruned",
            "Replace the keys of the site, find out who did it, then `rempart points repair` brings them back.",
        )


def note_pruning(platform: Platform, site: Site, found: Extended) -> Extended:
    """Before restic removes data: what is gone then is not somebody else's doing, also if this run is killed."""
    if not platform.config.backup.locked:
        return found
    after = replace(found, known=replace(found.known, pruning=True))
    write_known(platform, site, after.known)
    return after


def settle(platform: Platform, site: Site, found: Extended, cleared: datetime | None = None) -> Known:
    """After a prune: what it removed is not needed any more."""
    bucket, known = platform.config.buckets.backups, found.known
    until = known.until
    if known.pruning:
        current = locking.listed(site.versions(bucket, REPOSITORIES)).current()
        gone = {one for one in found.repositories.items() if current.get(one[0]) != one[1]}
        until = {one: at for one, at in until.items() if one not in gone}
    after = replace(known, until=until, pruning=False, cleared=cleared or known.cleared)
    if after != known:
        write_known(platform, site, after)
    return after
