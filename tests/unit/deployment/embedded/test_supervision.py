"""The supervisor restarts a program that died, and a program may end, between two calls of ours."""

from __future__ import annotations

import xmlrpc.client
from pathlib import Path
from typing import Any

import psutil
import pytest

from rempart.deployment.embedded import status
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.setup import paths
from rempart.errors import StackError
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]


class Double:
    """supervisord, whose programs have changed by the time of the second call."""

    def __init__(self, state: str, fault: int) -> None:
        self.supervisor, self._states, self._fault = self, [state, "STOPPED"], fault

    def getAllProcessInfo(self) -> list[dict[str, Any]]:  # noqa: N802 - the name is supervisord's
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return [{"name": "mlflow", "statename": state, "pid": 1, "start": 0, "spawnerr": ""}]

    def startProcess(self, name: str, wait: bool) -> bool:  # noqa: N802 - the name is supervisord's
        raise xmlrpc.client.Fault(self._fault, f"FAULT: {name}")

    stopProcess = startProcess  # noqa: N815


def test_the_supervisor_runs_since_its_process_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = supervisor(tmp_path, monkeypatch, "RUNNING", 0)
    me = psutil.Process()
    monkeypatch.setattr(status, "Supervisor", lambda stack: found)
    monkeypatch.setattr(status, "_members", lambda stack: {"supervisor": [me]})
    monkeypatch.setattr(Supervisor, "runs", lambda self: True)
    stack = paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), 0, "python")
    (line,) = [line for line in status.services(stack, me.create_time() + 75) if line.name == "supervisor"]
    assert (line.state, line.pid, line.seconds) == ("RUNNING", me.pid, 75)


def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, fault: int) -> Supervisor:
    double = Double(state, fault)
    monkeypatch.setattr(xmlrpc.client, "ServerProxy", lambda *_, **__: double)
    return Supervisor(paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), 0, "python"))


def test_a_program_that_was_restarted_meanwhile_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervisor(tmp_path, monkeypatch, "EXITED", 60).launch(["mlflow"]) == ["mlflow"]


def test_a_program_that_ended_meanwhile_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor(tmp_path, monkeypatch, "RUNNING", 70).stop(["mlflow"])


def test_any_other_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StackError, match="refused startProcess"):
        supervisor(tmp_path, monkeypatch, "EXITED", 50).launch(["mlflow"])
