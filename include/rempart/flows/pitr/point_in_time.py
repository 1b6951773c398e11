"""Manage the WAL archive at the backup site: take base backups, read the archive, prune it."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rempart.backup.databases.postgresql import Tools, find_tools
from rempart.backup.databases.restic import Repository
from rempart.backup.keys import encryption_scopes
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.pitr import base_backup, recovery, wal, wal_store
from rempart.backup.pitr.receiver import Server, look
from rempart.backup.pitr.recovery import Course, Holdings
from rempart.backup.pitr.wal import Archive, Base, Segment
from rempart.backup.pitr.wal_store import StoredEntry
from rempart.coordination.active import backup_site
from rempart.counts import size
from rempart.errors import (
    BackupError,
    ConfigError,
    IntegrityError,
    KeyDestroyed,
    KeyMissing,
    KeyRotated,
    KeyWrong,
    RepositoryBusy,
    RepositoryMissing,
)
from rempart.flows.doctor.doctor_site import require
from rempart.flows.shared.keys import key_of, open_keyring
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.port import Ledger
from rempart.settings.config import WAL_ARCHIVE, Config, Connection
from rempart.settings.pipelines import load_all
from rempart.settings.sections import PointInTime
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

INTERRUPTED_AFTER = timedelta(days=1)
"""Age after which a base backup without a card counts as interrupted. Younger base backups are in progress."""


@dataclass(frozen=True)
class ArchiveTarget:
    """Destination of the running server's archive: site, bucket and key, opened and proven.

    `repository` is where base backups are stored, `server` the connection of the replication role.
    """

    site: Site
    bucket: str
    key: ScopeKey
    settings: PointInTime
    ledger: Ledger
    repository: Repository
    server: Connection

    def archive(self, system: str) -> Archive:
        return Archive(self.key.scope.id, self.key.serial, system)

    def until(self, moment: datetime) -> datetime:
        """Return until when data written at a moment is locked: as long as the window may need it."""
        return moment + self.settings.keep + self.settings.base_every


@dataclass(frozen=True)
class OpenedArchive:
    """One archive at a site: its listing, its base backups by their cards, and the courses of its timelines."""

    archive: Archive
    key: ScopeKey
    bases: tuple[tuple[Base, StoredEntry], ...]
    files: tuple[StoredEntry, ...]
    courses: dict[int, Course]

    @property
    def segments(self) -> list[Segment]:
        """Return the archive's segments, or None without a base backup: their numbers need the segment size."""
        if not self.bases:
            return []
        size = self.bases[0][0].segment_bytes
        return [
            Segment(wal.timeline_of(name), wal.number_of(name, size), file.entry.moment, file.entry)
            for file in self.files
            if wal.is_segment(name := file.entry.name)
        ]

    def held(self, timeline: int | None = None) -> Holdings:
        """Return the holdings along a timeline (default: the newest). Raises ConfigError for a missing timeline."""
        if not self.courses:
            return Holdings(recovery.course_of(1), ())
        wanted = max(self.courses) if timeline is None else timeline
        if wanted not in self.courses:
            known = ", ".join(map(str, sorted(self.courses)))
            raise ConfigError(
                f"The archive of system {self.archive.system} has no timeline {wanted}", f"It has: {known}."
            )
        return recovery.holdings(self.courses[wanted], [base for base, _ in self.bases], self.segments)


def settings_of(config: Config) -> PointInTime:
    """Return the settings of point-in-time recovery. Raises ConfigError if it is off."""
    if config.backup.point_in_time is None:
        raise ConfigError(
            "backup.point_in_time is not in rempart.yaml: no WAL is archived",
            "Add `point_in_time: {}` under backup, then `rempart up` (docs/runbooks/restore-to-a-second.md).",
        )
    return config.backup.point_in_time


