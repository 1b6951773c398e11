"""Start a DAG run from one of our forms, and follow the run on the page of the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from rempart.web import airflow_calls
from rempart.web.airflow_calls import AirflowRefused, StartedRun
from rempart.web.rendering import HEADERS, base

RunId = Annotated[str, Query(max_length=250, description="A run that this page started.")]


async def start(request: Request, dag_id: str, conf: Mapping[str, Any], page: str) -> RedirectResponse:
    """Trigger a DAG in the name of the user, and redirect to `page?run=<id>`. Raises AirflowRefused."""
    run = await airflow_calls.start(request, dag_id, conf)
    return RedirectResponse(f"{base(request)}{page}?{urlencode({'run': run})}", 303, headers=HEADERS)


async def current(request: Request, dag_id: str, run: str) -> StartedRun | None:
    """Return a run's current state. Return None if `run` is empty or Airflow does not show such a run to the user."""
    try:
        return await airflow_calls.asked(request, dag_id, run) if run else None
    except AirflowRefused:
        return None


def reload_until_ended(answer: Response, run: StartedRun | None) -> Response:
    """Return the page. The browser reloads it every two seconds while the run has not ended."""
    if run is not None and not run.ended:
        answer.headers["Refresh"] = "2"
    return answer
