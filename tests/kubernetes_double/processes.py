"""Containers as local processes, each the leader of its own session; their logs, and the watchdog that ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_WATCHDOG = """
import os, shutil, signal, sys
alive = set()
for line in sys.stdin:
    if line[0] == "=":
        break
    (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
for group in alive:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Log:
    """One container's output: lines with the time, in nanoseconds, at which each came."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.closed = False
        self._news: set[asyncio.Event] = set()

    def append(self, moment: int, line: bytes) -> None:
        """Adds a line and wakes the followers."""
        self.lines.append((moment, line))
        self._tell()

    def close(self) -> None:
        """Says that no line will come any more."""
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        for event in self._news:
            event.set()

    @contextlib.contextmanager
    def news(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever a line comes or the log closes; the follower clears it."""
        event = asyncio.Event()
        self._news.add(event)
        try:
            yield event
        finally:
            self._news.discard(event)


class ProcessWatchdog:
    """A process that kills every container and removes their folder when this process is gone, however it went."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(root)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Takes a process group under watch."""
        self._set_condition(f"+{group}\n")

    def release(self, group: int) -> None:
        """The group is gone."""
        self._set_condition(f"-{group}\n")

    def _set_condition(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """Kills what is left and ends the watchdog."""
        self._set_condition("=\n")  # a forked child may hold the pipe open: its end alone would not tell
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()


class Process:
    """A running container. `exited` is set, in the loop, when it is over and its output is complete."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], home: Path, log: Log, watchdog: ProcessWatchdog
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._watchdog = watchdog
        self.exited = asyncio.Event()
        self.code: int | None = None
        self.oom_killed = False
        self._popen = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watchdog.watch(self._popen.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def signal(self, number: int) -> None:
        """Ends every process by SIGKILL; sends any other signal to the first process alone, if it listens for it.

        A container's first process has the number 1, which the kernel keeps from the default action of a signal.
        """
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(self._popen.pid, number)
                elif _listens(self._popen.pid, number):
                    os.kill(self._popen.pid, number)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._post(self._log.append, time.time_ns(), line)

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        code = self._popen.wait()
        self._reader.join(timeout=2)
        self._over_with(code)
        self._watchdog.release(self._popen.pid)
        self._post(self._over, code if code >= 0 else 128 - code)

    def _over_with(self, code: int) -> None:
        """Called when it is over and before anybody is told, in a thread of its own."""

    def _over(self, code: int) -> None:
        self.code = code
        self._log.close()
        self.exited.set()

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the double
            self._loop.call_soon_threadsafe(call, *arguments)


def _listens(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def kill_orphans(home: Path) -> None:
    """Kills the processes whose HOME this is: those that left their container's process group."""
    wanted = f"HOME={home}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
