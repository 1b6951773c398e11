"""PostgreSQL and S3 sites of a test's own, beside the stack: for tests that attack a server as its superuser."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from rempart.deployment.embedded import lifecycle
from rempart.deployment.servers import object_sites, postgresql
from rempart.deployment.setup import credentials, environment, launch, paths, preflight, privileges, services
from rempart.settings import config
from rempart.settings.config import Connection, Connections
from tests.levels import wait_until

ROOT = Path(__file__).resolve().parents[2]
_TAKEN: dict[int, TextIO] = {}
WORKER = int((os.environ.get("PYTEST_XDIST_WORKER") or "gw0").removeprefix("gw"))


@dataclass(frozen=True)
class Servers:
    """What runs: the stack that it is cut from, its connections, and the connection of PostgreSQL's superuser."""

    stack: paths.Stack
    connections: Connections
    superuser: Connection


def free_stack(var: Path, root: Path = ROOT) -> paths.Stack:
    """A stack at an offset where all its ports are free; `root` is the project's folder.

    All lie below 32768, where Linux begins to give ports to outgoing connections: one of those would take a port
    between this look and the server's start. For the same reason an offset belongs to the process that took it.
    """
    loaded = config.load(root / "rempart.yaml")
    first = 4000 + 5000 * (WORKER % 2)
    while True:
        stack = paths.Stack(root, var, loaded, first + secrets.randbelow(24) * 200)
        if _is_ours(stack.offset) and all(preflight.port_is_free(port) for port in stack.ports.values()):
            return stack


def _is_ours(offset: int) -> bool:
    """Take an offset for this process, until it ends; false if another process has it."""
    if offset not in _TAKEN:
        file = (Path(tempfile.gettempdir()) / f"rempart-ports-{offset}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        _TAKEN[offset] = file
    return True


@contextmanager
def own_servers(var: Path, names: Sequence[str] = ("postgresql",), root: Path = ROOT) -> Iterator[Servers]:
    """Start the named services (`postgresql`, `site-primary`, ...) as `rempart up` does; end them at the end."""
    stack = free_stack(var, root)
    stack.prepare()
    made = credentials.ensure(stack)
    resolve = credentials.connections(stack, made)
    superuser = credentials.superuser(stack, made)
    running: list[subprocess.Popen[bytes]] = []
    try:
        object_sites.write_settings(stack, resolve, made)
        for name in names:
            if name == "postgresql":
                postgresql.initialise(stack, made["REMPART_POSTGRESQL_PASSWORD"])
            running.append(start(stack, made, name))
        for name in names:
            if name == "postgresql":
                wait_until(postgresql.check_administrator(superuser), 180)
                postgresql.bootstrap(stack, superuser, resolve)
            else:
                site = name.removeprefix("site-")
                wait_until(partial(object_sites.check, stack, site, resolve), 180)
        yield Servers(stack, resolve, superuser)
    finally:
        for name, process in zip(names, running, strict=False):  # at SIGTERM, PostgreSQL waits for every session
            process.send_signal(signal.SIGINT if name == "postgresql" else signal.SIGKILL)
        for process in running:
            process.wait(120)
        for name in names:
            if name != "postgresql":
                object_sites.clear_sockets(lifecycle.ports_of(stack, name))


@contextmanager
def service(servers: Servers, name: str, check: Callable[[], str], seconds: float = 240) -> Iterator[None]:
    """One more service on these servers, until the end of the context."""
    process = start(servers.stack, config.read_env_file(servers.stack.secrets), name)
    try:
        wait_until(check, seconds)
        yield
    finally:
        process.terminate()
        process.wait(120)


def start(stack: paths.Stack, made: dict[str, str], name: str) -> subprocess.Popen[bytes]:
    """Start one service of this stack as `rempart up` does; its log is the stack's."""
    command = list(services.service(stack, name).command)
    if name == "postgresql":
        reach = (stack.postgresql_data, *launch.database_files())
        command = privileges.command_as(privileges.database_user(), command, reach)
    with (stack.logs / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment.of(stack, made, os.environ, name), cwd=stack.var, stdout=log, stderr=log
        )
