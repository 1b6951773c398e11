"""The drill before an upgrade, by the DAG of the running release."""

from __future__ import annotations

import httpx
import pytest

from rempart.airflow_api import AirflowApi
from rempart.errors import UpgradeError
from rempart.flows.upgrade import upgrade
from rempart.settings.config import Connection


def running(state: str, *tasks: str) -> AirflowApi:
    """Airflow of a release whose drill has these tasks and ends in this state."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        if path.endswith("/taskInstances"):
            found = [{"task_id": task, "state": state} for task in tasks]
            return httpx.Response(200, json={"task_instances": found, "total_entries": len(found)})
        if path.startswith("/api/v2/dags/restore_drill/dagRuns") and "/taskInstances/" not in path:
            return httpx.Response(200, json={"state": state})
        return httpx.Response(404, json={"detail": f"no {path}"})

    api = AirflowApi(Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http"))
    api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(answer))
    return api


def test_a_drill_whose_tasks_have_other_names_is_a_drill() -> None:
    upgrade.drill(running("success", "drill"), "P")
    upgrade.drill(running("success", "restore", "prove", "clean_up", "report"), "P")


def test_a_drill_that_is_not_green_ends_the_upgrade_with_its_task() -> None:
    with pytest.raises(UpgradeError, match=r"P was not proved by a drill: .* failed in drill") as refused:
        upgrade.drill(running("failed", "drill"), "P")
    assert "restore-drill.md" in refused.value.hint
