"""Run a command that ends with the process that started it, also if that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO


def start(command: Sequence[str], env: Mapping[str, str], folder: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, led by a process of this module.

    The kernel closes the pipe to it when this process ends, and it ends the group then.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "rempart.backup.drill.ends_with_parent", *command],
        env=env,
        cwd=folder,
        stdout=log,
        stderr=log,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _end_group_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written: the read returns when the other end is closed
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_group_with_parent, daemon=True).start()
    sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
