"""Serve the data profile of a pipeline's newest snapshot. Each look is a DAG run, as for quarantined rows.

The profile is a page of its own with its own style sheet. Its content policy lets a browser load nothing, run nothing,
and send nothing.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response

from rempart.backup.keys import age
from rempart.errors import ConfigError, IntegrityError, KeyWrong
from rempart.ingestion.profiles.page import POLICY
from rempart.web import airflow_calls, sources
from rempart.web.airflow_calls import AirflowRefused, StartedRun
from rempart.web.details import posts, started_runs
from rempart.web.details.quarantine import LIFETIME, PipelineName
from rempart.web.details.started_runs import RunId
from rempart.web.read_models import data
from rempart.web.rendering import HEADERS, base, render
from rempart.web.security.access import Operator, Reader, requires

COOKIE = "rempart_profile"
PAGE = "/data/{pipeline}/profile"
LARGEST = 8 << 20
"""Bytes of a profile at most, packed or not: the task writes a fraction of that."""
SEES_DATA = Depends(requires("read_data"))
_SHOWN = HEADERS | {"Content-Security-Policy": f"{POLICY}; frame-ancestors 'self'; sandbox"}

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")


@router.get(PAGE, dependencies=[SEES_DATA])
def plan_profile(request: Request, pipeline: PipelineName, user: Operator) -> Response:
    """Show the effects of a look at the profile, and the form that starts it."""
    snapshot = _snapshot(pipeline)
    form = posts.token(user, _form_of(pipeline, snapshot)) if snapshot else ""
    return _page(request, pipeline, plan=True, snapshot=snapshot, form=form)


@router.post(PAGE, dependencies=[SEES_DATA])
async def start_profile(request: Request, pipeline: PipelineName, user: Operator, form: posts.Token = "") -> Response:
    """Start a task that returns the profile for a key that only this browser gets."""
    snapshot = await run_in_threadpool(_snapshot, pipeline)
    action = _form_of(pipeline, snapshot)
    plan: dict[str, Any] = {"plan": True, "snapshot": snapshot, "form": posts.token(user, action) if snapshot else ""}
    if not snapshot or not posts.is_ours(request, user, action, form):
        return _page(request, pipeline, 403, refused="csrf", **plan)
    key, page = age.new_identity(), PAGE.format(pipeline=pipeline)
    conf = {"snapshot": snapshot, "recipient": key.recipient}
    try:
        answer = await started_runs.start(request, _dag(pipeline), conf, f"{page}/page")
    except AirflowRefused as error:
        return _page(request, pipeline, 409, refused=error.what, **plan)
    cookie: dict[str, Any] = {"path": base(request) + page, "secure": request.url.scheme == "https"}
    answer.set_cookie(COOKIE, key.secret, max_age=LIFETIME, httponly=True, samesite="strict", **cookie)
    return answer


@router.get(f"{PAGE}/page", dependencies=[SEES_DATA])
async def show_profile(request: Request, pipeline: PipelineName, user: Reader, run: RunId = "") -> Response:
    """Return the profile once the task has ended; until then, a page with its progress."""
    asked = await started_runs.current(request, _dag(pipeline), run)
    if (profile := await _profile(request, pipeline, asked)) is not None:
        return HTMLResponse(profile, headers=_SHOWN)
    waits = asked is not None and not asked.ended and COOKIE in request.cookies
    answer = _page(request, pipeline, asked=asked, waits=waits)
    return started_runs.reload_until_ended(answer, asked) if waits else answer


def opened(answer: Any, secret: str) -> bytes | None:
    """Return the profile that a run returned; None if this key does not open it."""
    sealed = answer.get("sealed") if isinstance(answer, dict) else None
    if not isinstance(sealed, str) or len(sealed) > LARGEST:
        return None
    try:
        identity = age.read_identity(secret, "the browser's cookie")
        packed = age.decrypt(base64.b64decode(sealed, validate=True), identity, "the profile")
        unpacking = zlib.decompressobj(wbits=31)
        body = unpacking.decompress(packed, LARGEST)
    except (ConfigError, KeyWrong, IntegrityError, binascii.Error, ValueError, zlib.error):
        return None
    return body if unpacking.eof else None


async def _profile(request: Request, pipeline: str, asked: StartedRun | None) -> bytes | None:
    secret = request.cookies.get(COOKIE)
    if not secret or asked is None or asked.state != "success":
        return None
    try:
        answer = await airflow_calls.returned(request, _dag(pipeline), asked.id, "profile")
    except AirflowRefused:
        return None
    return await run_in_threadpool(opened, answer, secret)


def _page(request: Request, pipeline: str, status: int = 200, **content: Any) -> Response:
    known: dict[str, Any] = {"plan": False, "snapshot": None, "form": "", "refused": "", "asked": None, "waits": False}
    return render(
        request, "profile", status=status, current="data", pipeline=pipeline, dag=_dag(pipeline), **known | content
    )


def _snapshot(pipeline: str) -> str | None:
    """Return the id of the newest snapshot on record, or None before the first."""
    return data.newest_snapshot(sources.newest(), pipeline)


def _dag(pipeline: str) -> str:
    return f"profile_data_{pipeline}"


def _form_of(pipeline: str, snapshot: str | None) -> str:
    return f"{PAGE.format(pipeline=pipeline)}/{snapshot}"
