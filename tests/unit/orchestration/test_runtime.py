"""Where a program in a task, and one elsewhere, takes the platform's connections from."""

from __future__ import annotations

import pytest

from rempart.errors import ConnectionMissing
from rempart.orchestration import runtime
from rempart.settings import config


@pytest.mark.parametrize("in_task", [True, False])
def test_the_champion_is_opened_with_airflow_s_connections_in_a_task_alone(
    in_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DAG_ID", "DAG_RUN_ID", "TASK_ID"):
        monkeypatch.delenv(f"AIRFLOW_CTX_{name}", raising=False)
        if in_task:
            monkeypatch.setenv(f"AIRFLOW_CTX_{name}", "mine")

    def asked(of: str) -> None:
        raise ConnectionMissing(f"asked of {of}", "")

    monkeypatch.setattr(runtime, "airflow_connection", lambda name: asked("Airflow"))
    monkeypatch.setattr(config, "environment", lambda: asked("the environment"))
    with pytest.raises(ConnectionMissing, match="asked of Airflow" if in_task else "asked of the environment"):
        runtime.champion("hotel_bookings")