def open_target(platform: Platform) -> ArchiveTarget:
    """Return the archive's present place: the site of the restore points. Make the scope's key if it is missing.

    Raises ConfigError, the errors of keys, PlacementDenied, DatabaseUnavailable, SiteError.
    """
    config, settings = platform.config, settings_of(platform.config)
    active = platform.active().site
    name = backup_site(config, active)
    site = platform.site(name, classification_of(load_all()), "restore-point", replica_of=active)
    require(platform, site, "restore points")
    key = key_of(platform.ledger, open_keyring(platform), wal.scope_of(settings.keep))
    repository = repository_of(config, platform.connections, name, key)
    return ArchiveTarget(site, config.buckets.backups, key, settings, platform.ledger, repository, server_of(platform))


def server_of(platform: Platform) -> Connection:
    """Return the connection of the replication role. Raises ConnectionMissing."""
    return platform.database(WAL_ARCHIVE)


def take_base(target: ArchiveTarget, server: Server, tools: Tools | None = None) -> Base:
    """Take a base backup, read it back, and lock its card. Writes evidence of kind `base-backup`.

    Raises BackupError, DatabaseUnavailable, IntegrityError, SiteError, LedgerError.
    """
    connection, repository, tools = target.server, target.repository, tools or find_tools()

    def now() -> datetime:
        return look(connection).now

    try:
        base, stored = base_backup.take(tools, repository, connection, server, now)
    except RepositoryMissing:
        repository.init_if_missing()
        base, stored = base_backup.take(tools, repository, connection, server, now)
    archive, body = target.archive(base.system), wal.encode_base(base)
    until = target.until(base.ended)
    entry = wal_store.store(
        target.site, target.bucket, target.key, archive, wal.BASE, base.ended, io.BytesIO(body), until
    )
    seconds = (base.ended - base.began).total_seconds()
    target.ledger.append(
        "base-backup",
        base.system,
        {
            "site": target.site.name,
            "card": entry.key,
            "timeline": base.timeline,
            "ended": base.ended.isoformat(),
            "seconds": round(seconds, 3),
            "bytes": base.bytes,
            "bytes_added": stored.bytes_added,
        },
    )
    logger.info("stored a base backup of %s (%s new) in %.1f s", size(base.bytes), size(stored.bytes_added), seconds)
    return base


def open_archive(
    site: Site, bucket: str, archive: Archive, key: ScopeKey, listed: Sequence[StoredEntry]
) -> OpenedArchive:
    """Read the cards and histories of an archive. Raises IntegrityError, KeyWrong, SiteError."""
    ours = [stored for stored in listed if stored.entry.archive == archive]
    bases, histories = [], dict[int, tuple[tuple[int, int], ...]]()
    with spool_folder() as folder:
        for stored in ours:
            if wal.is_segment(stored.entry.name):
                continue
            file = folder / "opened"
            wal_store.open_entry(site, bucket, key, stored, file)
            where = f"{bucket}/{stored.entry.key} at site '{site.name}'"
            if stored.entry.name == wal.BASE:
                bases.append((wal.decode_base(file.read_bytes(), where), stored))
            else:
                histories[wal.timeline_of(stored.entry.name)] = wal.read_history(file.read_bytes(), where)
    timelines = {base.timeline for base, _ in bases} | {
        wal.timeline_of(stored.entry.name) for stored in ours if stored.entry.name != wal.BASE
    }
    courses = {timeline: recovery.course_of(timeline, histories.get(timeline, ())) for timeline in timelines}
    bases.sort(key=lambda opened: opened[0].ended)
    return OpenedArchive(
        archive, key, tuple(bases), tuple(stored for stored in ours if stored.entry.name != wal.BASE), courses
    )


@dataclass(frozen=True)
class Pruned:
    """Result of a prune, or its plan with `dry_run`: base backups, WAL files, and their bytes.

    `retained` counts unneeded objects that are still locked, and tells until when.
    """

    dry_run: bool
    bases: int = 0
    files: int = 0
    bytes: int = 0
    retained: int = 0
    retained_until: datetime | None = None


