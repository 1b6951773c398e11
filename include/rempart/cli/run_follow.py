"""Start the stages of a pipeline in Airflow and follow them: ingest, materialize, train, validate.

Ingestion is started by REST. Each next stage starts by the asset that the stage before it updated. An unchanged
snapshot updates no asset, so the next stage is then started by REST, too.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli.run_view import RunState, Show, StageState
from rempart.counts import counted
from rempart.models.gates.reasons import is_kept
from rempart.orchestration import run_notes
from rempart.settings.pipeline import ModelPipeline, Pipeline

DAGS = {"ingest": "ingest", "materialize": "materialize_features", "train": "train", "validate": "validate_model"}
"""Stages in order: the task whose result counts, and the DAG without the name of its pipeline."""
_SILENT_SECONDS, _ASKED_AGAIN_SECONDS = 120.0, 2.0


_KEY = re.compile(r"[A-Za-z0-9_.~:+-]{1,100}")
_SILENT = "Airflow does not answer; it is asked again"
Answer = TypeVar("Answer")


class StageFailed(AirflowApiError):
    """Raised when a stage of a pipeline failed, with the error of its task."""


def stages_of(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the stages of a pipeline, in order: a pipeline without a model ends at its snapshot."""
    return tuple(DAGS) if isinstance(pipeline, ModelPipeline) else ("ingest",)


def by_hand(pipeline: Pipeline) -> frozenset[str]:
    """Return the stages that the assets of a pipeline may start and skip, so that a person's run starts them."""
    return frozenset({"train"} if isinstance(pipeline, ModelPipeline) and not pipeline.retrain.on_features else ())


def dag_ids(pipeline: str, stages: Sequence[str] = tuple(DAGS)) -> tuple[str, ...]:
    """Return the DAGs of a pipeline's stages, in order."""
    return tuple(f"{DAGS[stage]}_{pipeline}" for stage in stages)


def start(api: AirflowApi, pipeline: str, key: str | None = None, stages: Sequence[str] = tuple(DAGS)) -> str:
    """Start the ingestion of a pipeline and return the run's id. With a `key`, the run of that key, if there is one.

    Raises AirflowApiError, also if a DAG of the pipeline is paused: its runs would wait for ever.
    """
    wanted = keyed_run(key) if key is not None else None
    dags = dag_ids(pipeline, stages)
    for dag_id in dags:
        api.await_dag(dag_id)
    if wanted is not None:
        api.trigger_once(dags[0], wanted)
        return wanted
    return api.trigger(dags[0])


def keyed_run(key: str) -> str:
    """Return the id of the run that an idempotency key names. Raises AirflowApiError for a key that no id can hold."""
    if not _KEY.fullmatch(key):
        raise AirflowApiError(
            f"start a run with the key '{key[:60]}': a key has 1 to 100 letters, digits or characters of _ . ~ : + -",
            "Choose another key, such as the number of the order or the day.",
        )
    return f"key__{key}"


def follow(
    api: AirflowApi,
    pipeline: str,
    run_id: str,
    show: Show,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
    stages: Sequence[str] = tuple(DAGS),
    by_hand: Collection[str] = (),
) -> tuple[RunState, dict[str, Mapping[str, Any]]]:
    """Follow a started ingestion and the stages after it. Return the last state and the result of each stage.

    Each next run is the one that this run's assets started, whatever else runs, or a new one for a stage in `by_hand`.
    The runs go on in Airflow if this is
    interrupted. Raises StageFailed with the error of the failed task, AirflowApiError if Airflow is silent for two
    minutes.
    """
    state = RunState(pipeline, clock(), tuple(StageState(name) for name in stages))
    results: dict[str, Mapping[str, Any]] = {}

    def change(name: str, **to: Any) -> None:
        nonlocal state
        changed = replace(state.stage(name), **to)
        state = state.with_stage(changed)
        show(state, changed)

    def tell(name: str, tasks: str) -> None:
        if (words := progress(tasks)) != state.stage(name).words:
            change(name, words=words)

    def patiently(name: str, call: Callable[[Callable[[str], object]], Answer]) -> Answer:
        until: float | None = None

        def answered(tasks: str) -> None:
            nonlocal until
            until = None
            tell(name, tasks)

        while True:
            try:
                return call(answered)
            except AirflowApiError as error:
                until = until or clock() + _SILENT_SECONDS
                if not error.silent or clock() >= until:
                    raise
                if state.stage(name).words != _SILENT:
                    change(name, words=_SILENT)
                wait(_ASKED_AGAIN_SECONDS)

    before = datetime.now(UTC) - timedelta(seconds=1)
    for name in stages:
        dag_id = f"{DAGS[name]}_{pipeline}"
        if name != "ingest":
            if not results["ingest"]["snapshot"]:
                change(name, condition="not run", words="there is no snapshot yet")
                continue
            change(name, condition="running", began=clock(), words="waits for its start")
            if name in by_hand or (name == "materialize" and not results["ingest"]["changed"]):
                run_id = api.trigger(dag_id)
            else:
                run_id = patiently(name, partial(_next_run, api, dag_id, before, run_id))
        change(
            name,
            condition="running",
            began=state.stage(name).began or clock(),
            words=f"started: {dag_id}, run {run_id}",
        )
        try:
            patiently(name, partial(api.follow, dag_id, run_id, timeout=math.inf))
        except AirflowApiError as error:
            if error.silent:
                raise
            failure = failed(api, dag_id, run_id, error)
            change(name, condition="failed", ended=clock(), words=failure.what)
            raise failure from error
        results[name] = api.result(dag_id, run_id, name)
        before = api.started_at(dag_id, run_id) or before
        change(name, condition="done", ended=clock(), words=run_notes.words(name, results[name]))
    return state, results


