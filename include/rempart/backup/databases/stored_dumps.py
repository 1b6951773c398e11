"""Store database dumps in a restic repository, verify them, and restore them.

A dump is PostgreSQL's uncompressed custom format, so that restic finds unchanged parts. `restic dump` and `pg_restore`
are enough to read it. Nothing is on disk in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from rempart.backup.databases import pg_restore, postgresql
from rempart.backup.databases.postgresql import Tools, first_error, libpq_environment
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.restic_answers import Content
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.errors import BackupError, IntegrityError, RempartError
from rempart.settings.config import Connection


@dataclass(frozen=True)
class StoredDump:
    """A dump in a repository: its snapshot, the SHA-256 and size of what comes out of it.

    `bytes_added` is by how much the repository grew.
    """

    snapshot: str
    sha256: str
    bytes: int
    bytes_added: int
    seconds: float


def file_name(database: str) -> str:
    """Return the name of a database's dump within its snapshot."""
    return f"{database}.dump"


def prefix_of(scope: EncryptionScope, serial: str) -> str:
    """Return the prefix of a scope's repository in its bucket.

    A new key has a new password, and therefore a new repository.
    """
    return f"restic/{scope.id}/{serial}"


def dump_into(
    tools: Tools,
    repository: Repository,
    connection: Connection,
    snapshot: str,
    tables_expected: int,
    *,
    tags: Sequence[str] = (),
) -> StoredDump:
    """Dump the connection's database at PostgreSQL's `snapshot` into the repository, and read it back completely.

    A failed dump leaves no snapshot; an incomplete dump is removed. Raises BackupError, DatabaseUnavailable, and the
    errors of the repository.
    """
    name = connection.schema
    command = tools.command(
        "pg_dump",
        "--format=custom",
        "--compress=0",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={postgresql.LOCK_WAIT_SECONDS}s",
        "--no-password",
    )
    made = repository.backup_command(
        file_name(name),
        command,
        libpq_environment(connection),
        tags=tags,
        failed=lambda messages: postgresql.dump_failure(name, messages),
    )
    try:
        content = verify(tools, repository, made.id, name, tables_expected)
    except RempartError:
        with contextlib.suppress(RempartError):  # no manifest will name it, so retention removes it if this cannot
            repository.forget([made.id], prune=False)
        raise
    return StoredDump(made.id, content.sha256, content.bytes, made.bytes_added, made.seconds)


def verify(tools: Tools, repository: Repository, snapshot: str, database: str, tables_expected: int) -> Content:
    """Read a stored dump to its end with pg_restore, and count its tables. Raises BackupError if it is incomplete.

    The table of contents comes before the data, so it alone does not reveal an interrupted dump.
    """
    with pg_restore.listing(tools, database) as contents, pg_restore.reading_through(tools) as whole:

        def take(chunk: bytes) -> None:
            contents.feed(chunk)
            whole.feed(chunk)

        content = None
        with contextlib.suppress(BrokenPipeError):  # pg_restore gave up, and says why
            content = repository.dump(snapshot, file_name(database), take)
        status, messages = whole.end()
        found = sum(" TABLE DATA " in entry for entry in contents.entries()) if status == 0 else 0
    if content is None or status != 0 or found < tables_expected:
        raise BackupError(
            f"read back the dump of database '{database}' from {repository.where}: {found} of {tables_expected} "
            f"tables (pg_restore ended with status {status}: {first_error(messages)})",
            "Check the disk, then run again. No restore point was written; the previous one stays the newest.",
        )
    return content


def restore_from(
    tools: Tools,
    repository: Repository,
    snapshot: str,
    connection: Connection,
    *,
    database: str | None = None,
    sha256: str | None = None,
) -> Content:
    """Restore a stored dump of `database` (default: the same name) into the connection's empty database.

    One transaction, committed with `sha256` only if the dump matches. Everything then belongs to the connection's role,
    which only needs to own the database: owners and rights are left out, because their roles may be missing. Raises
    BackupError (also for a missing extension), IntegrityError, and the errors of the repository.
    """
    name = database or connection.schema
    with pg_restore.open_restore(tools, connection, name) as target:
        content = None
        with contextlib.suppress(BrokenPipeError):  # pg_restore gave up, and says why
            content = repository.dump(snapshot, file_name(name), target.feed)
            if sha256 is not None and content.sha256 != sha256:
                raise IntegrityError(
                    f"read the dump of database '{name}' in {repository.where}: its SHA-256 is "
                    f"{content.sha256[:12]}…, but {sha256[:12]}… is recorded; nothing was restored",
                    "Do not use this restore point. Choose another, and find out what altered it.",
                )
            target.release()
        status, messages = target.end()
    if content is None or status != 0:
        raise pg_restore.restore_failure(connection.schema, status, messages)
    return content
