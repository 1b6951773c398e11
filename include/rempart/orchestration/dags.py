"""What every DAG has in common: defaults from rempart.yaml, one retry rule, a stated classification, and that one
pipeline's fault never hides another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, task

from rempart.errors import PipelineError, RempartError
from rempart.flows.training.check_pipeline import check
from rempart.orchestration.policies.enforcement import refusal, today
from rempart.orchestration.retries import RetryTransientErrors
from rempart.settings import config
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.sovereignty.classification import highest
from rempart.sovereignty.dag_rules import pipeline_violations, tag_of


def at(cron: str) -> CronTriggerTimetable:
    """The times of a cron expression in UTC; a platform that is new begins with the next one.

    Airflow would begin with the last one for a tenth of the interval: a weekly drill on its first day, without a point.
    `False` means that tenth as well. Five minutes, so that the first time is not lost if it comes as the file is read.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(minutes=5))


def settings(owner: str | None = None, *, timeout: timedelta | None = None) -> dict[str, Any]:
    """Keyword arguments for a DAG: owner, retries and timeouts from `dags` of rempart.yaml, one run at a time."""
    defaults = config.load().dags
    return {
        "schedule": None,
        "catchup": False,
        "max_active_runs": 1,
        "default_args": {
            "owner": owner or defaults.owner,
            "retries": defaults.retries,
            "retry_delay": defaults.retry_delay,
            "retry_policy": RetryTransientErrors(),
            "execution_timeout": timeout or defaults.timeout,
        },
    }


def pipeline_settings(stage: str, pipeline: Pipeline, *, timeout: timedelta | None = None) -> dict[str, Any]:
    """Settings of a pipeline's DAG: its owner, and the classification of what it handles.

    It does not register itself: `pipeline_dags` looks at it first, and hands it to the DAG file.
    """
    tags = ["rempart", stage, tag_of(pipeline.classification)]
    return settings(pipeline.owner, timeout=timeout) | {"tags": tags, "auto_register": False}


def platform_settings(stage: str) -> dict[str, Any]:
    """Settings of a DAG that moves what every pipeline made: it states the highest classification among them.

    The platform's own databases are internal. A pipeline of which nobody knows where its data may be (its file cannot
    be read, or the policy does not know its classification) counts as the highest that the policy knows.
    """
    policy = config.load().policy
    moved = [
        loaded.classification if isinstance(loaded, Pipeline) and loaded.classification in policy else highest(policy)
        for loaded in load_all().values()
    ]
    return settings() | {"tags": ["rempart", stage, tag_of(highest(["internal", *moved]))]}


def pipeline_dags(stage: str, build: Callable[[str, Pipeline], DAG]) -> dict[str, DAG]:
    """Build `<stage>_<pipeline>` for each pipeline file whose data may be where it would come to rest.

    Airflow drops every DAG of a file that raises, or of which one DAG breaks a cluster policy, so one pipeline's fault
    must not leave this function: a pipeline that is not valid or not allowed, or whose DAG cannot be built or breaks a
    rule, becomes a paused DAG that carries the error and its remedy.
    """
    dags = {}
    for name, loaded in load_all().items():
        dag_id = re.sub(r"[^\w.-]", "_", f"{stage}_{name}")
        fault = loaded if isinstance(loaded, PipelineError) else _not_allowed(loaded) or _cannot_run(loaded)
        if fault:
            # one sign is enough: the first stage carries it
            if stage == "ingest":
                dags[dag_id] = broken_dag(dag_id, name, fault)
        elif isinstance(loaded, Pipeline):
            dags[dag_id] = _built(dag_id, loaded, build)
    return dags


def _not_allowed(pipeline: Pipeline) -> PipelineError | None:
    found = pipeline_violations(config.load(), pipeline.classification, on=today())
    if not found:
        return None
    lines = "".join(f"\n[{one.rule}] {one.what}" for one in found)
    return PipelineError(
        f"include/pipelines/{pipeline.name}.yaml: its data may not be where this platform would put it:{lines}",
        " / ".join(dict.fromkeys(one.remedy for one in found)),
    )


def _cannot_run(pipeline: Pipeline) -> PipelineError | None:
    try:
        check(pipeline, thorough=False)
    except PipelineError as fault:
        return fault
    return None


def _built(dag_id: str, pipeline: Pipeline, build: Callable[[str, Pipeline], DAG]) -> DAG:
    where = f"include/pipelines/{pipeline.name}.yaml"
    try:
        dag = build(dag_id, pipeline)
        broken = refusal(dag)
    except Exception as cause:
        error = PipelineError(
            f"{where}: DAG {dag_id} cannot be built: {cause}",
            "Correct the value that the message names (a schedule is a cron expression in UTC).",
        )
    else:
        if broken is None:
            return dag
        error = PipelineError(f"{where}: {broken}", "Correct each line above in the pipeline file.")
    return broken_dag(dag_id, pipeline.name, error)


def broken_dag(dag_id: str, pipeline: str, error: RempartError) -> DAG:
    """A paused DAG whose page tells what is wrong and what to do, and whose one task fails with the same words.

    It handles no data; it states the highest classification that the policy knows, so that it passes the rules itself.
    """
    doc = f"# {pipeline}: the pipeline cannot run\n\n```\n{error.what}\n```\n\n**What to do:** {error.hint}\n"
    tags = ["rempart", "broken", tag_of(highest(config.load().policy)), *tag(pipeline)]
    with DAG(dag_id, doc_md=doc, tags=tags, is_paused_upon_creation=True, **settings()) as dag:

        @task
        def explain() -> None:
            raise PipelineError(error.what, error.hint)

        explain()
    return dag


def tag(*words: str) -> Iterable[str]:
    """Tags as Airflow accepts them (at most 100 characters)."""
    return [word[:100] for word in words]
