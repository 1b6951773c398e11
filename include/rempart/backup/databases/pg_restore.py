"""pg_restore, given a dump in chunks as it comes: its table of contents, a trial run, a restore into a database."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from rempart.backup.databases import postgresql
from rempart.backup.databases.postgresql import Tools, first_error, libpq_environment
from rempart.backup.databases.processes import Messages, ending, start
from rempart.errors import BackupError, DatabaseUnavailable, RempartError
from rempart.settings.config import Connection

LAST_SECONDS = 2 * 3600.0
"""Seconds that pg_restore may work after it has read all of a dump, for example on indexes."""
_PLAIN = {"LC_ALL": "C"}


class Feed:
    """A running pg_restore."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._stderr = process, Messages(process.stderr)

    def feed(self, chunk: bytes) -> None:
        """Raises BrokenPipeError when it has ended."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        self._process.stdin.write(chunk)
        self._process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Return its exit status and messages after the remaining work. Raises DatabaseUnavailable."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            status = self._process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired as cause:
            raise DatabaseUnavailable(
                f"run pg_restore: it read the whole dump but did not end within {LAST_SECONDS / 3600:.0f} h, so "
                "it was ended",
                "Find the cause of the wait in PostgreSQL's log, then run again.",
            ) from cause
        return status, "\n".join(self._stderr.end())


@contextmanager
def _running(
    tools: Tools, arguments: Sequence[str], environment: Mapping[str, str], stdout: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator[Feed]:
    command = tools.command("pg_restore", *arguments)
    with ending(start(command, environment, stdin=subprocess.PIPE, stdout=stdout)) as process:
        yield Feed(process)


def reading_through(tools: Tools) -> contextlib.AbstractContextManager[Feed]:
    """Run a pg_restore that reads a dump to its end without a database."""
    return _running(tools, ["--file=/dev/null"], _PLAIN)


class DumpContents:
    """`pg_restore --list`, which reads no more of a dump than its beginning."""

    def __init__(self, feed: Feed, out: IO[bytes], database: str) -> None:
        self._feed, self._out, self._database = feed, out, database
        self._reading = True

    def feed(self, chunk: bytes) -> bool:
        """Feed a chunk. Return whether more is needed."""
        if self._reading:
            try:
                self._feed.feed(chunk)
            except BrokenPipeError:
                self._reading = False
        return self._reading

    def entries(self) -> list[str]:
        """Return the table of contents, one line for each entry. Raises BackupError."""
        status, messages = self._feed.end()
        self._reading = False
        if status != 0:
            raise BackupError(
                f"read the dump of database '{self._database}': pg_restore cannot read it: {first_error(messages)}",
                "Use another restore point, or PostgreSQL's programs of the version that wrote the dump or later.",
            )
        self._out.seek(0)
        return [line for line in self._out.read().decode("utf-8", "replace").splitlines() if line[:1].isdigit()]


@contextmanager
def listing(tools: Tools, database: str) -> Iterator[DumpContents]:
    """Return the table of contents of a dump as it is fed."""
    # into a file, not a pipe: nobody reads while the beginning of the dump is written
    with tempfile.TemporaryFile() as out, _running(tools, ["--list"], _PLAIN, out) as feed:
        yield DumpContents(feed, out, database)


class DatabaseTarget:
    """Runs pg_restore into a database, in one transaction, as soon as the table of contents is known.

    The last chunk is held back, and without it pg_restore cannot end. So nothing is committed before `release`.
    """

    def __init__(self, contents: DumpContents, begin: Callable[[Sequence[str]], Feed]) -> None:
        self._contents, self._begin = contents, begin
        self._feed: Feed | None = None
        self._held = b""

    def feed(self, chunk: bytes) -> None:
        """Take a chunk. Raises BackupError before anything is restored, BrokenPipeError when pg_restore has ended."""
        if self._feed is not None:
            self._feed.feed(self._held)
            self._held = chunk
        else:
            self._held += chunk
            if not self._contents.feed(chunk):
                self._feed = self._begin(self._contents.entries())

    def release(self) -> None:
        """Give it the last chunk."""
        self._feed = self._feed or self._begin(self._contents.entries())
        self._feed.feed(self._held)

    def end(self) -> tuple[int, str]:
        """Return pg_restore's exit status and messages, if anything was fed."""
        return self._feed.end() if self._feed else (-1, "")


@contextmanager
def open_restore(tools: Tools, connection: Connection, database: str) -> Iterator[DatabaseTarget]:
    """Restore a dump of `database` into the connection's database."""
    with contextlib.ExitStack() as stack:

        def begin(entries: Sequence[str]) -> Feed:
            _need_extensions(database, connection, extensions(entries))
            chosen = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".toc", encoding="utf-8"))
            chosen.write("\n".join(restorable(entries)))
            chosen.flush()
            arguments = ["--no-owner", "--no-privileges", "--single-transaction", "--no-password"]
            arguments += [f"--use-list={chosen.name}", f"--dbname={connection.schema}"]
            return stack.enter_context(_running(tools, arguments, libpq_environment(connection)))

        yield DatabaseTarget(stack.enter_context(listing(tools, database)), begin)


def restorable(entries: Sequence[str]) -> list[str]:
    """Return the entries of a table of contents that a database owner can restore.

    A comment on an extension is restorable only by the extension's creator; the extension itself may exist already.
    """
    return [entry for entry in entries if " COMMENT - EXTENSION " not in entry]


def extensions(entries: Sequence[str]) -> tuple[str, ...]:
    """Return the extensions that a dump needs, from its table of contents."""
    found = (re.match(r"\d+; \d+ \d+ EXTENSION - (\S+)", entry) for entry in entries)
    return tuple(sorted(extension[1] for extension in found if extension))


def restore_failure(name: str, status: int, messages: str) -> RempartError:
    """Return why pg_restore failed, from its messages."""
    if re.search("connection to server|server closed the connection", messages):
        return DatabaseUnavailable(
            f"pg_restore into '{name}': PostgreSQL closed the connection, nothing was restored",
            "Check that PostgreSQL runs (`rempart status`), then run again.",
        )
    if matched := re.search(r'permission denied to create extension "([\w-]{1,63})"', messages):
        return BackupError(
            f"pg_restore into '{name}': its role may not create the extension {matched[1]}",
            f"Ask the server's administrator to run CREATE EXTENSION {matched[1]} in the empty database, then run "
            "again.",
        )
    return BackupError(
        f"pg_restore into '{name}' ended with status {status}, nothing was restored: {first_error(messages)}",
        "Check three things: the database is empty; PostgreSQL's log and disk show no error; its version is not "
        "older than the dump's.",
    )


def _need_extensions(name: str, connection: Connection, wanted: Sequence[str]) -> None:
    """Check that the server offers the extensions of a dump. Raises BackupError."""
    with postgresql.session(connection, "look for extensions") as opened:
        offered = {str(row[0]) for row in opened.execute("SELECT name FROM pg_available_extensions").fetchall()}
    if missing := [extension for extension in wanted if extension not in offered]:
        raise BackupError(
            f"restore database '{name}': the PostgreSQL server at {connection.host} lacks the extension "
            f"{', '.join(missing)}. Nothing was restored",
            "Install the extension on that server or enable it at the operator, or restore into a server that has it.",
        )
