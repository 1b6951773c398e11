"""Serve one restore point, the plan of a drill of it, and the form that starts the drill."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from rempart.errors import ObjectMissing
from rempart.web import airflow_calls, sources
from rempart.web.airflow_calls import DRILL, AirflowRefused, AirflowRun
from rempart.web.details import posts, started_runs
from rempart.web.parameters import PointId
from rempart.web.read_models import points
from rempart.web.rendering import render
from rempart.web.security.access import Operator, Reader, may, requires

PATH = "/restore-points/{point}"

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")


@api.get(PATH, dependencies=[Depends(requires("read"))])
def read_point(point: PointId) -> points.Explained:
    """Return one restore point, its drills, and the decision that allowed its place."""
    try:
        return sources.point(point)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


@router.get(PATH)
async def show_point(request: Request, point: PointId, user: Reader) -> Response:
    found = await run_in_threadpool(read_point, point)
    try:
        runs: tuple[AirflowRun, ...] | None = await airflow_calls.drills(request)
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


@router.get(f"{PATH}/drill")
def plan_drill(request: Request, point: PointId, user: Operator) -> Response:
    """Show the plan of a drill, and the form that starts it."""
    return _plan(request, read_point(point), user)


@router.post(f"{PATH}/drill")
async def start_drill(request: Request, point: PointId, user: Operator, form: posts.Token = "") -> Response:
    """Start a drill in the name of the user, by Airflow's own API."""
    found = await run_in_threadpool(read_point, point)
    if not posts.is_ours(request, user, _action(point), form):
        return _plan(request, found, user, "csrf", 403)
    try:
        return await started_runs.start(request, DRILL, {"point": found.point.id}, PATH.format(point=found.point.id))
    except AirflowRefused as error:
        return _plan(request, found, user, error.what, 409)


def _plan(request: Request, found: points.Explained, user: BaseUser, refused: str = "", status: int = 200) -> Response:
    last = next((drill.rto_seconds for drill in found.drills if drill.rto_seconds is not None), None)
    form = posts.token(user, _action(found.point.id))
    content = {"found": found, "last": last, "form": form, "refused": refused}
    return render(request, "drill", status=status, current="restore-points", **content)


def _action(point: str) -> str:
    return f"restore-points/{point}/drill"
