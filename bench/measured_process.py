"""A command that runs to its end: its seconds, and the most memory that it and its children held."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Cost of one run: seconds, CPU seconds of its processes, and their peak memory in bytes."""

    seconds: float
    cpu: float
    memory: float

    def then(self, other: Run) -> Run:
        return Run(self.seconds + other.seconds, self.cpu + other.cpu, max(self.memory, other.memory))


def measured(
    command: Sequence[str], env: Mapping[str, str], log: Path, *, proportional: bool = False
) -> tuple[Run, str]:
    """Run a process to its end.

    Return its cost with its children, and its standard output. Fails if the process fails. `proportional`: count
    memory that processes share once: the largest sum of their PSS, read ten times a second, or less often where that
    would take more than a twentieth of the time.
    """
    memory, pause = (_proportional, 0.1) if proportional else (_most_resident, 0.02)
    os.sync()  # earlier writes are not this process's work
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors)
    over, peak = threading.Event(), [0]

    def watch() -> None:
        reading = 0.0
        while not over.wait(max(pause, 20 * reading)):
            before = time.thread_time()
            peak[0] = max(peak[0], sum(memory(pid) for pid in _tree(process.pid)))
            reading = time.thread_time() - before

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout
    output = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
    return Run(seconds, used.ru_utime + used.ru_stime, peak[0]), output


def _tree(pid: int) -> Iterator[int]:
    """Return a process and its descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except OSError:
        return  # it has ended


def _most_resident(pid: int) -> int:
    """Return the peak memory of a process so far.

    `ru_maxrss` would begin with the memory of the process before exec.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
