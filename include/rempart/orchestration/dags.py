"""Define what DAG files share: start times, the retry rule, and one DAG for each pipeline.

A faulty pipeline does not hide the DAGs of other pipelines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_parsing_context, task
from airflow.timetables.trigger import DeltaTriggerTimetable

from rempart.errors import PipelineError, RempartError
from rempart.flows.training.check_pipeline import fault_of
from rempart.orchestration.policies.enforcement import refusal, today
from rempart.orchestration.retries import RetryTransientErrors
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.settings.sections import Classification, DagDefaults
from rempart.sovereignty.classification import highest
from rempart.sovereignty.dag_rules import BROKEN, tag_of

DIALECT = {"$schema": "http://json-schema.org/draft-07/schema#"}
"""Dialect of a run parameter's schema. Airflow checks each schema itself whenever it reads a scheduled DAG, and
jsonschema's default, the newest dialect, takes three times as long (0.3 ms for a parameter, 3 ms for a trainer's).
"""
FIRST_WITHIN, _LATE = timedelta(minutes=5), timedelta(seconds=10)
"""Within the first, the DAGs of a new platform that run every so often run for the first time; see `first_run`."""
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)
LONGEST_TAG = 100
"""Characters of a tag that Airflow accepts."""


def at(cron: str) -> CronTriggerTimetable:
    """Return the timetable of a cron expression in UTC. A new platform waits for the next time.

    By default Airflow also runs the last time if it is less than a tenth of the interval ago. A weekly drill would then
    run on its first day, without a restore point. `False` switches this off completely. The five minutes keep a time
    that passes while the file is parsed.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(minutes=5))


class Periodic(DeltaTriggerTimetable):
    """The timetable of a DAG that runs every so often. The first run is at `first_run`, not in the platform's start.

    Copies, proofs and probes that are all due at once would take processors and places from the first pipeline that a
    person runs. The plugin registers this class: Airflow's scheduler reads it by its name.
    """

    def _calc_first_run(self) -> Any:
        import pendulum

        return pendulum.instance(first_run(datetime.now(UTC), self._delta))


