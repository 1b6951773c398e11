"""Start one process for each GPU of a node, as torchrun does, and end as they end.

Each process is a fork of the one that the cluster started, which has read the job's spec and loaded no library that
owns threads or a GPU. It sees one GPU. `process_group` then connects the processes of all nodes. torchrun itself is not
used: it would report one status for every end, and a job's statuses say whether it is worth another attempt.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from rempart.training.attempts.process_group import LISTENING, PROCESS, loopback

LINGER_SECONDS = 30.0
"""Seconds for which the other processes may go on after the first has ended."""
CRASH_SECONDS = 120.0
"""Seconds for which processes may go on after another was killed: time to notice it and to end by themselves."""
POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GPUS = "CUDA_VISIBLE_DEVICES"


def own_gpu(number: int, visible: str | None) -> str:
    """Return what CUDA_VISIBLE_DEVICES is for a process; `visible`: what it was. Without a GPU of its own: none."""
    if visible is None:
        return str(number)
    each = [word.strip() for word in visible.split(",") if word.strip()]
    return each[number] if number < len(each) else ""


def variables(number: int, processes: int, nodes: int, port: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of one process. `port`: on this machine, where the first listens if there is one node."""
    made = {
        PROCESS: str(number),
        _GPUS: own_gpu(number, environment.get(_GPUS)),
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes)),
    }
    if nodes == 1:
        made |= {
            "PET_NNODES": "1",
            "PET_NODE_RANK": "0",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": loopback(),
        }
    return made


def start(processes: int, nodes: int) -> int | None:
    """Start the processes of this node: None in each of them; in the one that started them, their exit status.

    That one passes on SIGTERM and SIGINT. The status is the first process's, as a shell tells it; if it did not end
    after another was killed, that other's. Must be called before
    any thread is started.
    """
    # a signal that came between two of the forks would reach some of the processes only
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    listening = socket.create_server(("127.0.0.1", 0)) if nodes == 1 else None
    port = listening.getsockname()[1] if listening else 0
    started: list[int] = []
    for number in range(processes):
        given = variables(number, processes, nodes, port, os.environ)
        if (pid := os.fork()) == 0:
            os.environ.update(given)
            if listening is not None and number == 0:
                os.environ[LISTENING] = str(listening.detach())
            elif listening is not None:
                listening.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return None
        started.append(pid)
    if listening is not None:
        listening.close()
    for name in _SIGNALS:
        signal.signal(name, lambda received, _: _send(started, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return _waited(started)


def _waited(started: list[int]) -> int:
    """Return the status when all have ended; end those that stay behind the first, or behind one that was killed."""
    left, status, until = list(started), 1, float("inf")
    crashed: int | None = None
    ended_by_us = False
    while left:
        for pid in list(left):
            done, ended = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            left.remove(pid)
            code = os.waitstatus_to_exitcode(ended)
            told = code if code >= 0 else 128 - code
            if pid == started[0]:
                status = crashed if ended_by_us and crashed is not None else told
                until = time.monotonic() + LINGER_SECONDS
            elif code < 0 and crashed is None and not ended_by_us:
                crashed, until = told, min(until, time.monotonic() + CRASH_SECONDS)
        if left and time.monotonic() > until:
            ended_by_us = True
            _send(left, signal.SIGKILL)
        if left:
            time.sleep(POLL_SECONDS)
    return status


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
