"""Base backups: pg_basebackup's tar into a restic repository, read back file by file, and unpacked from it.

The tar holds no WAL: the archive does. Its last member is PostgreSQL's manifest, with a SHA-256 of every file, so what
`restic dump` gives back can be judged by `pg_verifybackup`, and by `unpack` while it passes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from rempart.backup.databases.postgresql import Tools, first_error, libpq_environment
from rempart.backup.databases.processes import Watch
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.restic_answers import ResticSnapshot
from rempart.backup.pitr.receiver import Server
from rempart.backup.pitr.wal import Base, position
from rempart.errors import BackupError, DatabaseUnavailable, IntegrityError, RempartError
from rempart.settings.config import Connection
from rempart.sites.digests import copied

FILE, MANIFEST = "base.tar", "backup_manifest"
TAG = "base"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BaseBackupFacts:
    """Facts of a base backup's manifest: the timeline, and the positions of start and consistency."""

    timeline: int
    start: int
    end: int
    files: int


def take(
    tools: Tools, repository: Repository, connection: Connection, server: Server, clock: Callable[[], datetime]
) -> tuple[Base, ResticSnapshot]:
    """Take a base backup of the connection's server, and read it back completely. `clock` returns the server's time.

    An incomplete base backup is removed. Raises BackupError, DatabaseUnavailable, IntegrityError, and the errors of the
    repository.
    """
    began = clock()
    options = ["--format=tar", "--wal-method=none", "--checkpoint=fast", "--manifest-checksums=SHA256", "--no-password"]
    command = tools.command("pg_basebackup", "--pgdata=-", *options)
    tags = (TAG, f"system={server.system}")
    stored = repository.backup_command(FILE, command, libpq_environment(connection), tags=tags, failed=_failure)
    ended = clock()
    try:
        found = read(repository, stored.id)
    except (BackupError, IntegrityError):
        repository.forget([stored.id], prune=False)
        raise
    base = Base(
        server.system,
        found.timeline,
        found.start,
        found.end,
        began,
        ended,
        stored.id,
        stored.bytes_processed,
        server.segment_bytes,
        server.version,
    )
    return base, stored


def read(repository: Repository, snapshot: str, folder: Path | None = None) -> BaseBackupFacts:
    """Read a base backup and compare every file with its manifest; with `folder`, unpack it there.

    Raises IntegrityError for an incomplete base backup, BackupError, SiteError.
    """
    where = f"base backup {snapshot[:8]} in {repository.where}"
    with repository.reading(snapshot, FILE) as (stream, watch):
        return unpack(_Moving(stream, watch), folder, where)


def unpack(stream: Any, folder: Path | None, where: str) -> BaseBackupFacts:
    """Unpack and check a base backup's tar from a stream."""
    digests: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                path = _safe(member.name, where)
                if member.isdir():
                    if folder:
                        (folder / path).mkdir(mode=0o700, parents=True, exist_ok=True)
                    continue
                body = tar.extractfile(member) if member.isfile() else None
                if body is None:
                    raise IntegrityError(
                        f"read {where}: {path} is neither file nor folder", "Take another base backup."
                    )
                if str(path) == MANIFEST:
                    text = body.read()
                    manifest = json.loads(text)
                    if folder:
                        (folder / MANIFEST).write_bytes(text)
                    continue
                with (folder / path).open("xb") if folder else nullcontext() as out:
                    digests[str(path)] = copied(body, out)
        while stream.read(_CHUNK):
            pass
    except (tarfile.TarError, ValueError) as cause:
        raise IntegrityError(
            f"read {where}: it is incomplete ({type(cause).__name__})", "Take another base backup."
        ) from cause
    return _judged(manifest, digests, where)


def _judged(manifest: dict[str, Any] | None, digests: dict[str, str], where: str) -> BaseBackupFacts:
    if manifest is None:
        raise IntegrityError(f"read {where}: it is incomplete, its manifest is missing", "Take another base backup.")
    for file in manifest["Files"]:
        path = file.get("Path") or bytes.fromhex(file["Encoded-Path"]).decode("utf-8", "surrogateescape")
        if digests.get(path) != file["Checksum"]:
            why = "is missing" if path not in digests else "differs from the recorded file"
            raise IntegrityError(f"{where}: {path} {why}", "Take another base backup.")
    ranges = manifest["WAL-Ranges"]
    first, last = ranges[0], ranges[-1]
    return BaseBackupFacts(
        int(first["Timeline"]), position(first["Start-LSN"]), position(last["End-LSN"]), len(digests)
    )


def _safe(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise IntegrityError(
            f"read {where}: it names a file outside its folder", "Do not use it, and find out who made it."
        )
    return path


class _Moving:
    """A stream whose every chunk counts as progress."""

    def __init__(self, stream: IO[bytes], watch: Watch) -> None:
        self._stream, self._watch = stream, watch

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._watch.progress()
        return chunk


def _failure(stderr: str) -> RempartError:
    kind = DatabaseUnavailable if "connection to server" in stderr else BackupError
    return kind(
        f"pg_basebackup failed: {first_error(stderr)}",
        "Check that the role may replicate (REPLICATION, and a line in pg_hba.conf), and that the server has "
        "only the default tablespace.",
    )
