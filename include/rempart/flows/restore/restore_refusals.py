"""Refuse unsafe restores, before any change and before the services open."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.keys import platform_secrets
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup.paths import Stack
from rempart.errors import BackupError
from rempart.flows.restore.restore_source import OpenPoint


@contextmanager
def only_restore(stack: Stack) -> Iterator[None]:
    """Allow one restore at a time. Raises BackupError."""
    stack.prepare()
    with (stack.state / "restore.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise BackupError(
                "Another restore runs in this project",
                "Wait until the other restore has ended, then start this restore again.",
            ) from cause
        yield


def refuse_running(stack: Stack) -> None:
    """Check that no service uses the databases that the restore replaces. Raises BackupError."""
    if running := lifecycle.works(stack):
        raise BackupError(
            f"The platform runs on this machine ({', '.join(running)}), so its databases cannot be replaced",
            "Run `rempart down` first, or restore side by side with --aside.",
        )


def refuse_nothing_here(stack: Stack) -> None:
    """Check that a platform exists before a part is restored into it. Raises BackupError."""
    if stack.services and not stack.secrets.is_file():
        raise BackupError(
            "No platform exists here to restore a part into",
            "Restore everything, or run `rempart up` first to create a new platform.",
        )


def refuse_without_fernet_key(point: OpenPoint, environment: Mapping[str, str], *, force: bool) -> None:
    """Check that Airflow's encrypted data will be readable after the restore. Raises BackupError."""
    if not platform_secrets.has_fernet_key(environment) and not force:
        raise BackupError(
            f"The secrets of restore point {point.link.point} lack Airflow's Fernet key: Airflow's connections "
            "and variables would be unreadable",
            "Choose another restore point. With --force the restore continues without them and ends red.",
        )


def refuse_red(checks: Iterable[RestoreCheck], *, force: bool) -> None:
    """Check that restored data equals its record before the services open. Raises BackupError."""
    red = [f"{check.what}: {check.detail}" for check in checks if check.ok is False]
    if red and not force:
        raise BackupError(
            f"The restored data differs from its record, so the services stay closed:\n{red[0]}",
            "Restore an earlier restore point (--force replaces the restored data), and keep this one for the "
            "investigation.",
        )
