"""Look which runs of a pipeline's stages are in progress in Airflow. Without an answer they are unknown, never none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart.cli.views import text
from rempart.sites import time_limit
from rempart.web.read_models.pipeline_states import NextStep

if TYPE_CHECKING:
    from rempart.airflow_api import AirflowApi

AT_MOST = 30.0
"""Seconds for the whole look. Airflow answers late while a training takes all processors."""


@dataclass(frozen=True)
class StageRun:
    """A run of a stage. `waits`: Airflow's scheduler has not started it. `since`: its start, or when it was queued."""

    stage: str
    run: str
    waits: bool
    since: datetime | None


@dataclass(frozen=True)
class RunningStages:
    """Runs in progress, in the order of the stages. `silent`: why the look has no result."""

    runs: tuple[StageRun, ...] = ()
    silent: str | None = None


def look(
    open_api: Callable[[], AirflowApi], pipeline: str, stages: Sequence[str], seconds: float = AT_MOST
) -> RunningStages:
    """Return the runs of a pipeline's stages that are queued or running."""
    found = time_limit.answers({"Airflow": lambda: runs_of(open_api(), pipeline, stages)}, seconds)["Airflow"]
    if isinstance(found, RunningStages):
        return found
    return RunningStages(silent=time_limit.reason(found))


def runs_of(api: AirflowApi, pipeline: str, stages: Sequence[str]) -> RunningStages:
    """Ask Airflow, however long it takes. Raises AirflowApiError."""
    from rempart.cli import run_follow

    return RunningStages(
        tuple(
            StageRun(stage, str(run["dag_run_id"]), run["state"] == "queued", _since(run))
            for stage, dag_id in zip(stages, run_follow.dag_ids(pipeline, stages), strict=True)
            for run in api.unfinished(dag_id)
        )
    )


def _since(run: dict[str, Any]) -> datetime | None:
    at = run.get("start_date") or run.get("queued_at")
    return datetime.fromisoformat(at) if at else None


def lines(found: RunningStages, now: datetime) -> Iterator[str]:
    """Yield a line for each run with its start and its time so far, or why they are not known. Pure."""
    if found.silent:
        yield f"UNKNOWN: whether a stage runs: {found.silent}"
    elif not found.runs:
        yield "Running: nothing"
    for run in found.runs:
        what = f"{run.stage} waits for Airflow's scheduler" if run.waits else run.stage
        if run.since:
            what += f", since {text.moment(run.since)} ({text.span((now - run.since).total_seconds())} so far)"
        yield f"Running: {what}"


def step(found: RunningStages, pipeline: str, otherwise: NextStep) -> NextStep:
    """Return what a person does next: wait for a run, where the next step would be to start one. Pure."""
    if not found.runs or not otherwise.command.startswith("rempart pipeline run"):
        return otherwise
    stages = dict.fromkeys(run.stage for run in found.runs)
    return NextStep(f"Wait for {' and '.join(stages)}, then look again.", f"rempart pipeline show {pipeline}")


def as_json(found: RunningStages | None) -> dict[str, Any] | None:
    """Return the runs for a JSON document; None if the pipeline's file is not valid. Pure."""
    if found is None:
        return None
    return {"runs": None if found.silent else found.runs, "unknown": found.silent}
