"""Repeated calls beside a block."""

from __future__ import annotations

import threading

from rempart.repeating import repeating


def test_calls_come_while_the_block_runs_and_none_after_it() -> None:
    twice, calls = threading.Event(), list[str]()

    def act() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            twice.set()

    with repeating(act, 0.001, "beat"):
        assert twice.wait(60)
    assert set(calls) == {"beat"} and not [thread for thread in threading.enumerate() if thread.name == "beat"]


def test_a_call_can_end_the_repetition() -> None:
    ended, calls = threading.Event(), list[int]()

    def act() -> bool:
        calls.append(1)
        ended.set()
        return True

    with repeating(act, 0.001, "last"):
        assert ended.wait(60)
        (thread,) = [each for each in threading.enumerate() if each.name == "last"] or [None]
        if thread is not None:
            thread.join(60)
    assert calls == [1]
