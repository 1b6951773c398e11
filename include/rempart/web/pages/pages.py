"""The pages: a template over the same read models that the JSON is. Each asks for the right that it needs."""

from __future__ import annotations

from typing import Annotated, get_args
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, RedirectResponse, Response

from rempart.errors import ObjectMissing
from rempart.ledger import port
from rempart.settings import access
from rempart.web import airflow_calls, sources
from rempart.web.airflow_calls import AirflowRefused, Run
from rempart.web.api import Kind, PageNumber, PointId, Sequence, Subject
from rempart.web.pages import forms, posts
from rempart.web.read_models import data, models, overview, points, sites
from rempart.web.rendering import FOLDER, HEADERS, base, render
from rempart.web.security.access import requires

Reader = Annotated[BaseUser, Depends(requires("read"))]
Auditor = Annotated[BaseUser, Depends(requires("read_evidence"))]
Operator = Annotated[BaseUser, Depends(requires("operate"))]
KINDS: tuple[str, ...] = get_args(port.Kind)
STATIC = {
    "cockpit.css": "text/css",
    "theme.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "icon-dark.svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def home(request: Request, user: Reader) -> Response:
    return RedirectResponse(f"{base(request)}/overview")


@router.get("/static/{name}")
def static(name: str, user: Reader) -> Response:
    if name not in STATIC:
        raise HTTPException(404, "No such file")
    headers = {"Cache-Control": "private, max-age=300", "X-Content-Type-Options": "nosniff"}
    return FileResponse(FOLDER / "static" / name, media_type=STATIC[name], headers=headers)


@router.get("/overview")
def show_overview(request: Request, user: Reader) -> Response:
    found = overview.overview(sources.newest(), sources.now())
    return render(request, "overview", current="overview", found=found, evidence=may(user, "read_evidence"))


@router.get("/sites")
def show_sites(request: Request, user: Reader) -> Response:
    return render(request, "sites", current="sites", found=sites.sites(sources.newest(), sources.now()))


@router.get("/restore-points")
def show_points(request: Request, user: Reader) -> Response:
    found = points.points(sources.newest(), sources.now())
    return render(request, "restore-points", current="restore-points", found=found)


@router.get("/restore-points/{point}")
async def show_point(request: Request, point: PointId, user: Reader) -> Response:
    found = await run_in_threadpool(_explained, point)
    try:
        runs: tuple[Run, ...] | None = await airflow_calls.drills(request)
    except AirflowRefused:
        runs = None
    started = next((run for run in runs or () if run.id == request.query_params.get("run")), None)
    return render(
        request,
        "restore-point",
        current="restore-points",
        found=found,
        runs=runs,
        started=started,
        operate=may(user, "operate"),
        evidence=may(user, "read_evidence"),
    )


@router.get("/restore-points/{point}/drill")
def plan_drill(request: Request, point: PointId, user: Operator) -> Response:
    """Show the plan of a drill, and the form that starts it."""
    found = _explained(point)
    last = next((drill.rto_seconds for drill in found.drills if drill.rto_seconds is not None), None)
    form = forms.token(_key(), user.get_id(), _drill_path(point))
    return render(request, "drill", current="restore-points", found=found, last=last, form=form, refused="")


@router.post("/restore-points/{point}/drill")
async def start_drill(
    request: Request, point: PointId, user: Operator, form: Annotated[str, Form(max_length=200)] = ""
) -> Response:
    """Start a drill in the name of the user, by Airflow's own API."""
    found = await run_in_threadpool(_explained, point)
    ours = forms.is_ours(_key(), user.get_id(), _drill_path(point), form)
    if not ours or forms.from_elsewhere(request.headers.get("sec-fetch-site")):
        return _refused(request, found, user, "", 403)
    try:
        run = await airflow_calls.start_drill(request, found.point.id)
    except AirflowRefused as error:
        return _refused(request, found, user, error.what, 409)
    where = f"{base(request)}/restore-points/{found.point.id}?{urlencode({'run': run})}"
    return RedirectResponse(where, 303, headers=HEADERS)


@router.get("/models")
def show_models(request: Request, user: Reader) -> Response:
    found = models.models(sources.newest(), sources.now())
    rights = {"evidence": may(user, "read_evidence"), "operate": may(user, "operate")}
    return render(request, "models", current="models", found=found, **rights)


@router.get("/data")
def show_data(request: Request, user: Reader, page: PageNumber = 0) -> Response:
    found = data.data(sources.newest(), sources.now(), page)
    return render(request, "data", current="data", found=found, evidence=may(user, "read_evidence"))


@router.get("/ledger")
def show_ledger(
    request: Request, user: Auditor, kind: Kind = None, subject: Subject = None, before: str = ""
) -> Response:
    # an empty field of the form is sent as an empty text
    below = int(before) if before.isascii() and before.isdigit() and len(before) <= 15 else None
    found = sources.page(kind or None, subject or None, below)
    return render(request, "ledger", current="ledger", found=found, kinds=KINDS)


@router.get("/ledger/{seq}")
def show_record(request: Request, seq: Sequence, user: Auditor) -> Response:
    try:
        found = sources.record(seq)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error
    return render(request, "record", current="ledger", found=found)


def may(user: BaseUser, capability: access.Capability) -> bool:
    """Return whether a page offers what needs the right; the linked route checks again."""
    return capability in access.capabilities(user)


def _explained(point: str) -> points.Explained:
    try:
        return sources.point(point)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


def _key() -> str:
    """Return Airflow's own secret for forms and links, the same in each of its API servers."""
    return posts.key()


def _drill_path(point: str) -> str:
    return f"restore-points/{point}/drill"


def _refused(request: Request, found: points.Explained, user: BaseUser, why: str, status: int) -> Response:
    last = next((drill.rto_seconds for drill in found.drills if drill.rto_seconds is not None), None)
    form = forms.token(_key(), user.get_id(), _drill_path(found.point.id))
    return render(
        request,
        "drill",
        status=status,
        current="restore-points",
        found=found,
        last=last,
        form=form,
        refused=why or "csrf",
    )
