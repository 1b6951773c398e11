"""Report state, process, ports and memory of each service of the embedded stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from rempart.deployment.embedded.lifecycle import ports_of
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.setup import environment, launch
from rempart.deployment.setup.paths import Stack


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `rempart status`."""

    name: str
    state: str
    pid: int
    seconds: float
    ports: tuple[int, ...]
    processes: int
    rss_mib: int


def _members(stack: Stack) -> dict[str, list[psutil.Process]]:
    members: dict[str, list[psutil.Process]] = {}
    for process in launch.marked(f"{stack.id}:"):
        try:
            members.setdefault(process.environ()[environment.MARKER].partition(":")[2], []).append(process)
        except psutil.Error:  # gone since
            continue
    known = {process.pid for process in members.get("postgresql", [])}
    members.setdefault("postgresql", []).extend(
        p for p in launch.databases(stack.postgresql_data) if p.pid not in known
    )
    return members


def _started(process: psutil.Process, now: float) -> float:
    """Return when a process began, in seconds since the epoch; `now` if it is gone."""
    try:
        return process.create_time()
    except psutil.Error:  # gone since
        return now


def _resident(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # gone since
            continue
    return total >> 20


def services(stack: Stack, now: float) -> list[ServiceStatus]:
    """Yield one line for each service, from the supervisor and its processes. `now`: seconds since the epoch."""
    supervisor = Supervisor(stack)
    states = supervisor.states() if supervisor.runs() else {}
    members = _members(stack)
    lines = []
    for name in (*stack.services, "watchdog", "supervisor"):
        own = members.get(name, [])
        if name == "supervisor":
            state, pid = ("RUNNING" if states else "STOPPED"), (own[0].pid if own else 0)
            started = _started(own[0], now) if own else now
        elif name in states:
            state, pid, started = states[name].state, states[name].pid, float(states[name].started)
        else:
            state, pid, started = ("UNSUPERVISED" if own else "STOPPED"), 0, now
        lines.append(
            ServiceStatus(
                name,
                state,
                pid,
                max(0.0, now - started) if pid else 0.0,
                tuple(list(ports_of(stack, name).values())[:1]),
                len(own),
                _resident(own),
            )
        )
    lines += [
        ServiceStatus(name, "EXTERNAL", 0, 0.0, (), 0, 0) for name in stack.config.services if stack.external(name)
    ]
    return lines


def none_runs(stack: Stack, lines: Sequence[ServiceStatus]) -> bool:
    """Return whether the stack's own PostgreSQL and all other services of this machine are stopped."""
    own = [line.state for line in lines if line.state != "EXTERNAL"]
    return not stack.containers and "postgresql" in stack.services and set(own) == {"STOPPED"}


def all_run(lines: Sequence[ServiceStatus]) -> bool:
    return all(line.state in ("RUNNING", "EXTERNAL") for line in lines)
