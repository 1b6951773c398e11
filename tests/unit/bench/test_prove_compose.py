"""The proof's healing judges the scheduler and the run that it was killed in, on a machine however busy."""

from __future__ import annotations

from typing import Any

import pytest

from bench import prove_compose


class Scheduler:
    """A container that is restarted after a kill. `health`: of each look at it after the kill; the last one stays."""

    def __init__(self, *health: str) -> None:
        self.health, self.killed = list(health), False

    def containers(self) -> dict[str, Any]:
        health = "healthy" if not self.killed else self.health.pop(0) if len(self.health) > 1 else self.health[0]
        return {"scheduler": {"State": {"Pid": 7, "Health": {"Status": health}}, "RestartCount": int(self.killed)}}

    def kill(self, pid: int, signal: int) -> None:
        assert (pid, signal) == (7, 9)
        self.killed = True


class Airflow:
    """Runs whose tasks are seen in these states, one after the other; `followed` was followed to its end."""

    def __init__(self, *runs: tuple[str, ...]) -> None:
        self.runs, self.now, self.followed = [list(run) for run in runs], -1, ""

    def trigger(self, dag: str) -> str:
        self.now += 1
        return f"run {self.now}"

    def get(self, path: str) -> dict[str, Any]:
        state = self.runs[self.now][0]
        return {"state": state if state in prove_compose.TERMINAL else "running"}

    def every(self, *_: str) -> list[dict[str, Any]]:
        states = self.runs[self.now]
        return [{"state": states.pop(0) if len(states) > 1 else states[0]}]

    def follow(self, dag: str, run: str, tell: object) -> None:
        self.followed = run


def healed(monkeypatch: pytest.MonkeyPatch, compose: Any, api: Any) -> list[bool]:
    monkeypatch.setattr(prove_compose.os, "kill", compose.kill)
    monkeypatch.setattr(prove_compose.time, "sleep", lambda seconds: None)
    checks: list[dict[str, Any]] = []
    prove_compose.heal(compose, api, checks, {})
    return [check["ok"] for check in checks]


def test_a_run_that_ends_between_two_looks_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Airflow(("queued", "success"), ("queued", "running", "success"))
    assert healed(monkeypatch, Scheduler("starting", "healthy"), api) == [True, True] and api.followed == "run 1"


def test_a_scheduler_that_never_gets_healthy_is_not_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove_compose, "PATIENCE", 0.0)
    assert healed(monkeypatch, Scheduler("starting"), Airflow(("running", "success"))) == [False, True]


def test_a_run_that_never_starts_ends_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove_compose, "PATIENCE", 0.0)
    with pytest.raises(SystemExit, match="was seen running"):
        healed(monkeypatch, Scheduler("healthy"), Airflow(("queued",)))
