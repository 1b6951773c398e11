"""The server whose WAL is archived: what it says of itself, its replication slot, and pg_receivewal.

The slot makes the server keep what was not received yet, up to `max_slot_wal_keep_size`: beyond it the server gives the
slot up rather than fill its disk, and the archive has a gap.
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
    """A running server: its system identifier, its timeline and its clock.

    `slot`: what the server thinks of our slot (`reserved`, `extended`, `unreserved`, `lost`), None if there is none;
    `waiting`: how many bytes of WAL it keeps for it; `active`: whether somebody receives them now.
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
    """What the server says. Raises DatabaseUnavailable, BackupError."""
    with session(connection, "look at the WAL") as opened:
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
    """Have a slot that keeps what comes once it was received from; whether WAL may be missing before. Raises as `look`.

    One that nobody ever received from keeps nothing, and counts as none.
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
            "Check that PostgreSQL runs and its programs are there.",
        ) from cause
    if done.returncode:
        raise failure(done.stderr)


def failure(stderr: str) -> BackupError | DatabaseUnavailable:
    """Why pg_receivewal ended, by what it wrote."""
    kind = DatabaseUnavailable if "connection to server" in stderr else BackupError
    return kind(
        f"pg_receivewal ended: {first_error(stderr)}",
        f"Check that role {WAL_ARCHIVE} may replicate (REPLICATION, and a line for it in pg_hba.conf), and that one "
        "archiver runs and not two.",
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
    """Have the server begin a new segment, so that what it wrote can be archived; nothing if it wrote nothing since.

    Raises DatabaseUnavailable, BackupError.
    """
    with session(connection, "close a WAL segment") as opened:
        opened.execute("SELECT pg_switch_wal()")


def last_commit(tools: Tools, file: Path) -> datetime | None:
    """When the last transaction in a segment ended; None if none did. Raises BackupError."""
    command = [str(tools.folder / "pg_waldump"), "--rmgr=Transaction", str(file)]
    latest: bytes | None = None
    with processes.ending(processes.start(command, {"TZ": "UTC", "LC_ALL": "C"})) as process:
        said = processes.Messages(process.stderr)
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in process.stdout:
            if found := _COMMIT.search(line):
                latest = max(latest or b"", found[1])
        messages, status = "\n".join(said.end()), process.wait()
    if status and "could not find a valid record" not in messages:  # one record may fill a whole segment
        raise BackupError(
            f"pg_waldump of {file.name}: {first_error(messages)}",
            "It is kept and tried again. Are PostgreSQL's programs those of the server's version?",
        )
    return datetime.fromisoformat(latest.decode()).replace(tzinfo=UTC) if latest else None
