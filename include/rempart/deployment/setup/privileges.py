"""PostgreSQL refuses to run as root: which user it runs as instead, and how that user reaches its files."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rempart.errors import StackError

# Bits of CapEff in /proc/self/status (capabilities(7)); each lets a process pass folders that are closed to it.
_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


@dataclass(frozen=True)
class User:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def database_user() -> User | None:
    """Return the user PostgreSQL runs as: None for our own, unless we are root. Raises StackError."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(account.pw_name, account.pw_uid, account.pw_gid)
    raise StackError(
        "This machine has neither a user 'postgres' nor 'nobody' for PostgreSQL to run as",
        "Create one (useradd --system postgres), or run as an ordinary user.",
    )


def may_pass(mode: int, owner: int, group: int, user: User) -> bool:
    """Return whether permission bits let the user read (a file) or enter (a folder); groups beyond gid are ignored."""
    need = stat.S_IXUSR if stat.S_ISDIR(mode) else stat.S_IRUSR
    shift = 0 if owner == user.uid else 3 if group == user.gid else 6
    return bool(mode & (need >> shift))


def closed(paths: Iterable[Path], user: User) -> list[Path]:
    """Return the paths, or folders on the way to them, that the user may not enter."""
    steps = dict.fromkeys(
        step for path in paths for real in [path.resolve()] for step in (*reversed(real.parents), real)
    )
    return [
        step
        for step in steps
        if (status := step.stat()) and not may_pass(status.st_mode, status.st_uid, status.st_gid, user)
    ]


def effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def command_as(user: User | None, command: Sequence[str], paths: Iterable[Path]) -> list[str]:
    """Return the command, run as the user who must reach `paths`. Raises StackError.

    If a folder on the way is closed to that user (a clone under /root), the process gets only the capability to pass
    closed folders.
    """
    if user is None:
        return list(command)
    setpriv = shutil.which("setpriv")
    if not setpriv:
        raise StackError("There is no setpriv on this machine", "Install util-linux, or run as an ordinary user.")
    drop = [setpriv, f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    if blocked := closed(paths, user):
        granted = effective_capabilities()
        able = next((name for name, bit in _CAPABILITIES if granted >> bit & 1), None)
        if able is None:
            raise StackError(
                f"User '{user.name}', who runs PostgreSQL, may not pass {blocked[0]}",
                f"Open it (chmod o+x {blocked[0]}), or set REMPART_VAR and clone to a folder open to all users.",
            )
        # no_setuid_fixup: access(2), with which PostgreSQL looks for its own programs, would else ignore the capability
        drop += ["--securebits=+no_setuid_fixup", f"--inh-caps=-all,+{able}", f"--ambient-caps=+{able}"]
    return [*drop, *command]
