"""Bounded map: results in order, and a command ends although a piece of work hangs."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from rempart.flows.shared.bounded_map import bounded_map

HANGS = """
import threading
from rempart.flows.shared.bounded_map import bounded_map
from rempart.sites import time_limit

def look():
    return list(bounded_map(range(3), lambda item: threading.Event().wait(), 2))

print(time_limit.answers({"site": look}, 0.2)["site"])
"""


def test_results_come_in_order_and_no_more_threads_run_than_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def act(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return item * 2

    assert list(bounded_map(range(50), act, 3)) == [item * 2 for item in range(50)]
    assert 1 <= most <= 3


def test_a_failure_is_raised_and_what_runs_ends_first() -> None:
    done = list[int]()

    def act(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        done.append(item)
        return item

    with pytest.raises(ValueError, match="one"):
        list(bounded_map(range(4), act, 2))
    assert 0 in done


def test_nothing_new_starts_after_the_end_was_asked_for() -> None:
    assert list(bounded_map(range(9), lambda item: item, 2, go_on=iter((True, True, False)).__next__)) == [0, 1]


def test_a_process_ends_although_a_site_is_silent() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "no answer within 0 s"