def first_run(now: datetime, period: timedelta) -> datetime:
    """Return the next whole five minutes of the clock, or the next whole `period` if that is shorter. Pure.

    Airflow asks again each time it reads the DAG's file, so the answer must not move with `now`. A time that has just
    passed still counts: its run may not be created yet.
    """
    step = min(period, FIRST_WITHIN)
    began = datetime.fromtimestamp(0, UTC)
    return began + -((began + min(_LATE, step / 2) - now) // step) * step


def parameter(default: Any, *, description: str, **schema: Any) -> Param:
    """Return a run parameter of a scheduled DAG; `schema` is its JSON Schema, in DIALECT."""
    return Param(default, description, **{**DIALECT, **schema})


BEFORE_ALL = {"priority_weight": 1000, "weight_rule": "absolute"}
"""`default_args` of a DAG that a person starts in need: its tasks get the next free slot, before all that wait."""


def task_defaults(defaults: DagDefaults, *, owner: str, retries: int, timeout: timedelta) -> dict[str, Any]:
    """Return the `default_args` of a DAG: owner of its tasks, number of retries, and time limit.

    An error of this platform is retried only if its class says that a retry can help. The pause between two tries is
    `dags.retry_delay` of rempart.yaml, from `defaults`.
    """
    return {
        "owner": owner,
        "retries": retries,
        "retry_delay": defaults.retry_delay,
        "retry_policy": RetryTransientErrors(),
        "execution_timeout": timeout,
    }


def time_limit(pipeline: Pipeline, timeout: timedelta) -> timedelta:
    """Return how long a task may take that may run a Spark job: that job has a limit of its own."""
    return timeout + pipeline.spark.timeout if pipeline.engine == "spark" else timeout


def highest_classification() -> Classification:
    """Return the highest classification of all pipelines, which a DAG states if it moves the data of every pipeline.

    The platform's own databases are internal. If the place of a pipeline's data is unknown (its file cannot be read, or
    the policy lacks its classification), it counts as the highest classification of the policy.
    """
    policy = config.load().policy
    moved: list[Classification] = [
        loaded.classification if isinstance(loaded, Pipeline) and loaded.classification in policy else highest(policy)
        for loaded in load_all().values()
    ]
    return highest(["internal", *moved])


def is_wanted(dag_id: str) -> bool:
    """Return whether this process needs the DAG. The dag-processor needs every DAG; a task needs its own."""
    return get_parsing_context().dag_id in (None, dag_id)


def model_dags(
    stage: str,
    build: Callable[[str, ModelPipeline], DAG],
    wanted: Callable[[ModelPipeline], bool] = lambda pipeline: True,
) -> dict[str, DAG]:
    """Build `<stage>_<pipeline>` as `pipeline_dags` does, for each pipeline with a model that is `wanted`."""
    return _dags(stage, ModelPipeline, build, wanted)


def pipeline_dags(stage: str, build: Callable[[str, Pipeline], DAG]) -> dict[str, DAG]:
    """Build `<stage>_<pipeline>` for each pipeline file whose data may be where it would come to rest.

    Airflow drops every DAG of a file that raises, or of which one DAG breaks a cluster policy, so one pipeline's fault
    must not leave this function: a pipeline that is not valid or not allowed, or whose DAG cannot be built or breaks a
    rule, becomes a DAG that carries the error and its remedy. `build` makes its DAG with `auto_register=False`:
    Airflow must not find it before it was judged here.
    """
    return _dags(stage, Pipeline, build)


def _dags(
    stage: str,
    kind: type[AnyPipeline],
    build: Callable[[str, AnyPipeline], DAG],
    wanted: Callable[[AnyPipeline], bool] = lambda pipeline: True,
) -> dict[str, DAG]:
    dags, current = {}, config.load()
    for name, loaded in load_all(wanted=lambda name: is_wanted(_dag_id(stage, name))).items():
        dag_id = _dag_id(stage, name)
        fault = loaded if isinstance(loaded, PipelineError) else fault_of(loaded, current, today())
        if fault:
            # one sign is enough: the first stage carries it
            if stage == "ingest":
                dags[dag_id] = broken_dag(dag_id, name, fault)
        elif isinstance(loaded, kind) and wanted(loaded):
            dags[dag_id] = _built(dag_id, loaded, build)
    return dags


def _dag_id(stage: str, pipeline: str) -> str:
    return re.sub(r"[^\w.-]", "_", f"{stage}_{pipeline}")


def _built(dag_id: str, pipeline: AnyPipeline, build: Callable[[str, AnyPipeline], DAG]) -> DAG:
    where = f"include/pipelines/{pipeline.name}.yaml"
    try:
        dag = build(dag_id, pipeline)
        broken = refusal(dag)
    except Exception as cause:
        error = PipelineError(
            f"build DAG {dag_id} of {where}: {cause}",
            "Correct the value that the message names (a schedule is a cron expression in UTC).",
        )
    else:
        if broken is None:
            return dag
        error = PipelineError(f"{where}: {broken}", "Correct each line above in the pipeline file.")
    return broken_dag(dag_id, pipeline.name, error)


def broken_dag(dag_id: str, pipeline: str, error: RempartError) -> DAG:
    """Return a DAG whose page shows the error and the remedy, and whose only task fails with the same words.

    Nothing starts it, and it is not paused: Airflow would keep the pause after the file is corrected. It handles no
    data. It states the highest classification of the policy, so that it passes the rules itself.
    """
    doc = f"# {pipeline}: the pipeline cannot run\n\n```\n{error.what}\n```\n\n**What to do:** {error.hint}\n"
    defaults = config.load().dags
    with DAG(
        dag_id,
        doc_md=doc,
        schedule=None,
        tags=["rempart", BROKEN, tag_of(highest(config.load().policy)), pipeline[:LONGEST_TAG]],
        max_active_runs=1,
        default_args=task_defaults(defaults, owner=defaults.owner, retries=0, timeout=defaults.timeout),
    ) as dag:

        @task
        def explain() -> None:
            raise PipelineError(error.what, error.hint)

        explain()
    return dag
