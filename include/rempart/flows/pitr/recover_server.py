"""Recover a folder to a moment with a temporary PostgreSQL server that only this machine's owner can reach.

Nothing in the folder is edited. All settings, including `pg_hba.conf`, exist only for the recovery; afterwards the
folder starts with its own.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rempart.backup.databases import postgresql, processes
from rempart.backup.databases.postgresql import Tools
from rempart.deployment.setup import launch, privileges
from rempart.errors import BackupError, DatabaseUnavailable
from rempart.settings.config import DATABASES, Connection

logger = logging.getLogger(__name__)

READER = "backup"
"""The role that inspects the recovered data: it may read every database, and nothing else."""
PORT = 5432
"""Names the socket's file; no port is opened."""
STOP_SECONDS = 120.0
STILL_SECONDS = 1800.0
"""Seconds without any progress after which a recovery is given up. PostgreSQL logs how far it is every 10 s."""
_SETTINGS = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
"""Settings that must not be lower than on the original server: PostgreSQL's name, and pg_controldata's."""


@dataclass(frozen=True)
class Recovered:
    """Result of a recovery: last transaction, new timeline, tables and rows of each platform database."""

    last_commit: datetime | None
    timeline: int
    rows: Mapping[str, tuple[int, int]]
    seconds: float


_EVERY = 5.0
"""Seconds between two looks for progress."""


@dataclass
class Stillness:
    """How long a sign of progress has been the same; it is looked at every few seconds, because that costs time."""

    limit: float
    _sign: object = None
    _since: float = 0.0
    _looked: float = -math.inf

    def is_over(self, now: float, sign: Callable[[], object]) -> bool:
        """Return whether the sign has been the same for more than `limit` seconds. `now`: seconds of a clock."""
        if now - self._looked < min(_EVERY, self.limit):
            return False
        self._looked = now
        if (seen := sign()) != self._sign:
            self._sign, self._since = seen, now
        return now - self._since > self.limit


def verify(tools: Tools, folder: Path) -> None:
    """Verify an unpacked base backup with pg_verifybackup. Raises BackupError."""
    done = _run([tools.folder / "pg_verifybackup", "--no-parse-wal", "--quiet", folder])
    if done.returncode:
        raise BackupError(
            f"pg_verifybackup of {folder}: {postgresql.first_error(done.stderr)}",
            "Restore into another folder. If it fails again, choose a moment that an earlier base backup covers.",
        )


def recover(tools: Tools, folder: Path, until: datetime | None, timeline: int | None) -> Recovered:
    """Recover a folder with a complete pg_wal to a moment (None: the end). The server ends promoted and stopped.

    `timeline` None means the timeline of the base backup, which needs no history. Raises BackupError,
    DatabaseUnavailable.
    """
    (folder / "recovery.signal").touch()
    target = {"recovery_target_timeline": str(timeline or "current"), "recovery_target_action": "promote"}
    if until:
        target["recovery_target_time"] = until.astimezone(UTC).isoformat(sep=" ")
    began = time.monotonic()
    with _server(tools, folder, target) as (process, socket, log):
        _promoted(process, socket, log)
        seconds = time.monotonic() - began
        return _looked(socket, seconds)


