"""End processes that this process started."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process, wait until it is gone, and close its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):  # what was not sent is not needed
                stream.close()


def end_group(leader: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a group, and every process of the group; then as `end`."""
    kill_group(leader)
    end(leader)


def kill_group(leader: subprocess.Popen[Any]) -> None:
    """Kill every process of a group that a process leads. A group that is gone is no error."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
