"""Parse restic's answers: its JSON strictly, its exit status as an error without unfiltered text."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.backup.databases.processes import ProcessResult
from rempart.errors import (
    BackupError,
    RempartError,
    RepositoryBusy,
    RepositoryDamaged,
    RepositoryMissing,
    RepositoryRefused,
    SiteError,
    SiteUnavailable,
)

_COMMAND_FAILED = re.compile(r"command failed: (?:exit status|signal)")
_AWAY = re.compile(
    r"connection refused|connection reset|no such host|timeout|deadline|unexpected EOF|server misbehaving|"
    r"network is unreachable|no route to host|SlowDown|ServiceUnavailable|InternalError|\b50[0234]\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"access.?denied|access key|signature|forbidden|x509|certificate|bucket does not exist",
    re.IGNORECASE,
)
_DAMAGED = re.compile(
    r"repository contains errors|invalid data returned|ciphertext verification|wrong hash|hash mismatch|"
    r"(?:failed|unable) to load|error loading|load.*(?:does|did) not (?:exist|match)",
    re.IGNORECASE,
)
_ENDED_EARLY = "unable to save snapshot: no result"
"""Restic may end a failed backup with these words. The reason is then in a line before."""
_FULL = re.compile(r"no space left|file too large|disk quota", re.IGNORECASE)


@dataclass(frozen=True)
class ResticSnapshot:
    """One file in a repository at one moment.

    `bytes_added` is the growth of the repository after compression and encryption; `bytes_processed` is the file's
    size.
    """

    id: str
    at: datetime
    bytes_added: int
    bytes_processed: int
    seconds: float
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """Content read from a repository: SHA-256 (hex) and size in bytes."""

    sha256: str
    bytes: int


def version(answer: str) -> tuple[int, ...]:
    """Return restic's version from the first line of `restic version`; empty if missing."""
    matched = re.match(r"restic (\d+)\.(\d+)\.(\d+)", answer)
    return tuple(int(part) for part in matched.groups()) if matched else ()


def _message(messages: str) -> str:
    """Return restic's last error that has a reason, unchanged."""
    failure_text = "no message"
    for line in messages.splitlines():
        text = line
        with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
            plain = json.loads(line)
            text = str(plain.get("message") or plain["error"]["message"])
        if failure_text == "no message" or not text.endswith(_ENDED_EARLY):
            failure_text = text.strip() or failure_text
    return failure_text


def plain_error(messages: str) -> str:
    """Return the first line of restic's last error without quotes and URLs, at most 200 characters."""
    failure_text = re.sub(r'"[^"]*"?|\'[^\']*\'?', "…", _message(messages).splitlines()[0])
    return re.sub(r"\b\w+:/\S*|\bs3:\S*", "…", failure_text)[:200]


def command_failed(messages: str) -> bool:
    """Return whether the command whose output restic stored has failed."""
    return _COMMAND_FAILED.search(_message(messages)) is not None


def read_summary(lines: Iterable[str]) -> ResticSnapshot:
    """Return the snapshot made by `restic backup --json`. Raises BackupError for any other answer."""
    try:
        plain = [json.loads(line) for line in lines if line.strip()]
        (found,) = [message for message in plain if message["message_type"] == "summary"]
        return _snapshot(str(found["snapshot_id"]), found)
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise _not_understood("backup") from cause


def read_snapshots(text: str) -> tuple[ResticSnapshot, ...]:
    """Return the snapshots of `restic snapshots --json`, oldest first. Raises BackupError for any other answer."""
    try:
        listed = json.loads(text)
        if not isinstance(listed, list):
            raise TypeError
        snapshots = [
            _snapshot(
                str(snapshot["id"]),
                snapshot["summary"],
                [str(p).lstrip("/") for p in snapshot["paths"]],
                map(str, snapshot.get("tags") or ()),
            )
            for snapshot in listed
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise _not_understood("snapshots") from cause
    return tuple(sorted(snapshots, key=lambda snapshot: (snapshot.at, snapshot.id)))


def _snapshot(
    name: str, plain: Mapping[str, Any], names: Iterable[str] = (), tags: Iterable[str] = ()
) -> ResticSnapshot:
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ValueError("the snapshot id is missing")
    began, ended = (datetime.fromisoformat(str(plain[key])) for key in ("backup_start", "backup_end"))
    added, size = plain["data_added_packed"], plain["total_bytes_processed"]
    seconds = (ended - began).total_seconds()
    return ResticSnapshot(name, began, int(added), int(size), seconds, tuple(names), tuple(tags))


def _not_understood(what: str) -> BackupError:
    return BackupError(
        f"restic {what}: the answer does not have the form of restic 0.18", "Use the restic that `make setup` installs."
    )


def bytes_done(line: str) -> int:
    """Return the bytes done from a status line of a backup; 0 for any other line."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return int(json.loads(line).get("bytes_done", 0))
    return 0


def error_of(doing: str, where: str, ended: ProcessResult) -> RempartError:
    """Return the error for restic's exit."""
    what, failure_text, reason = f"restic {doing}, {where}", _message(ended.messages), plain_error(ended.messages)
    if ended.status == 3:
        return BackupError(
            f"{what}: there was nothing to store, or a part could not be read",
            "No snapshot was kept. Check that the program whose output is stored prints data, then run again.",
        )
    if ended.status == 10:
        return RepositoryMissing(
            f"{what}: the repository does not exist",
            "Check bucket and prefix. The first backup of a database creates the repository.",
        )
    if ended.status == 12:
        return RepositoryRefused(
            f"{what}: this password does not open it",
            "Use the escrowed password of this scope. If it was destroyed, the repository can never be opened again.",
        )
    if ended.status == 11:
        return RepositoryBusy(
            f"{what}: another run holds its lock",
            "Wait until that run has ended, then run again. The lock of a killed run expires after 30 minutes.",
        )
    if _FULL.search(failure_text):
        return BackupError(
            f"{what}: the disk of this machine is full ({reason})", "Free space in TMPDIR, then run again."
        )
    if _DENIED.search(failure_text):
        return SiteError(
            f"{what}: refused ({reason})", "Check the bucket, and the connection's rights and certificate."
        )
    if _AWAY.search(failure_text):
        return SiteUnavailable(f"{what}: no answer ({reason})", "Check that the site answers, then run again.")
    if ended.status == 1 and _DAMAGED.search(failure_text):
        return RepositoryDamaged(
            f"{what}: it returns other data than were stored ({reason})",
            "Restore from it what is readable, and ask the operator of the site what happened to the rest. The "
            "next restore point starts another repository.",
        )
    return BackupError(
        f"{what} ended with status {ended.status}: {reason}",
        "Run again. If it fails again, run `restic check` on the repository.",
    )