@contextmanager
def _server(
    tools: Tools, folder: Path, target: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """Start a server on the folder, reachable only through a private socket."""
    user = privileges.database_user()
    own = Path(tempfile.mkdtemp(prefix="rempart-recover-"))
    try:
        (own / "postgresql.conf").write_text("", encoding="utf-8")
        (own / "pg_hba.conf").write_text(f"local all {READER} trust\n", encoding="utf-8")
        (own / "pg_ident.conf").write_text("", encoding="utf-8")
        settings = {
            "config_file": str(own / "postgresql.conf"),
            "hba_file": str(own / "pg_hba.conf"),
            "ident_file": str(own / "pg_ident.conf"),
            "listen_addresses": "",
            "unix_socket_directories": str(own),
            "port": str(PORT),
            "archive_mode": "off",
            "wal_level": "replica",
            "restore_command": "false",  # all that is needed lies in pg_wal, and nothing else is to be found
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            **_needed(tools, folder),
            **target,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        command = [str(tools.folder / "postgres"), "-D", str(folder), *options]
        if user:
            for path in (own, folder, *own.iterdir(), *folder.rglob("*")):
                os.lchown(path, user.uid, user.gid)
            command = privileges.command_as(user, command, (folder, *_programs(tools)))
        folder.chmod(0o700)
        with (own / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=own, stdout=log, stderr=log, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                start_new_session=True,
            )  # fmt: skip
        with processes.ending(process):
            yield process, own, own / "log"
            process.terminate() if process.poll() is None else None
            process.wait(STOP_SECONDS)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _programs(tools: Tools) -> tuple[Path, ...]:
    """Return the files that PostgreSQL's user must be able to read."""
    embedded = launch.database_files()
    return embedded if embedded[0].parent == tools.folder else (tools.folder / "postgres",)


def _needed(tools: Tools, folder: Path) -> dict[str, str]:
    done = _run([tools.folder / "pg_controldata", folder])
    found = dict(re.findall(r"^(.+?):\s+(.*)$", done.stdout, re.M))
    try:
        return {name: found[theirs] for name, theirs in _SETTINGS.items()}
    except KeyError as cause:
        raise BackupError(
            f"pg_controldata of {folder} does not tell {cause}: {postgresql.first_error(done.stderr)}",
            "Check that PostgreSQL's programs have the server's version, and check the folder's owner.",
        ) from cause


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _promoted(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Wait until the recovery has ended; every few seconds log how far it is.

    Raises BackupError if the server ends, or makes no progress for `STILL_SECONDS`: neither its log nor the last
    replayed record changes.
    """
    told, stillness, replayed = time.monotonic(), Stillness(STILL_SECONDS), ""
    while True:
        if process.poll() is not None:
            lines = [
                line for line in log.read_text(errors="replace").splitlines() if "FATAL" in line or "PANIC" in line
            ]
            message = lines[0].partition("] ")[2] if lines else "no message"
            raise BackupError(
                f"PostgreSQL ended the recovery: {postgresql.first_error(f'error: {message}')[:200]}",
                "Find the message in docs/runbooks/restore-to-a-second.md.",
            )
        if stillness.is_over(time.monotonic(), partial(_sign, log, replayed)):
            raise BackupError(
                f"PostgreSQL stopped in the recovery: no progress for {STILL_SECONDS:.0f} s",
                "Check the disk of this machine (`dmesg`, free space), then run the recovery again.",
            )
        try:
            with postgresql.session(_at(socket, "postgres"), "check whether the recovery has ended") as opened:
                row = opened.execute(
                    "SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp(), pg_last_wal_replay_lsn()::text"
                ).fetchone()
            if row and not row[0]:
                return
            replayed = str(row[2]) if row else ""
            if row and row[1] and time.monotonic() - told > 5:
                told = time.monotonic()
                logger.info("recovered up to %s", row[1].astimezone(UTC).isoformat(" ", "seconds"))
        except DatabaseUnavailable:
            pass  # not consistent yet
        time.sleep(0.1)


def _sign(log: Path, replayed: str) -> tuple[int, str]:
    """Return what changes with progress: the lines of the log, except refused connections, and what was replayed."""
    with log.open(errors="replace") as lines:
        return sum("FATAL" not in line for line in lines), replayed


def _at(socket: Path, database: str) -> Connection:
    return Connection("recovered server", "postgres", str(socket), PORT, READER, "", database)


def _looked(socket: Path, seconds: float) -> Recovered:
    rows: dict[str, tuple[int, int]] = {}
    with postgresql.session(_at(socket, "postgres"), "read the recovered data") as opened:
        row = opened.execute(
            "SELECT pg_last_xact_replay_timestamp(), (SELECT timeline_id FROM pg_control_checkpoint()),"
            " (SELECT array_agg(datname::text) FROM pg_database WHERE datallowconn AND NOT datistemplate)"
        ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM gives one row
    for name in (database for database in (*DATABASES, "postgres") if database in row[2]):
        with postgresql.session(_at(socket, name), "count the rows of a recovered database") as opened:
            counts = postgresql.row_counts(opened)
        if counts or name != "postgres":
            rows[name] = (len(counts), sum(counts.values()))
    last = row[0].astimezone(UTC) if row[0] else None
    return Recovered(last, int(row[1]), rows, seconds)
