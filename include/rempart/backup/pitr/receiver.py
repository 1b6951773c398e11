"""Receive WAL from a server: its state, its replication slot, and pg_receivewal.

The slot makes the server keep unreceived WAL up to `max_slot_wal_keep_size`. Beyond it the server drops the slot
instead of filling its disk, and the archive has a gap.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rempart.backup.databases import processes
from rempart.backup.databases.postgresql import Tools, first_error, libpq_environment, session
from rempart.errors import BackupError, DatabaseUnavailable
from rempart.settings.config import WAL_ARCHIVE, Connection

SLOT = "rempart_wal"
_COMMIT = re.compile(rb"desc: (?:COMMIT|ABORT)\S* .*?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC")
_SERVER = """
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT timeline_id FROM pg_control_checkpoint()),
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
       current_setting('server_version'), clock_timestamp(),
       (SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s),
       (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
        FROM pg_replication_slots WHERE slot_name = %s),
       coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = %s), false)
"""


@dataclass(frozen=True)
class Server:
    """A running server: its system identifier, timeline and clock.

    `slot`: the server's state of our slot (`reserved`, `extended`, `unreserved`, `lost`), or None; `waiting`: bytes of
    WAL kept for it; `active`: whether a receiver is connected.
    """

    system: str
    timeline: int
    segment_bytes: int
    version: str
    now: datetime
    slot: str | None
    waiting: int
    active: bool


def look(connection: Connection) -> Server:
    """Return the server's state. Raises DatabaseUnavailable, BackupError."""
    with session(connection, "read the WAL state") as opened:
        row = opened.execute(_SERVER, [SLOT, SLOT, SLOT]).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM gives one row
    system, timeline, segment_bytes, version, now, slot, waiting, active = row
    return Server(
        str(system),
        int(timeline),
        int(segment_bytes),
        str(version),
        now.astimezone(UTC),
        slot,
        int(waiting or 0),
        active,
    )


def ensure_slot(tools: Tools, connection: Connection, server: Server) -> bool:
    """Ensure that a slot keeps unreceived WAL. Return whether earlier WAL may be missing. Raises the errors of `look`.

    A slot without a receiver so far keeps nothing, and counts as missing.
    """
    if server.slot not in (None, "lost"):
        return False
    if server.slot == "lost":
        _run(tools, connection, "--drop-slot")
    _run(tools, connection, "--create-slot", "--if-not-exists")
    return True


def _run(tools: Tools, connection: Connection, *options: str) -> None:
    command = tools.command("pg_receivewal", f"--slot={SLOT}", "--no-password", *options)
    try:
        done = subprocess.run(
            command, env=libpq_environment(connection), capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise DatabaseUnavailable(
            f"pg_receivewal {options[0]}: {type(cause).__name__}",
            "Check that PostgreSQL runs and its programs are installed.",
        ) from cause
    if done.returncode:
        raise failure(done.stderr)


def failure(stderr: str) -> BackupError | DatabaseUnavailable:
    """Return why pg_receivewal ended, from its messages."""
    kind = DatabaseUnavailable if "connection to server" in stderr else BackupError
    return kind(
        f"pg_receivewal ended: {first_error(stderr)}",
        f"Check that role {WAL_ARCHIVE} may replicate (REPLICATION, and a line in pg_hba.conf), and that only one "
        "archiver runs.",
    )


def receive(
    tools: Tools, connection: Connection, folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start to receive WAL into a folder, from where the last run ended; it ends when the server does.

    Beside what it needs to connect it sees `environment`. Raises BackupError.
    """
    command = tools.command(
        "pg_receivewal",
        f"--directory={folder}",
        f"--slot={SLOT}",
        "--no-loop",
        "--no-password",
    )
    return processes.start(command, {**environment, **libpq_environment(connection)}, stdout=subprocess.DEVNULL)


def close_segment(connection: Connection) -> None:
    """Close the server's current segment, so that it can be archived; do nothing without new WAL.

    Raises DatabaseUnavailable, BackupError.
    """
    with session(connection, "close a WAL segment") as opened:
        opened.execute("SELECT pg_switch_wal()")


def last_commit(tools: Tools, file: Path) -> datetime | None:
    """Return the end of the last transaction in a segment, or None. Raises BackupError."""
    command = [str(tools.folder / "pg_waldump"), "--rmgr=Transaction", str(file)]
    latest: bytes | None = None
    with processes.ending(processes.start(command, {"TZ": "UTC", "LC_ALL": "C"})) as process:
        stderr = processes.Messages(process.stderr)
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in process.stdout:
            if matched := _COMMIT.search(line):
                latest = max(latest or b"", matched[1])
        messages, status = "\n".join(stderr.end()), process.wait()
    if status and "could not find a valid record" not in messages:  # one record may fill a whole segment
        raise BackupError(
            f"check {file.name} with pg_waldump: {first_error(messages)}",
            "The file is kept and checked again. Check that PostgreSQL's programs have the server's version.",
        )
    return datetime.fromisoformat(latest.decode()).replace(tzinfo=UTC) if latest else None
