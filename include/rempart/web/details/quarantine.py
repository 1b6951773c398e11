"""Serve a pipeline's quarantine: look at rows, check a delivery again, accept it. Each action is a DAG run.

The API server cannot reach a site. For a look it makes an age key: the public half goes to the task that reads the
rows, the secret half only into a cookie of the requesting browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from rempart.backup.keys import age
from rempart.flows.ingestion.quarantine import MAX_ROWS
from rempart.web import airflow_calls, sources
from rempart.web.airflow_calls import AirflowRefused, StartedRun
from rempart.web.details import posts, started_runs
from rempart.web.details.started_runs import RunId
from rempart.web.read_models import quarantine
from rempart.web.read_models.quarantine import Delivery, Quality
from rempart.web.rendering import HEADERS, base, render
from rempart.web.security import sealed_rows
from rempart.web.security.access import Operator, Reader, may, requires

COOKIE = "rempart_look"
LIFETIME = 1800
"""Seconds for which a browser can read the rows that it requested."""
PipelineName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="A pipeline's name.")]
DeliveryId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="The SHA-256 of a delivery.")]
Action = Literal["look", "again", "accept"]
SEES_DATA = Depends(requires("read_data"))
PAGE, LOOK = "/data/{pipeline}", "/data/{pipeline}/quarantine/{delivery}"

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")


@api.get(PAGE, dependencies=[Depends(requires("read"))])
def read_pipeline(pipeline: PipelineName) -> Quality:
    """Return a pipeline's quarantine by delivery, and each expectation's results over time. No row's value."""
    return _quality(pipeline)


@router.get(PAGE)
def show_pipeline(request: Request, pipeline: PipelineName, user: Reader) -> Response:
    rights = {"operate": may(user, "operate"), "read_data": may(user, "read_data")}
    quality = _quality(pipeline)
    return render(request, "pipeline", current="data", found=quality, evidence=may(user, "read_evidence"), **rights)


@router.get(f"{LOOK}/look", dependencies=[SEES_DATA])
def plan_look(request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator) -> Response:
    """Show the effects of a look, and the form that starts it."""
    return _plan(request, "look", _quality(pipeline), _delivery(pipeline, delivery), user)


@router.post(f"{LOOK}/look", dependencies=[SEES_DATA])
async def start_look(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator, form: posts.Token = ""
) -> Response:
    """Start a task that reads the rows for a key that only this browser gets."""
    key, page = age.new_identity(), LOOK.format(pipeline=pipeline, delivery=delivery)
    conf = {"delivery": delivery, "recipient": key.recipient}
    answer = await _start(request, "look", pipeline, delivery, user, form, conf)
    if answer.status_code == 303:
        cookie: dict[str, Any] = {"path": base(request) + page, "secure": request.url.scheme == "https"}
        answer.set_cookie(COOKIE, key.secret, max_age=LIFETIME, httponly=True, samesite="strict", **cookie)
    return answer


@router.get(f"{LOOK}/rows", dependencies=[SEES_DATA])
async def show_rows(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Reader, run: RunId = ""
) -> Response:
    """Show the rows once the task has read them; until then, its progress."""
    held_delivery = await run_in_threadpool(_delivery, pipeline, delivery)
    asked = await _asked(request, "look", pipeline, delivery, run)
    rows = await _rows(request, pipeline, delivery, asked)
    waits = asked is not None and not asked.ended and COOKIE in request.cookies
    answer = render(
        request, "rows", current="data", delivery=held_delivery, pipeline=pipeline, asked=asked, rows=rows, waits=waits
    )
    return started_runs.reload_until_ended(answer, asked) if waits else answer


@router.get(f"{LOOK}/rows.csv", dependencies=[SEES_DATA])
async def download_rows(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Reader, run: RunId = ""
) -> Response:
    """Return the same rows as a file; redirect to the page without the key."""
    asked = await _asked(request, "look", pipeline, delivery, run)
    if (rows := await _rows(request, pipeline, delivery, asked)) is None:
        here = f"{base(request)}/data/{pipeline}/quarantine/{delivery}/rows"
        return RedirectResponse(f"{here}?{urlencode({'run': run})}", 303, headers=HEADERS)
    name = f"quarantine-{pipeline}-{delivery[:12]}.csv"
    headers = HEADERS | {"Content-Disposition": f'attachment; filename="{name}"'}
    text = sealed_rows.as_csv(rows).encode("utf-8", "backslashreplace")
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get(f"{LOOK}/again")
async def plan_again(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator, run: RunId = ""
) -> Response:
    """Show the effects of ingesting a delivery again, and the form; with `run`, the state of that run."""
    return await _show(request, "again", pipeline, delivery, user, run)


@router.post(f"{LOOK}/again")
async def start_again(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator, form: posts.Token = ""
) -> Response:
    """Ingest a delivery again, in the name of the user."""
    return await _start(request, "again", pipeline, delivery, user, form, {"again": delivery})


