"""Define links from a task to a page. A DAG file gives them to its tasks with `linked`.

Airflow stores a link's name and key with the DAG, asks the worker for its address when a task has ended, and keeps that
as an XCom. If a link fails, the task's log says so and the link is missing; the task is not affected.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, XComArg

from rempart.orchestration.pages import At, Page

MLFLOW_URL = "REMPART_MLFLOW_URL"
"""Environment variable of tasks with the public address of MLflow's pages; without it there is no link."""


class PageLink(BaseOperatorLink):
    """A page as Airflow has links."""

    def __init__(self, page: Page) -> None:
        self._page = page

    @property
    def name(self) -> str:
        return self._page.name

    @property
    def xcom_key(self) -> str:
        return f"_link_rempart_{self._page.name.lower().replace(' ', '_')}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, in the worker where `ti_key` is the running task.

        Empty if there is no page: Airflow then shows no link.
        """
        from airflow.configuration import conf

        returned = ti_key.xcom_pull(task_ids=ti_key.task_id, default=None)
        where = At(
            ti_key.dag_id,
            ti_key.run_id,
            returned if isinstance(returned, dict) else {},
            conf.get("api", "base_url", fallback="") or "",
            os.environ.get(MLFLOW_URL),
        )
        return self._page.to(where) or ""


def linked(task: XComArg | BaseOperator, *pages: Page) -> Any:
    """Give a task its links, where the DAG is defined; returns what it was given.

    Airflow's `@task` takes no links, so `linked(train(), pages.MLFLOW_RUN)` stands where `train()` would.
    """
    operator: Any = getattr(task, "operator", task)
    operator.operator_extra_links = tuple(PageLink(page) for page in pages)
    return task
