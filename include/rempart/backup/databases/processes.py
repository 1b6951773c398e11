"""Run programs in process groups of their own, and end a group that makes no progress."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rempart import child_processes
from rempart.errors import BackupError
from rempart.repeating import repeating

CHUNK = 1 << 20
"""Bytes of a stream that are handled at a time."""
_LINES, _LINE = 1000, 4096
"""Limits of a program's messages: number of last lines, and bytes of each."""
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class ProcessResult:
    """Result of a program: its exit status (negative: the signal that ended it), and its messages."""

    status: int
    lines: tuple[str, ...] = ()
    messages: str = ""


class Watch:
    """Ends a process group that made no progress for `seconds`; `stalled` tells whether it did."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process, self._seconds = process, seconds
        self._since: float | None = time.monotonic()
        self.stalled = False

    def progress(self) -> None:
        """Note progress: the timeout starts again."""
        self._since = time.monotonic()

    def pause(self) -> None:
        """Suspend the timeout until the next progress, while another program works."""
        self._since = None

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch until the end of the context."""
        with repeating(self._end_if_stalled, min(1.0, self._seconds / 4), "stall watch"):
            yield self

    def _end_if_stalled(self) -> bool:
        since = self._since
        if since is not None and time.monotonic() - since > self._seconds:
            self.stalled = True
            kill(self._process)
        return self.stalled


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, after a moment in which it can put away its locks."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)  # also what the process itself left behind


def start(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a program that sees this environment and nothing else of ours. Raises BackupError."""
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            env=dict(environment),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as cause:
        raise BackupError(
            f"start {command[0]}: {cause.strerror}",
            "Install it again: `make setup` installs restic and PostgreSQL's programs.",
        ) from cause


class Messages:
    """Collects the last lines that a program writes, and passes each to `heed` as it arrives.

    Lines longer than `longest` bytes are cut into several. With `answer`, a longer line is dropped instead, and
    `too_long` is true once the program has ended.
    """

    def __init__(
        self,
        stream: IO[bytes] | None,
        heed: Callable[[str], object] = lambda line: None,
        *,
        longest: int = _LINE,
        answer: bool = False,
    ) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._stream, self._heed, self._longest, self._answer = stream, heed, longest, answer
        self.too_long = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            while line := stream.readline(self._longest):
                self.too_long |= self._answer and len(line) == self._longest and not line.endswith(b"\n")
                if self.too_long:  # read on, so that the program can end
                    self._lines.clear()
                    continue
                text = line.decode("utf-8", "replace").rstrip("\n")
                self._lines.append(text)
                self._heed(text)

    def end(self) -> tuple[str, ...]:
        """Return all kept lines after the program has closed its end."""
        self._thread.join()
        return tuple(self._lines)


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the process and everything it started when the context ends."""
    try:
        yield process
    finally:
        if process.poll() is None:
            kill(process)
        process.wait()
        child_processes.kill_group(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def pour(stream: IO[bytes], sink: Callable[[bytes], object], watch: Watch) -> None:
    """Give a program's output to `sink` in chunks; only the waiting for the program counts as waiting."""
    while chunk := stream.read(CHUNK):
        watch.pause()
        sink(chunk)
        watch.progress()
