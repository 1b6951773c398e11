"""Become one service of the stack: end leftovers of an earlier run, then execute the server.

`python -m rempart.deployment.setup.launch SERVICE` is the supervisor's command. A server killed with -9 leaves working
children that hold its ports; they are found by the marker in their environment. Airflow forbids an ordinary user to
read the environment of a process that runs tasks, so the process group of each service is recorded too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import psutil

from rempart import private_files
from rempart.deployment.setup import environment, paths, privileges, profiles, services, site_certificates
from rempart.deployment.setup.paths import Stack
from rempart.errors import RempartError, StackError
from rempart.settings import config as configuration

Match = Callable[[psutil.Process], bool]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # another user's, or gone
        return {}


def marked(prefix: str, own: frozenset[int] = frozenset()) -> list[psutil.Process]:
    """Return processes whose marker starts with `prefix`, except those in `own`."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and _environment(process).get(environment.MARKER, "").startswith(prefix)
    ]


def databases(data: Path) -> list[psutil.Process]:
    """Return PostgreSQL's processes on this data folder; their titles overwrite their environment."""
    servers = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and Path(process.cwd()) == data.resolve():
                servers.append(process)
        except (psutil.Error, OSError):
            continue
    return servers


def record_group(stack: Stack, service: str, leader: int) -> None:
    """Note the process group that a service leads, and when its leader started."""
    record = _group_record(stack, service)
    record.parent.mkdir(parents=True, exist_ok=True)
    private_files.write(record, f"{leader} {_start(leader)} {_boot()}\n")


def forget_group(stack: Stack, service: str) -> None:
    """Delete the recorded group of a service, so that nobody ends it."""
    _group_record(stack, service).unlink(missing_ok=True)


def grouped(stack: Stack, service: str = "") -> list[psutil.Process]:
    """Return processes of the recorded group of one service, or of all, with all descendants."""
    record = _group_record(stack, service or "[!.]*")  # a name with a dot: `private_files` is still writing it
    processes: list[psutil.Process] = []
    for file in record.parent.glob(record.name):
        try:
            group, born, boot = file.read_text(encoding="utf-8").split()
        except FileNotFoundError:  # forgotten since
            continue
        if boot == _boot():
            processes += _group(int(group), int(born))
    return processes


def _group_record(stack: Stack, service: str) -> Path:
    return stack.state / "groups" / service


def _group(group: int, born: int) -> list[psutil.Process]:
    """Return members of a process group and their descendants; empty if the number belongs to another group now."""
    if _start(group) not in (None, born):
        return []
    processes: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and (_start(process.pid) or 0) >= born:
                processes += [process, *process.children(recursive=True)]
        except (psutil.Error, OSError):  # gone since
            continue
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs, and is no zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot, or None.

    Unlike a time of day, it is always the same number.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _boot() -> str:
    """Return an id of this boot: ticks of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def leftovers(stack: Stack, service: str = "") -> list[psutil.Process]:
    """Return processes of one service, or of the whole stack; never this one or its ancestors."""
    own = frozenset({os.getpid(), *(parent.pid for parent in psutil.Process().parents())})
    processes = {
        process.pid: process
        for process in marked(f"{stack.id}:{service}", own)
        if not service or _environment(process).get(environment.MARKER) == f"{stack.id}:{service}"
    }
    processes |= {process.pid: process for process in grouped(stack, service) if process.pid not in own}
    if service in ("", "postgresql"):
        processes |= {process.pid: process for process in databases(stack.postgresql_data) if process.pid not in own}
    return list(processes.values())


def end(processes: list[psutil.Process], patience: float = 5.0) -> list[psutil.Process]:
    """Send TERM, then KILL. Return the processes that are left."""
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
    """End every leftover process of this service. Return their number.

    Repeats until none is found: a process being ended may have been starting another.
    """
    ended = 0
    for _ in range(5):
        processes = leftovers(stack, service)
        if not processes:
            break
        ended += len(processes)
        end(processes)
        time.sleep(0.1)
    return ended


def run(stack: Stack, name: str) -> None:
    """Replace this process by the service. Never returns. Raises RempartError."""
    what = services.service(stack, name)
    if name == paths.WORKER:
        profiles.check_worker(stack, os.environ)
    secrets = configuration.read_env_file(stack.secrets)
    variables = environment.of(stack, secrets, os.environ, name)
    if not stack.containers and (count := reap(stack, name)):
        sys.stderr.write(f"rempart: ended {count} processes that an earlier {name} had left\n")
    if name.startswith("site-") and not stack.containers:
        site = name.removeprefix("site-")
        if site_certificates.ensure(stack.site_certificates(site), site, datetime.now(UTC)):
            sys.stderr.write(f"rempart: wrote new certificates for the inner ports of site {site}\n")
    command = list(what.command)
    if name == "postgresql":
        command = privileges.command_as(privileges.database_user(), command, (stack.postgresql_data, *database_files()))
    os.umask(0o077)
    if not stack.containers:  # which end with all that was started in them
        record_group(stack, name, os.getpid())  # the supervisor made this process a group's leader
    os.chdir(stack.var)
    sys.stderr.flush()
    os.execve(command[0], command, variables)  # noqa: S606 # one process, replaced: no shell


def run_workload(stack: Stack, command: Sequence[str], component: str = "") -> NoReturn:
    """Replace this process by a program in the environment of a task, or of an Airflow component in its container.

    Raises RempartError.
    """
    name = f"airflow-{component or 'workload'}"
    if component and name not in paths.AIRFLOW_COMPONENTS:
        known = ", ".join(process.removeprefix("airflow-") for process in paths.AIRFLOW_COMPONENTS)
        raise StackError(f"Airflow has no component '{component}'", f"Choose one of: {known}.")
    secrets = configuration.read_env_file(stack.secrets)
    variables = environment.of(stack, secrets, os.environ, name)
    os.umask(0o077)
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), variables)  # noqa: S606 # one process, replaced: no shell
    except OSError as cause:
        raise StackError(f"Could not run {command[0]}: {cause.strerror}", "Name a program of this image.") from cause


def database_files() -> tuple[Path, ...]:
    """Return files of the installed package that PostgreSQL's user must be able to read."""
    home = services.postgresql_binary("postgres").parent.parent
    share = next((home / "share").rglob("postgres.bki"), home / "share")
    return (home / "bin" / "postgres", home / "lib", share)


def main() -> int:
    try:
        run(paths.current(), sys.argv[1])
    except RempartError as error:
        sys.stderr.write(f"rempart: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
