"""Call Airflow's own REST API in the name of the user who sent the request, without leaving the process.

Airflow checks the user's rights, validates the parameters, and writes its audit log with the user's name. A page of
ours can do nothing that its user could not do in Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import Request

from rempart.errors import RempartError
from rempart.web.request_scope import AIRFLOW

DRILL = "restore_drill"


class AirflowRefused(RempartError):
    """Airflow did not do what the user asked."""


@dataclass(frozen=True)
class AirflowRun:
    """One run of a DAG."""

    id: str
    state: str
    at: datetime | None


async def drills(request: Request, limit: int = 5) -> tuple[AirflowRun, ...]:
    """Return the newest runs of the drill. Raises AirflowRefused."""
    path = f"/api/v2/dags/{DRILL}/dagRuns?order_by=-run_after&limit={limit}"
    found = (await _call(request, "GET", path))["dag_runs"]
    return tuple(
        AirflowRun(
            str(run["dag_run_id"]),
            str(run["state"]),
            datetime.fromisoformat(run["run_after"]) if run["run_after"] else None,
        )
        for run in found
    )


@dataclass(frozen=True)
class StartedRun:
    """A run that a page of ours started, with its configuration."""

    id: str
    state: str
    conf: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return self.state in ("success", "failed")


async def start(request: Request, dag_id: str, conf: Mapping[str, Any]) -> str:
    """Trigger a DAG and return the run's id. Raises AirflowRefused."""
    answer = await _call(request, "POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
    return str(answer["dag_run_id"])


async def asked(request: Request, dag_id: str, run: str) -> StartedRun:
    """Return the current state of a run. Raises AirflowRefused, also for an unknown id."""
    found = await _call(request, "GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run, safe='')}")
    return StartedRun(str(found["dag_run_id"]), str(found["state"]), dict(found.get("conf") or {}))


async def returned(request: Request, dag_id: str, run: str, task: str) -> Any:
    """Return the result of a run's task. Raises AirflowRefused."""
    path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run, safe='')}/taskInstances/{task}/xcomEntries/return_value"
    return (await _call(request, "GET", path))["value"]


async def _call(request: Request, method: str, path: str, body: Any = None) -> Any:
    airflow = request.scope.get(AIRFLOW)
    if airflow is None:
        raise AirflowRefused(
            "call Airflow's API: it does not run in this process", "Open the page on Airflow's API server."
        )
    given = request.headers.get("authorization") or f"Bearer {request.cookies.get(COOKIE_NAME_JWT_TOKEN, '')}"
    transport = httpx.ASGITransport(app=airflow, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        answer = await client.request(method, path, json=body, headers={"Authorization": given})
    if answer.is_error:
        raise AirflowRefused(
            f"{method} {path}: HTTP {answer.status_code}: {answer.text[:300]}",
            "Ask an admin for the right, or read the API server's log.",
        )
    return answer.json()
