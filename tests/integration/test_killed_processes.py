"""The embedded stack after kill -9: every process returns, and `down` leaves none."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil
import pytest

from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.setup import launch, paths
from rempart.errors import StackError

pytestmark = [pytest.mark.stack, pytest.mark.full, pytest.mark.kills_processes]


def wait_for(what: str, true: object, seconds: float) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.3)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_back(stack: paths.Stack, service: str, old: int) -> bool:
    try:
        state = Supervisor(stack).states()[service]
    except StackError:
        return False
    return state.state == "RUNNING" and state.pid != old


def test_every_killed_process_returns_and_the_schedulers_orphans_are_gone(stack: paths.Stack) -> None:
    states = Supervisor(stack).states()
    scheduler = psutil.Process(states["airflow-scheduler"].pid)
    wait_for("workers of the scheduler", lambda: bool(scheduler.children(recursive=True)), 300)
    orphans = scheduler.children(recursive=True)
    for name in (*stack.services, "watchdog"):
        with suppress(ProcessLookupError):  # one ends by itself without its database
            os.kill(states[name].pid, 9)
    for name in (*stack.services, "watchdog"):
        wait_for(name, lambda name=name: is_back(stack, name, states[name].pid), 300)
    wait_for("end of the orphans", lambda: not any(is_alive(process) for process in orphans), 120)
    lifecycle.up(stack)  # every health gate passes
    new = psutil.Process(Supervisor(stack).states()["airflow-scheduler"].pid)
    wait_for("workers of the new scheduler", lambda: bool(new.children(recursive=True)), 300)  # it loads packages first


def test_a_killed_supervisor_returns_with_everything(stack: paths.Stack) -> None:
    old = next(p for p in launch.marked(f"{stack.id}:supervisor"))
    old.kill()
    wait_for(
        "supervisor",
        lambda: is_back(stack, "watchdog", 0) and status.all_run(status.services(stack, time.time())),
        300,
    )
    lifecycle.up(stack)
    assert not old.is_running()


def test_down_leaves_no_process_and_up_brings_all_back(stack: paths.Stack) -> None:
    lifecycle.down(stack)
    assert [*launch.marked(f"{stack.id}:"), *launch.grouped(stack), *launch.databases(stack.postgresql_data)] == []
    assert not [port for port in stack.ports.values() if not lifecycle.preflight.port_is_free(port)]
    lifecycle.up(stack)