@router.get(f"{LOOK}/accept")
async def plan_accept(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator, run: RunId = ""
) -> Response:
    """Show what accepting a delivery publishes, and the form; with `run`, the state of that run."""
    return await _show(request, "accept", pipeline, delivery, user, run)


@router.post(f"{LOOK}/accept")
async def start_accept(
    request: Request, pipeline: PipelineName, delivery: DeliveryId, user: Operator, form: posts.Token = ""
) -> Response:
    """Accept a held-back delivery in the name of the user, unless its plan has changed."""
    conf = {"again": delivery, "accept_quarantined": True}
    return await _start(request, "accept", pipeline, delivery, user, form, conf)


def _quality(pipeline: str) -> Quality:
    if (quality := quarantine.quality(sources.newest(), pipeline, sources.now())) is None:
        raise HTTPException(404, f"No pipeline {pipeline} is known: include/pipelines has no such file")
    return quality


def _delivery(pipeline: str, delivery: str) -> Delivery:
    for candidate in quarantine.deliveries(sources.newest(), pipeline):
        if candidate.sha256 == delivery:
            return candidate
    raise HTTPException(404, f"No delivery {delivery[:12]} of {pipeline} is recorded")


def _both(pipeline: str, delivery: str) -> tuple[Quality, Delivery]:
    return _quality(pipeline), _delivery(pipeline, delivery)


async def _show(request: Request, action: Action, pipeline: str, delivery: str, user: BaseUser, run: str) -> Response:
    """Return the plan of an action, with the state of the run that it started."""
    found, held_delivery = await run_in_threadpool(_both, pipeline, delivery)
    asked = await _asked(request, action, pipeline, delivery, run)
    return started_runs.reload_until_ended(_plan(request, action, found, held_delivery, user, asked=asked), asked)


async def _start(
    request: Request,
    action: Action,
    pipeline: str,
    delivery: str,
    user: BaseUser,
    form: str,
    conf: Mapping[str, Any],
) -> Response:
    """Start the DAG of an action and redirect to its page; without a valid form, return the plan again."""
    found, held_delivery = await run_in_threadpool(_both, pipeline, delivery)
    offered = action != "accept" or held_delivery.held_back
    if not offered or not posts.is_ours(request, user, _form_of(action, pipeline, held_delivery), form):
        return _plan(request, action, found, held_delivery, user, "csrf", 403)
    page = f"{LOOK.format(pipeline=pipeline, delivery=delivery)}/{'rows' if action == 'look' else action}"
    try:
        return await started_runs.start(request, _dag(action, pipeline), conf, page)
    except AirflowRefused as error:
        return _plan(request, action, found, held_delivery, user, error.what, 409)


async def _asked(request: Request, action: Action, pipeline: str, delivery: str, run: str) -> StartedRun | None:
    """Return the run if an action on this delivery started it."""
    found = await started_runs.current(request, _dag(action, pipeline), run)
    return found if found and delivery in (found.conf.get("delivery"), found.conf.get("again")) else None


async def _rows(
    request: Request, pipeline: str, delivery: str, asked: StartedRun | None
) -> sealed_rows.OpenedRows | None:
    secret = request.cookies.get(COOKIE)
    if not secret or asked is None or asked.state != "success":
        return None
    try:
        answer = await airflow_calls.returned(request, _dag("look", pipeline), asked.id, "preview")
    except AirflowRefused:
        return None
    return await run_in_threadpool(sealed_rows.opened, answer, secret, pipeline, delivery)


def _plan(
    request: Request,
    action: Action,
    quality: Quality,
    delivery: Delivery,
    user: BaseUser,
    refused: str = "",
    status: int = 200,
    asked: StartedRun | None = None,
) -> Response:
    form = posts.token(user, _form_of(action, quality.pipeline, delivery))
    accepts = action == "accept"
    rows, offered = (delivery.good, delivery.held_back) if accepts else (delivery.quarantined, True)
    content: dict[str, Any] = {"found": quality, "delivery": delivery, "form": form, "refused": refused, "asked": asked}
    content |= {"action": action, "rows": rows, "offered": offered}
    template = "look" if action == "look" else "quarantine_plan"
    return render(request, template, status=status, current="data", most=MAX_ROWS, **content)


def _dag(action: Action, pipeline: str) -> str:
    return f"preview_quarantine_{pipeline}" if action == "look" else f"ingest_{pipeline}"


def _form_of(action: Action, pipeline: str, delivery: Delivery) -> str:
    """Return the action for which a form is valid.

    A form that accepts is valid for one recorded state of the delivery.
    """
    state = f"/{delivery.seq}" if action == "accept" else ""
    return f"{LOOK.format(pipeline=pipeline, delivery=delivery.sha256)}/{action}{state}"
