"""Roll a model back: show the plan from the current ledger, and start the DAG that carries it out."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, Form, HTTPException, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from rempart.flows.training.champions import decisions_on
from rempart.web import sources
from rempart.web.airflow_calls import AirflowRefused, StartedRun
from rempart.web.details import posts, started_runs
from rempart.web.read_models import rollback
from rempart.web.read_models.rollback import Rollback
from rempart.web.rendering import render
from rempart.web.security.access import Operator, may, requires

ModelName = Annotated[
    str, Path(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Name of a model, which is the name of its pipeline.")
]
Replaced = Annotated[str, Form(max_length=20, description="The version that the plan showed as champion.")]
PATH = "/models/{model}/roll-back"

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")


@api.get(PATH, dependencies=[Depends(requires("operate"))])
def read_plan(model: ModelName) -> Rollback:
    """Return the champion by the ledger's decisions, and the version to which a rollback would return."""
    return _plan(model)


@router.get(PATH)
async def show_plan(request: Request, model: ModelName, user: Operator, run: started_runs.RunId = "") -> Response:
    """Show the plan, and the form that executes it; with `run`, also the state of that run."""
    found = await run_in_threadpool(_plan, model)
    asked = await started_runs.current(request, _dag(model), run)
    return started_runs.reload_until_ended(_page(request, found, user, asked=asked), asked)


@router.post(PATH)
async def roll_back(
    request: Request, model: ModelName, user: Operator, form: posts.Token = "", replaces: Replaced = ""
) -> Response:
    """Execute the plan in the name of the user, unless another version is champion now."""
    found = await run_in_threadpool(_plan, model)
    if not posts.is_ours(request, user, _action(model, replaces), form):
        return _page(request, found, user, "csrf", 403)
    if found.champion.version != replaces or found.returns is None:
        return _page(request, found, user, "moved", 409)
    conf = {"dry_run": False, "replaces": replaces}
    try:
        return await started_runs.start(request, _dag(model), conf, PATH.format(model=model))
    except AirflowRefused as error:
        return _page(request, found, user, error.what, 409)


def _plan(model: str) -> Rollback:
    if (found := rollback.rollback(model, decisions_on(sources.ledger(), model))) is None:
        raise HTTPException(404, f"Model {model} has no recorded champion")
    return found


def _page(
    request: Request,
    found: Rollback,
    user: BaseUser,
    refused: str = "",
    status: int = 200,
    asked: StartedRun | None = None,
) -> Response:
    form = posts.token(user, _action(found.model, found.champion.version))
    content: dict[str, Any] = {"found": found, "form": form, "refused": refused, "asked": asked}
    linked = may(user, "read_evidence")
    return render(request, "roll-back", status=status, current="models", evidence=linked, **content)


def _dag(model: str) -> str:
    return f"roll_back_model_{model}"


def _action(model: str, replaces: str) -> str:
    return f"models/{model}/roll-back/{replaces}"
