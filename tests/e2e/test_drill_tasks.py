"""The tasks of the chain's drill in Airflow: their results, and those of cleared tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from tests.e2e.chains import Chain
from tests.levels import unpaused

pytestmark = [pytest.mark.stack, pytest.mark.full]

TASKS = ("restore", "prove", "clean_up", "report")


@pytest.fixture(scope="module")
def api() -> Iterator[AirflowApi]:
    airflow = AirflowApi(config.environment_connections("airflow_api"))
    with unpaused(airflow, "restore_drill"):
        yield airflow


def states(api: AirflowApi, run: str) -> dict[str, Any]:
    found = api.get(f"/api/v2/dags/restore_drill/dagRuns/{run}/taskInstances")["task_instances"]
    return {task["task_id"]: task["state"] for task in found}


def again(api: AirflowApi, run: str, task: str) -> dict[str, Any]:
    """Clear a task of a run and what follows it, wait until the run has ended, and return the states of its tasks."""
    body = {
        "dry_run": False,
        "dag_run_id": run,
        "task_ids": [task],
        "only_failed": False,
        "include_downstream": True,
        "reset_dag_runs": True,
    }
    api._call("POST", "/api/v2/dags/restore_drill/clearTaskInstances", json=body)
    with suppress(AirflowApiError):  # it failed: the states say in which tasks
        api.follow("restore_drill", run, lambda line: None)
    return states(api, run)


def test_each_task_of_a_drill_may_be_cleared(platform: Platform, api: AirflowApi, chain: Chain) -> None:
    run, point = chain.drill, chain.point["id"]

    def verdicts() -> list[bool]:
        """Those of this run: another one may have drilled the point, too."""
        found = platform.ledger.find("drill", point, limit=99)
        return [record.body["ok"] for record in found if record.body["written_by"]["run"] == run]

    assert states(api, run) == dict.fromkeys(TASKS, "success")
    assert chain.drilled["ok"] and chain.drilled["point_id"] == point
    summary = api.result("restore_drill", run, "prove")
    assert summary["point"] == point and set(summary) == {
        "drill", "step", "point", "seconds", "passed", "failed", "not_run"
    }  # fmt: skip
    assert not list(platform.site("haven", "personal").list(platform.config.buckets.backups, "drills/"))

    # the sandbox is gone: what was proved before is not believed
    assert again(api, run, "prove") == {
        "restore": "success", "prove": "failed", "clean_up": "success", "report": "failed"
    }  # fmt: skip
    # and the verdict on that restore stands
    assert verdicts() == [True]

    assert again(api, run, "restore") == dict.fromkeys(TASKS, "success")
    assert again(api, run, "report") == dict.fromkeys(TASKS, "success")
    assert verdicts() == [True, True]
