"""Archive WAL: receive it, lock each closed segment at the backup site, take base backups, prune.

The archiver runs outside Airflow and needs no database once it has its key, so received WAL leaves this machine even if
PostgreSQL is down. It may be killed at any moment: a segment is deleted here only after it was read back at the site,
and the server's slot keeps unreceived WAL.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from rempart.backup.databases import processes
from rempart.backup.databases.postgresql import Tools, find_tools
from rempart.backup.pitr import receiver, recovery, wal, wal_store
from rempart.backup.pitr.receiver import Server
from rempart.backup.pitr.wal import Base
from rempart.backup.watch.heartbeat import WAL
from rempart.errors import BackupError, RempartError, SiteUnavailable
from rempart.flows.pitr import point_in_time
from rempart.flows.pitr.point_in_time import ArchiveTarget
from rempart.flows.shared import time_limit
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.keys import open_keyring, warn_of_escrow
from rempart.flows.shared.platform import Platform

logger = logging.getLogger(__name__)

MOST_WAITING = 64
"""Limit of segments that wait here for the site. Beyond it the server keeps the rest, up to its own limit."""
LOOK_SECONDS = 1.0
"""Seconds between two checks for closed segments."""
AGAIN_SECONDS = 5.0
"""Seconds to wait after an error."""
PRESENT_SECONDS = 5.0
"""Seconds for which segments wait for the answer where they go now, once they have a destination."""
STOP_SECONDS = 10.0
"""Seconds to wait at the end for a running base backup. An interrupted one leaves nothing valid."""
BEAT = timedelta(minutes=5)
UPKEEP = timedelta(hours=1)
"""Time between two prunes, and between two attempts of a failed base backup."""


@dataclass
class Archiver:
    """Archives one server until `stop` is set. Segments wait in `folder`, where no other process may write."""

    platform: Platform
    folder: Path
    stop: threading.Event
    tools: Tools = field(default_factory=find_tools)
    marks: dict[str, str] = field(default_factory=dict)
    _target: ArchiveTarget | None = None
    _system: str = ""
    _segment_bytes: int = 16 << 20
    _after: int | None = None  # number of the segment that continues the archive at the site; None before the first
    _timeline: int = 0  # its timeline; 0: not known
    _bases: list[Base] = field(default_factory=list)
    _base: threading.Thread | None = None
    _asked: Future[ArchiveTarget] | None = None
    _told: str = ""
    _next: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Archive WAL until asked to stop. A failure is logged and retried. Raises ConfigError if archiving is off."""
        point_in_time.settings_of(self.platform.config)
        with self._alone():
            while not self.stop.is_set():
                try:
                    self._archive()
                except RempartError as error:
                    self._tell(error)
                self._ship()
                self.stop.wait(AGAIN_SECONDS)
            if self._base:
                self._base.join(STOP_SECONDS)

    def _archive(self) -> None:
        """Archive WAL from one connection to the server until the connection or the archiver ends."""
        every = point_in_time.settings_of(self.platform.config).wal_every
        connection = point_in_time.server_of(self.platform)
        server = receiver.look(connection)
        self._open(server)
        if receiver.ensure_slot(self.tools, connection, server) and self._bases:
            logger.warning(
                "the server did not keep its WAL for this archiver: the archive may have a gap; a base backup follows"
            )
            self._bases.clear()
        waiting = self._waiting(server.system)
        for half in waiting.glob("*.partial"):
            if wal.timeline_of(half.name) != server.timeline:
                half.unlink()  # from a timeline that the server left: the file will never be complete
        with self._receiving(waiting) as process:
            while not self.stop.wait(LOOK_SECONDS):
                self._ship()
                if process.poll() is not None or len(self._closed()) > MOST_WAITING:
                    return
                if self._due("switch", every):
                    receiver.close_segment(connection)
                    server = receiver.look(connection)
                    self._open(server)
                self._upkeep(server)

    @contextmanager
    def _receiving(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        if len(self._closed()) > MOST_WAITING:
            raise BackupError(
                f"{MOST_WAITING} WAL segments wait in {folder} for the site: no more are received until they leave",
                "Make the backup site answer. Until then the server keeps its WAL, up to max_slot_wal_keep_size.",
            )
        connection = point_in_time.server_of(self.platform)
        started = receiver.receive(self.tools, connection, folder, self.marks)
        with processes.ending(started) as process:
            stderr = processes.Messages(process.stderr)
            yield process
            ended = process.poll() is not None
        if ended and not self.stop.is_set():
            raise receiver.failure("\n".join(stderr.end()))

    def _open(self, server: Server) -> None:
        """Open the destination and list its base backups, again whenever either changed.

        While a site does not answer nothing changes: segments go to the known destination, or wait here.
        """
        before = self._target if self._system == server.system else None
        if self._asked is None:
            self._asked = time_limit.asking("archive", partial(point_in_time.open_target, self.platform))
        try:
            target = self._asked.result(PRESENT_SECONDS if before else None)
        except TimeoutError:  # asked on beside the archiver: another site, which holds the keys too, may be silent
            return
        except SiteUnavailable as error:
            if before is None:
                raise
            self._tell(error)
            return
        finally:
            if self._asked.done():
                self._asked = None
        if before and (before.site.name, before.key.serial) == (target.site.name, target.key.serial):
            return
        if before is None:
            warn_of_escrow(self.platform.config)
        self._target, self._system = target, server.system
        self._bases, self._after, self._timeline = [], None, 0  # of another site, or not known if the list fails
        self._next.pop("base", None)
        archive = target.archive(server.system)
        listed = wal_store.listed(target.site, target.bucket, archive.prefix)
        opened = point_in_time.open_archive(target.site, target.bucket, archive, target.key, listed)
        self._bases = [base for base, _ in opened.bases]
        self._segment_bytes = server.segment_bytes
        self._after = recovery.continues_at(self._bases, opened.segments)
        self._timeline = max(self._bases, key=lambda base: base.ended).timeline if self._bases else 0
        logger.info(
            "archiving WAL to site '%s' under %s; it holds %d base backups",
            target.site.name,
            archive.prefix,
            len(self._bases),
        )

    def _waiting(self, system: str) -> Path:
        folder = self.folder / system
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _closed(self) -> list[Path]:
        """Return complete waiting files, oldest first, histories before segments."""
        if not self._system:
            return []
        found = [path for path in self._waiting(self._system).iterdir() if wal.is_archived(path.name)]
        return sorted(found, key=lambda path: (wal.is_segment(path.name), path.name[8:], path.name))

    def _ship(self) -> None:
        """Store complete files at the site and delete them here. Log a failure and try again after a moment."""
        if (target := self._target) is None or time.monotonic() < self._next.get("ship", 0.0):
            return
        try:
            for file in self._closed():
                self._store(target, file)
                file.unlink()
                self._told = ""
        except RempartError as error:
            self._tell(error)
            self._next["ship"] = time.monotonic() + AGAIN_SECONDS

    def _store(self, target: ArchiveTarget, file: Path) -> None:
        ended = receiver.last_commit(self.tools, file) if wal.is_segment(file.name) else None
        archive, until = target.archive(self._system), target.until(self.platform.clock())
        with file.open("rb") as stream:
            wal_store.store(target.site, target.bucket, target.key, archive, file.name, ended, stream, until)
        if wal.is_segment(file.name):
            self._continue(wal.number_of(file.name, self._segment_bytes), wal.timeline_of(file.name))

    def _continue(self, number: int, timeline: int) -> None:
        """Note a stored segment. If segments before it went to another site, let a base backup follow at once.

        A new timeline, such as after a recovery, begins at an earlier number and gets a base backup of its own.
        """
        if timeline != self._timeline:
            self._after, self._timeline = None, timeline
        if self._bases and self._after is not None and number > self._after:
            logger.warning(
                "the archive has a gap of %d segments before segment number %d: they were stored at another site, such "
                "as during a failover, or are lost; a base backup follows",
                number - self._after,
                number,
            )
            self._bases.clear()
            self._next.pop("base", None)
        self._after = max(number + 1, self._after or 0)

    def _upkeep(self, server: Server) -> None:
        target = self._target
        assert target is not None  # noqa: S101 - it was opened before
        settings = target.settings
        busy = self._busy()
        due = recovery.base_is_due(self._bases, server.timeline, settings.base_every, self.platform.clock())
        if due and not busy and self._due("base", UPKEEP if self._base else timedelta(0)):
            self._base = threading.Thread(target=self._take_base, args=(target, server), daemon=True)
            self._base.start()
        elif not busy and self._due("prune", UPKEEP):
            point_in_time.prune(
                self.platform.ledger,
                open_keyring(self.platform),
                target.site,
                target.bucket,
                settings,
                self.platform.clock(),
                target.archive(server.system),
                dry_run=False,
            )
        if self._due("beat", BEAT):
            self._beat()

    def _busy(self) -> bool:
        return self._base is not None and self._base.is_alive()

    def _take_base(self, target: ArchiveTarget, server: Server) -> None:
        try:
            base = point_in_time.take_base(target, server, self.tools)
            if target is self._target:  # else WAL goes to another site by now, which needs a base backup of its own
                self._bases.append(base)
        except RempartError as error:
            logger.warning("no base backup was taken: %s", error)

    def _beat(self) -> None:
        server, now, closed = (
            receiver.look(point_in_time.server_of(self.platform)),
            self.platform.clock(),
            self._closed(),
        )
        oldest = datetime.fromtimestamp(closed[0].stat().st_mtime, UTC) if closed else now
        newest = max((base.ended for base in self._bases), default=None)
        facts = {
            "ok": server.active and (newest is not None or self._busy()),
            "lag_seconds": round(max((now - oldest).total_seconds(), 0.0), 1),
            "waiting": len(closed),
            "kept_by_server": server.waiting,
            "base": newest.isoformat() if newest else None,
        }
        beat(self.platform, WAL, facts)

    def _due(self, what: str, every: timedelta) -> bool:
        """Return whether an action is due again; True the first time."""
        now = time.monotonic()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every.total_seconds()
        return True

    def _tell(self, error: RempartError) -> None:
        """Log what failed, once while it stays the same."""
        if str(error) != self._told:
            self._told = str(error)
            logger.warning("%s", error)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as cause:
                raise BackupError(
                    f"Another archiver works in {self.folder}",
                    "Run one archiver for each server, or choose another folder.",
                ) from cause
            yield
        finally:
            os.close(handle)
