"""The server of a drill ends with the step that started it, on whatever machine the drill is cleaned up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from rempart import child_processes
from rempart.backup.drill import ends_with_parent

SLEEPS = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)"]
STEP = """
import os, sys, time
from pathlib import Path
from rempart.backup.drill import ends_with_parent

folder = Path(sys.argv[1])
with (folder / "log").open("wb") as log:
    server = ends_with_parent.start(sys.argv[2:], os.environ, folder, log)
while b"runs" not in (folder / "log").read_bytes():
    time.sleep(0.02)
print(server.pid, flush=True)
time.sleep(600)
"""


def test_x1_a_killed_step_leaves_no_server_running(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STEP, tmp_path, *SLEEPS], stdout=subprocess.PIPE) as step:
        assert step.stdout
        leader = psutil.Process(int(step.stdout.readline()))
        group = [leader, *leader.children(recursive=True)]
        try:
            assert len(group) == 2
            step.kill()
            assert psutil.wait_procs(group, timeout=60)[1] == []
        finally:
            for process in group:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def test_the_end_of_a_step_ends_its_server_and_the_status_of_a_failed_one_is_known(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        failed = ends_with_parent.start([sys.executable, "-c", "raise SystemExit(3)"], os.environ, tmp_path, log)
        assert failed.wait(timeout=60) == 3
        child_processes.end_group(failed)
        server = ends_with_parent.start(SLEEPS, os.environ, tmp_path, log)
    wait(lambda: b"runs" in (tmp_path / "log").read_bytes())
    child_processes.end_group(server)
    assert server.returncode is not None
    wait(lambda: not has_processes(server.pid))


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def has_processes(group: int) -> bool:
    """Tell whether a process group has members; a killed one is a member until its parent takes its status."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
