"""The end of a restore into containers: Compose starts MLflow and Airflow, and the restore may wait for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rempart.deployment.compose import containers
from rempart.deployment.servers.airflow_server import Health
from rempart.deployment.setup import credentials
from rempart.deployment.setup.paths import Stack
from rempart.errors import DatabaseUnavailable, StackError
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """Containers in which nothing works on the stores at first, and everything at the third look."""
    looks = iter([[], [], ["airflow", "mlflow"], ["airflow", "mlflow"]])
    monkeypatch.setattr(containers, "works", lambda stack: next(looks))
    monkeypatch.setattr(containers.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(containers.mlflow_server, "check", lambda connection: "logs a run")
    monkeypatch.setattr(containers.airflow_server, "check", lambda *_: Health(3, ()))
    monkeypatch.setattr(containers.airflow_server, "expects_dags", lambda stack: True)
    found = containers.in_containers(Stack(ROOT, tmp_path, config.load(ROOT / "rempart.yaml"), 0))
    found = replace(found, var=tmp_path)
    credentials.write_secrets(found.secrets, credentials.plan(found, {}, lambda: "token", lambda: "key"))
    return found


@pytest.mark.parametrize(
    ("cluster", "remedy"), [(False, "docker compose up --wait"), (True, "docs/how-to/kubernetes.md")]
)
def test_it_says_what_starts_them_where_it_does_not_wait(stack: Stack, cluster: bool, remedy: str) -> None:
    with pytest.raises(StackError, match="are not running yet") as refused:
        containers.up(replace(stack, cluster=cluster))
    assert remedy in refused.value.hint


def test_it_waits_until_they_were_started_and_checks_them(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    containers.up(replace(stack, cluster=True), 60)
    assert "docs/how-to/kubernetes.md" in caplog.messages[0] and "60 s" in caplog.messages[0]
    assert caplog.messages[1:] == ["mlflow: logs a run", "airflow: all components send heartbeats, 3 DAGs parsed"]


def test_a_store_that_does_not_answer_at_first_is_waited_for(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works, refusals = containers.works, [DatabaseUnavailable("postgresql: no answer", "Look at its log.")] * 2

    def away(stack: Stack) -> list[str]:
        if refusals:
            raise refusals.pop()
        return works(stack)

    monkeypatch.setattr(containers, "works", away)
    containers.up(replace(stack, cluster=True), 60)
    assert caplog.messages[0] == "not yet: postgresql: no answer"
    assert caplog.messages[2:] == ["mlflow: logs a run", "airflow: all components send heartbeats, 3 DAGs parsed"]
    refusals.append(DatabaseUnavailable("postgresql: no answer", "Look at its log."))
    with pytest.raises(DatabaseUnavailable):
        containers.up(stack)


def test_what_does_not_answer_is_told_once_and_one_time_is_left_for_all(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two hours of waiting are two hours, and a refused password is no silence."""
    now = [0.0]

    def refused(connection: object) -> str:
        raise StackError("mlflow: the password was refused", "Look at its log.")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(containers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(containers.time, "sleep", sleep)
    monkeypatch.setattr(containers.mlflow_server, "check", refused)
    with pytest.raises(StackError):
        containers.up(replace(stack, cluster=True), 7200)
    assert 7200 <= now[0] <= 7203
    assert caplog.messages[1:] == ["not yet: mlflow: the password was refused"]
