"""The supervisor (supervisord), reached over a Unix socket that only its owner can open."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rempart.deployment.setup import environment, services
from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError

_ALREADY_STARTED, _NOT_RUNNING = 60, 70
"""Faults of supervisord (supervisor.xmlrpc.Faults)."""
_ALIVE = ("RUNNING", "STARTING", "BACKOFF", "STOPPING")


@dataclass(frozen=True)
class ProcessState:
    """The supervisor's state of one program."""

    name: str
    state: str
    pid: int
    started: int
    message: str


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisor:
    """The supervisord of one stack. Raises StackError."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def _call(self, method: str, *arguments: Any, harmless: int | None = None) -> Any:
        """Call the supervisor. The fault `harmless` is no error: the program is already as the call wants it."""
        path = str(self.stack.sockets / "supervisor.sock")
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(path))
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as cause:
            if cause.faultCode == harmless:
                return None
            raise StackError(
                f"The supervisor refused {method}({', '.join(map(str, arguments))}): {cause.faultString}",
                f"Read {self.stack.logs / 'supervisord.log'}.",
            ) from cause
        except OSError as cause:
            raise StackError(
                f"call the supervisor: it does not answer ({cause})", "Run `rempart up` to start it."
            ) from cause

    def runs(self) -> bool:
        """Return whether a supervisor answers."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except StackError:
            return False

    def start(self) -> None:
        """Start supervisord in the background. Raises StackError."""
        configuration = self.configure()
        variables = environment.base(self.stack, os.environ) | {environment.MARKER: f"{self.stack.id}:supervisor"}
        command = [self.stack.python, "-m", "supervisor.supervisord", "-c", configuration]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise StackError(
                f"start the supervisor: {(done.stderr or done.stdout).strip()[-500:]}",
                f"Read {self.stack.logs / 'supervisord.log'}.",
            )
        for _ in range(100):
            if self.runs():
                return
            time.sleep(0.1)
        raise StackError(
            "start the supervisor: it started but does not answer", f"Read {self.stack.logs / 'supervisord.log'}."
        )

    def configure(self) -> str:
        """Write its configuration. Return the file's path."""
        file = self.stack.state / "supervisord.conf"
        file.write_text(
            services.supervisor_configuration(self.stack, "root" if os.getuid() == 0 else None), encoding="utf-8"
        )
        return str(file)

    def update(self) -> list[str]:
        """Apply a changed configuration: stop removed or changed programs. Return their names."""
        self.configure()
        added, changed, removed = self._call("reloadConfig")[0]
        for name in (*changed, *removed):
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)
        return [*added, *changed, *removed]

    def states(self) -> dict[str, ProcessState]:
        """Return the supervisor's state of every program."""
        return {
            info["name"]: ProcessState(info["name"], info["statename"], info["pid"], info["start"], info["spawnerr"])
            for info in self._call("getAllProcessInfo")
        }

    def launch(self, names: Sequence[str]) -> list[str]:
        """Start stopped programs and return them at once; the health checks follow separately."""
        states = self.states()
        started = [name for name in names if states[name].state not in _ALIVE]
        for name in started:
            self._call("startProcess", name, False, harmless=_ALREADY_STARTED)
        return started

    def stop(self, names: Sequence[str], tick: Callable[[], None] = lambda: None) -> None:
        """Stop programs together and wait until all have ended. Raises StackError."""
        states = self.states()
        for name in names:
            if name in states and states[name].state in _ALIVE:
                self._call("stopProcess", name, False, harmless=_NOT_RUNNING)
        deadline = time.monotonic() + 60
        while running := [name for name, process in self.states().items() if name in names and process.state in _ALIVE]:
            if time.monotonic() > deadline:
                raise StackError(
                    f"stop the services: {', '.join(running)} did not stop",
                    f"Read the logs in {self.stack.logs}, then run `rempart down` again.",
                )
            tick()
            time.sleep(0.2)

    def shutdown(self) -> None:
        """Ask supervisord to end, and wait until it has."""
        import psutil

        pid = self._call("getPID")
        self._call("shutdown")
        try:
            psutil.Process(pid).wait(timeout=30)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired as cause:
            raise StackError(f"stop the supervisor: process {pid} did not end", "Run `rempart down` again.") from cause
