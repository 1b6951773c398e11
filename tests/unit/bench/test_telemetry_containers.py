"""A container is silent only if the control was heard in it, nothing was lost, and it wanted nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from bench.telemetry_containers import ADDRESS, CONTROL, judge

HEARD = {f"look-up of {CONTROL}": 2, f"udp {ADDRESS}:9": 2}


def judged(wanted: dict[str, int], lost: int = 0) -> tuple[bool, str]:
    told: list[tuple[bool, str]] = []
    found: dict[str, dict[str, Any]] = {"mlflow": {"wanted": wanted, "lost": lost, "seen": 9}}
    judge(found, 2, lambda _, ok, detail: told.append((ok, detail)))
    (one,) = told
    return one


def test_a_container_that_was_heard_and_wanted_nothing_is_silent() -> None:
    assert judged(HEARD) == (True, "0 look-ups, 0 packets outside; 9 packets seen")


@pytest.mark.parametrize(
    ("wanted", "lost", "word"),
    [
        (HEARD | {"look-up of events.example": 3}, 0, "3 x look-up of events.example"),
        (HEARD | {"tcp 203.0.113.1:443": 1}, 0, "1 x tcp 203.0.113.1:443"),
        (HEARD, 1, "lost 1"),
        ({**HEARD, f"udp {ADDRESS}:9": 1}, 0, "NOT COUNTED"),
        ({f"look-up of {CONTROL}": 2}, 0, "NOT COUNTED"),
        ({}, 0, "NOT COUNTED"),
    ],
)
def test_every_other_one_is_red(wanted: dict[str, int], lost: int, word: str) -> None:
    ok, detail = judged(wanted, lost)
    assert not ok and word in detail


def test_a_container_whose_counter_ended_early_is_red() -> None:
    told: list[bool] = []
    judge({"mlflow": {}}, 2, lambda _, ok, __: told.append(ok))
    assert told == [False]
