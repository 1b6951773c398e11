"""Serve the tabs on Airflow's pages of a DAG, a run and a task: their records in the ledger, also as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from rempart.web import sources
from rempart.web.read_models import runs
from rempart.web.rendering import render
from rempart.web.security.access import Reader, may, requires

DagId = Annotated[str, Query(min_length=1, max_length=250, description="A DAG's id.")]
RunId = Annotated[str, Query(min_length=1, max_length=250, description="A run's id.")]
TaskId = Annotated[str | None, Query(max_length=250, description="A task's id; without it, all tasks of the run.")]

api = APIRouter(prefix="/api")
router = APIRouter(include_in_schema=False)


@api.get("/dag", dependencies=[Depends(requires("read"))])
def read_dag(dag_id: DagId) -> runs.RunRecords:
    """Return the newest evidence of a DAG, by topic."""
    return runs.of_dag(sources.newest(sources.JUST_NOW), dag_id, sources.now())


@api.get("/run", dependencies=[Depends(requires("read"))])
def read_run(dag_id: DagId, run_id: RunId, task_id: TaskId = None) -> runs.RunRecords:
    """Return the records that one run of a DAG, or one task of it, wrote into the ledger."""
    return runs.of_run(sources.newest(sources.JUST_NOW), dag_id, run_id, task_id or None, sources.now())


@router.get("/dag")
def show_dag(request: Request, user: Reader, dag_id: DagId) -> Response:
    run_records = read_dag(dag_id)
    return render(request, "run", found=run_records, evidence=may(user, "read_evidence"))


@router.get("/run")
def show_run(request: Request, user: Reader, dag_id: DagId, run_id: RunId, task_id: TaskId = None) -> Response:
    run_records = read_run(dag_id, run_id, task_id)
    return render(request, "run", found=run_records, evidence=may(user, "read_evidence"))