def _next_run(api: AirflowApi, dag_id: str, since: datetime, source_run: str, told: Callable[[str], object]) -> str:
    return api.await_run(dag_id, since, source_run=source_run)


def progress(tasks: str) -> str:
    """Return which tasks of a run work now, from the states of all its tasks. Pure."""
    running = [task.removesuffix(" running") for task in tasks.split(", ") if task.endswith(" running")]
    return f"task {', '.join(running)} runs" if running else "waits for Airflow's scheduler"


def failed(api: AirflowApi, dag_id: str, run_id: str, error: AirflowApiError) -> AirflowApiError:
    """Return the error of the task that failed in a run; the given error if no task of it failed."""
    told = api.failures(dag_id, run_id, run_notes.FAILURE)
    for task, words in told.items():
        what, hint = (*words, "", "")[:2]
        return StageFailed(
            f"{dag_id}, task {task}: {what or 'it failed and left no message'}",
            f"{hint} Log: {api.url}/dags/{dag_id}/runs/{run_id}".strip(),
        )
    return error


def left(pipeline: str, page: str, url: str) -> str:
    """Return what goes on after Ctrl-C. `page`: address of the run; empty if Airflow did not confirm it. Pure."""
    if not page:
        return f"Airflow did not confirm a start yet. Look whether a run began: {url}/dags/ingest_{pipeline}"
    return f"The run goes on in Airflow: {page}\nIts result, when it is done: rempart pipeline show {pipeline}"


def conclusion(pipeline: str, results: Mapping[str, Mapping[str, Any]], waiting: int | None = None) -> list[str]:
    """Return what to look at after a run that did not fail, as lines. Pure.

    `waiting`: rows of all deliveries that wait in quarantine now; None if the ledger did not answer.
    """
    ingested, judged = results["ingest"], results.get("validate")
    lines = []
    if ingested["quarantined"] or waiting:
        now = "unknown" if waiting is None else f"{waiting:,}"
        lines.append(
            f"rows refused in this run: {ingested['quarantined']:,}; rows of all deliveries that wait in quarantine "
            f"now: {now}. See them: rempart quarantine show {pipeline}"
        )
    if judged is None and ingested["snapshot"]:
        lines.append(f"Snapshot {ingested['snapshot']} is current: rempart pipeline show {pipeline}")
    elif judged is None:
        lines.append(f"No row is accepted yet. Deliver a file: rempart pipeline deliver {pipeline} FILE")
        lines.append(f"Is a delivery held back? rempart quarantine show {pipeline}")
    elif judged["promoted"]:
        lines.append(f"Version {judged['version']} is champion: rempart model show {pipeline}")
    elif judged.get("awaits"):
        lines.append(f"Version {judged['version']} passed the gate, which asks for a person's approval.")
        lines.append(f"Whose, or the answer: rempart model show {pipeline}")
    else:
        lines += _refused(pipeline, judged)
    return lines


def _refused(pipeline: str, judged: Mapping[str, Any]) -> Iterator[str]:
    """Yield that the gate refused a version and why, which champion stays, and what to do."""
    yield "Change features, trainer or gate in the pipeline file, and run the pipeline again."
    reasons = [str(reason) for reason in judged["reasons"] if not is_kept(str(reason))]
    why = f": {reasons[0].removeprefix('refused: ')}" if reasons else ""
    more = f" (and {counted(len(reasons) - 1, 'more reason')})" if len(reasons) > 1 else ""
    yield f"The gate refused version {judged['version']}{why}{more}"
    stays = f"The champion stays version {judged['champion']}" if judged["champion"] else "There is still no champion"
    yield f"{stays}. All reasons: rempart model show {pipeline} {judged['version']}"
    yield f"Where it errs: rempart model card {pipeline} {judged['version']} (the cockpit's page Models has it, too)"
