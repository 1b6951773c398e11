"""What a restore refuses, before anything is changed or before the service is opened."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rempart.backup.drill.checks import Check
from rempart.backup.keys import platform_secrets
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup.layout import Stack
from rempart.errors import BackupError
from rempart.flows.restore.restore_source import OpenPoint


@contextmanager
def only_restore(stack: Stack) -> Iterator[None]:
    """One restore at a time. Raises BackupError."""
    stack.prepare()
    with (stack.state / "restore.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise BackupError("Another restore is at work in this project", "Wait until it has ended.") from cause
        yield


def refuse_running(stack: Stack) -> None:
    """Raises BackupError while somebody works on the databases that are to be replaced."""
    if running := lifecycle.works(stack):
        raise BackupError(
            f"The platform runs here ({', '.join(running)}): its databases cannot be replaced",
            "Run `rempart down` first, or restore beside it with --aside.",
        )


def refuse_nothing_here(stack: Stack) -> None:
    """Raises BackupError where there is no platform that a part could be restored into."""
    if stack.services and not stack.secrets.is_file():
        raise BackupError(
            "There is no platform here to restore a part into",
            "Restore everything, or run `rempart up` first for a new platform.",
        )


def refuse_without_fernet_key(point: OpenPoint, environment: Mapping[str, str], *, i_know: bool) -> None:
    """Raises BackupError if what Airflow encrypted could not be read afterwards."""
    if not platform_secrets.has_fernet_key(environment) and not i_know:
        raise BackupError(
            f"The secrets of restore point {point.link.point} lack Airflow's Fernet key: the connections and variables"
            " in its database could not be read",
            "Take another point. With --i-know it is restored without them, and the restore ends red.",
        )


def refuse_red(checks: Iterable[Check], *, i_know: bool) -> None:
    """Raises BackupError rather than open the service on data that is not as it is on record."""
    red = [f"{check.what}: {check.detail}" for check in checks if check.ok is False]
    if red and not i_know:
        raise BackupError(
            f"What was restored is not as it is on record, and the service is not opened: {red[0]}",
            "Restore an earlier point (with --i-know it replaces this one), and keep this one for the inquiry.",
        )
