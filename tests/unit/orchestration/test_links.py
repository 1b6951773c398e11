"""Links as a worker requests them after a task, by Airflow's own code; and a link that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.airflow


class EndedTask:
    """A task that has ended, as the worker has it."""

    dag_id, run_id, task_id = "train_x", "manual__1", "train"
    start_date = end_date = None

    def __init__(self, link: Any, returned: Any) -> None:
        self._returned = returned
        self.task = SimpleNamespace(operator_extra_links=(link,), on_success_callback=(), template_fields=())

    def xcom_pull(self, **asked: Any) -> Any:
        if isinstance(self._returned, Exception):
            raise self._returned
        return self._returned


def ends(monkeypatch: pytest.MonkeyPatch, page: str, returned: Any) -> dict[str, Any]:
    """What the worker keeps, and what it logs as having failed."""
    from airflow.sdk.api.datamodels._generated import TaskInstanceState
    from airflow.sdk.execution_time import task_runner

    from rempart.orchestration.links import PageLink
    from rempart.orchestration.pages import MLFLOW_RUN, PLACEMENT

    kept: dict[str, Any] = {}
    monkeypatch.setattr(task_runner, "_xcom_push_to_db", lambda ti, key, value: kept.update({key: value}))
    # Airflow's own example listeners fail on a double as well, which is not of interest here
    log = SimpleNamespace(exception=lambda text, **more: kept.update({"failed": text} if "extra link" in text else {}))
    log.debug = log.info = lambda *text, **more: None
    link = PageLink(next(link for link in (MLFLOW_RUN, PLACEMENT) if link.name == page))
    task_runner.finalize(EndedTask(link, returned), TaskInstanceState.SUCCESS, {}, log)  # type: ignore[arg-type] # a double
    return kept


def test_an_address_is_made_of_what_the_task_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_MLFLOW_URL", "https://mlflow.example.eu")
    kept = ends(monkeypatch, "MLflow run", {"run_id": "ab12"})
    assert kept == {"_link_rempart_mlflow_run": "https://mlflow.example.eu/#/runs/ab12"}


def test_where_there_is_no_page_airflow_is_given_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMPART_MLFLOW_URL", raising=False)
    assert ends(monkeypatch, "MLflow run", None) == {"_link_rempart_mlflow_run": ""}


def test_a_link_that_breaks_is_logged_and_the_task_ends_as_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ends(monkeypatch, "Placement", RuntimeError("the database is away"))
    assert list(kept) == ["failed"]


def test_airflows_own_prefix_is_before_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.eu/ml")
    kept = ends(monkeypatch, "Placement", {})
    assert kept["_link_rempart_placement"].startswith("/ml/rempart/run?dag_id=train_x&")
