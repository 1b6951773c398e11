"""A container is silent only if its control packets were seen, no packet was lost, and it sent nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import quiet, telemetry_containers
from bench.telemetry_containers import ADDRESS, CONTROL, Watch, figures_of, judge

HEARD = {f"look-up of {CONTROL}": 2, f"udp {ADDRESS}:9": 2}


def judged(wanted: dict[str, int], lost: int = 0) -> tuple[bool, str]:
    told: list[tuple[bool, str]] = []
    found: dict[str, dict[str, Any]] = {"mlflow": {"wanted": wanted, "lost": lost, "seen": 9}}
    judge(found, {"mlflow": 2}, lambda _, ok, detail: told.append((ok, detail)))
    (check,) = told
    return check


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
    judge({"mlflow": {}}, {"mlflow": 2}, lambda _, ok, __: told.append(ok))
    assert told == [False]


def test_a_container_that_was_never_asked_is_red() -> None:
    told: list[bool] = []
    judge({"mlflow": {"wanted": HEARD, "lost": 0, "seen": 9}}, {"mlflow": 0}, lambda _, ok, __: told.append(ok))
    assert told == [False]


def test_the_figures_tell_look_ups_from_packets_and_leave_out_the_control() -> None:
    wanted = HEARD | {"look-up of events.example": 3, "tcp 203.0.113.1:443": 1}
    assert figures_of({"wanted": wanted, "seen": 40, "lost": 0}) == {
        "look-ups outside": 3,
        "packets outside": 1,
        "controls counted": 4,
        "packets seen": 40,
        "packets lost": 0,
    }


def test_a_container_that_starts_again_is_watched_under_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {
        "Config": {"Labels": {"com.docker.compose.service": "mlflow"}},
        "State": {"StartedAt": "2026-11-27T12:00:00.123456789Z"},
    }
    monkeypatch.setattr(telemetry_containers, "docker", lambda *words: json.dumps([described]))
    monkeypatch.setattr(Watch, "ask", lambda self, name: None)
    monkeypatch.setattr(quiet.Counters, "add", lambda self, name, counter: None)
    watch = Watch(quiet.Counters(lambda name: []))
    for _ in range(2):
        watch.begin("0a1b")
    assert watch.ids == {"mlflow": "0a1b", "mlflow 2": "0a1b"} and set(watch.began_after) == {"mlflow", "mlflow 2"}
