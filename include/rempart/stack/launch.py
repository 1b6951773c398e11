"""Turns into one service of the stack: ends what an earlier one left behind, then executes the server in its place.

`python -m rempart.stack.launch SERVICE` is the command that the supervisor runs. A server killed with -9 leaves
children that hold its ports and work on; they are found by the marker in their environment. Airflow forbids an ordinary
user to read the environment of a process that runs tasks, so the process group of each service is on record as well.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from rempart import config as configuration
from rempart.errors import RempartError
from rempart.stack import environment, layout, privileges, services
from rempart.stack.layout import Stack

Match = Callable[[psutil.Process], bool]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # another user's, or gone
        return {}


def marked(prefix: str, own: frozenset[int] = frozenset()) -> list[psutil.Process]:
    """Processes whose marker starts with `prefix`, except those in `own`."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and _environment(process).get(environment.MARKER, "").startswith(prefix)
    ]


def databases(data: Path) -> list[psutil.Process]:
    """PostgreSQL's processes on this data folder: their titles overwrite their environment, so it says nothing."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and Path(process.cwd()) == data.resolve():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def record_group(stack: Stack, service: str, leader: psutil.Process) -> None:
    """Note the process group that a service leads, and when its leader started."""
    folder = stack.state / "groups"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / service).write_text(f"{leader.pid} {leader.create_time()}\n", encoding="utf-8")


def grouped(stack: Stack, service: str = "") -> list[psutil.Process]:
    """Processes of the group on record for one service, or for every service, and all that they started."""
    folder = stack.state / "groups"
    found: list[psutil.Process] = []
    for file in [folder / service] if service else sorted(folder.glob("*")):
        if file.is_file():
            group, born = file.read_text(encoding="utf-8").split()
            found += _group(int(group), float(born))
    return found


def _group(group: int, born: float) -> list[psutil.Process]:
    """Members of a process group and their descendants; none if the number is another group's by now."""
    if born < psutil.boot_time() or _start(group) not in (None, born):
        return []
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.create_time() >= born:
                found += [process, *process.children(recursive=True)]
        except (psutil.Error, OSError):  # gone since
            continue
    return [process for process in found if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs, and is not only waiting for its parent to take note of its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start(pid: int) -> float | None:
    """When a process started; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def leftovers(stack: Stack, service: str = "") -> list[psutil.Process]:
    """Processes of one service, or of the whole stack; never this one or its ancestors."""
    own = frozenset({os.getpid(), *(parent.pid for parent in psutil.Process().parents())})
    found = {
        process.pid: process
        for process in marked(f"{stack.id}:{service}", own)
        if not service or _environment(process).get(environment.MARKER) == f"{stack.id}:{service}"
    }
    found |= {process.pid: process for process in grouped(stack, service) if process.pid not in own}
    if service in ("", "postgresql"):
        found |= {process.pid: process for process in databases(stack.postgresql_data) if process.pid not in own}
    return list(found.values())


def end(processes: list[psutil.Process], patience: float = 5.0) -> list[psutil.Process]:
    """TERM, then KILL. Returns those that are still there."""
    for signal_them in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                signal_them(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=patience)
        if not processes:
            break
    return processes


def reap(stack: Stack, service: str) -> int:
    """End every process that an earlier run of this service left. Returns how many there were.

    Looks again until none is found: a process that was just ending one may have been starting another.
    """
    ended = 0
    for _ in range(5):
        found = leftovers(stack, service)
        if not found:
            break
        ended += len(found)
        end(found)
        time.sleep(0.1)
    return ended


def run(stack: Stack, name: str) -> None:
    """Become the service. Does not return. Raises RempartError."""
    what = services.service(stack, name)
    secrets = configuration.read_env_file(stack.secrets)
    variables = environment.of(stack, secrets, os.environ, name)
    if count := reap(stack, name):
        sys.stderr.write(f"rempart: ended {count} processes that an earlier {name} had left\n")
    command = list(what.command)
    if name == "postgresql":
        command = privileges.command_as(privileges.database_user(), command, (stack.postgresql_data, *database_files()))
    os.umask(0o077)
    record_group(stack, name, psutil.Process())  # the supervisor made this process a group's leader
    os.chdir(stack.var)
    sys.stderr.flush()
    os.execve(command[0], command, variables)  # noqa: S606 # one process, replaced: no shell


def database_files() -> tuple[Path, ...]:
    """What PostgreSQL's user must be able to read of the installed package."""
    home = services.postgresql_binary("postgres").parent.parent
    share = next((home / "share").rglob("postgres.bki"), home / "share")
    return (home / "bin" / "postgres", home / "lib", share)


def main() -> int:
    try:
        run(layout.current(), sys.argv[1])
    except RempartError as error:
        sys.stderr.write(f"rempart: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