def prune(
    ledger: Ledger,
    keyring: Keyring,
    site: Site,
    bucket: str,
    settings: PointInTime | None,
    now: datetime,
    live: Archive | None,
    *,
    dry_run: bool = True,
) -> Pruned:
    """Delete the objects that no moment of the window needs, in every archive at the site; `live` is the running
    server's archive.

    `settings` are those of point-in-time recovery, if it is on. Locked objects stay until their lock ends. A key that
    does not open does not stop the other archives. For a base backup, only the card is deleted here; the prune of
    restore points removes its data (`forget_bases`). Write evidence of kind `prune`. Raises SiteError, BackupError;
    KeyMissing, KeyWrong, KeyRotated or KeyDestroyed after all other archives.
    """
    faults = list[BackupError | IntegrityError]()
    listed = wal_store.listed(site, bucket)
    done = Pruned(dry_run)
    for archive in sorted({stored.entry.archive for stored in listed}):
        ours = [stored for stored in listed if stored.entry.archive == archive]
        try:
            key = keyring.open(encryption_scopes.parse(archive.scope), archive.serial)
            doomed = _doomed(open_archive(site, bucket, archive, key, ours), now, live=archive == live)
        except KeyDestroyed:
            doomed = ours  # nobody can read it
        except (KeyMissing, KeyWrong, KeyRotated, IntegrityError) as error:
            faults.append(error)
            continue
        for stored in doomed:
            locked = max(version.modified for version in stored.versions) + _lock(settings, archive)
            if locked > now:
                done = _retained(done, locked)
            elif dry_run:
                done = _deleted(done, stored)
            elif until := wal_store.delete(site, bucket, stored, now):
                done = _retained(done, until)
            else:
                done = _deleted(done, stored)
    if not dry_run and (done.bases or done.files):
        body = {"bases": done.bases, "files": done.files, "bytes": done.bytes, "retained": done.retained}
        ledger.append("prune", f"wal {site.name}", body)
    if faults:
        raise faults[0]
    return done


def _lock(settings: PointInTime | None, archive: Archive) -> timedelta:
    """Return the time for which the archiver locks its objects, if known. The site is not asked earlier."""
    return wal.kept_for(archive) + (settings.base_every if settings else timedelta(0))


def _retained(done: Pruned, until: datetime) -> Pruned:
    latest = max(until, done.retained_until or until)
    return replace(done, retained=done.retained + 1, retained_until=latest)


def _deleted(done: Pruned, stored: StoredEntry) -> Pruned:
    base = stored.entry.name == wal.BASE
    return replace(done, bases=done.bases + base, files=done.files + (not base), bytes=done.bytes + stored.bytes)


def _doomed(opened: OpenedArchive, now: datetime, *, live: bool) -> list[StoredEntry]:
    keep = wal.kept_for(opened.archive)
    everything = [*(stored for _, stored in opened.bases), *opened.files]
    if not live and all(now - version.modified > keep for stored in everything for version in stored.versions):
        return everything  # its server is not archived any more, and no moment of the window is left
    kept = recovery.kept_bases([base for base, _ in opened.bases], keep, now)
    unneeded = {segment.entry for segment in opened.segments if not recovery.is_needed(segment, kept)}
    gone = [stored for base, stored in opened.bases if base not in kept]
    return gone + [file for file in opened.files if file.entry in unneeded]


def forget_bases(site: Site, bucket: str, repository: Repository, key: ScopeKey, now: datetime) -> int:
    """Remove base backups without a card from a key's repository. Return their number.

    Called only by the prune of restore points, because it removes objects under the locks of restore points. Raises
    IntegrityError, SiteError, BackupError.
    """
    listed = wal_store.listed(site, bucket, wal.folder(key.scope.id, key.serial))
    named = {
        base.snapshot
        for archive in {stored.entry.archive for stored in listed}
        for base, _ in open_archive(site, bucket, archive, key, listed).bases
    }
    try:
        snapshots = repository.snapshots(tags=(base_backup.TAG,))
    except RepositoryMissing:
        return 0
    gone = [base.id for base in snapshots if base.id not in named and now - base.at > INTERRUPTED_AFTER]
    try:
        repository.forget(gone)
    except RepositoryBusy:  # a base backup is running: the next prune forgets the old ones
        return 0
    return len(gone)
