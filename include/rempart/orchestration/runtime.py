"""The platform as a task sees it: connections come from Airflow, so any secrets backend of the team works."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rempart.errors import ChampionMissing, ConnectionMissing, InputMissing, LabelsMissing
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from rempart.flows.prediction.champion import Champion
    from rempart.flows.shared.platform import Platform
    from rempart.ledger.attributed import Writer
    from rempart.settings.pipeline import ModelPipeline, Pipeline
    from rempart.sites.port import Site

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def airflow_connection(name: str) -> Connection:
    """Resolve a connection through Airflow. Raises ConnectionMissing."""
    from airflow.sdk import Connection as AirflowConnection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection: Any = AirflowConnection.get(name)
    except AirflowNotFoundException as cause:
        raise ConnectionMissing(
            f"Airflow has no connection '{name}'",
            f"Add it under Admin > Connections, in your secrets backend, or as AIRFLOW_CONN_{name.upper()}.",
        ) from cause
    return Connection(
        name,
        connection.conn_type,
        connection.host or "",
        connection.port,
        connection.login or "",
        connection.password or "",
        connection.schema or "",
        connection.extra_dejson,
    )


@contextmanager
def waits(dag_run: Any) -> Iterator[None]:
    """Skip a run that an asset started before all that it needs has arrived: what is missing starts it again.

    A run that a person or a schedule started raises the error.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    try:
        yield
    except (InputMissing, LabelsMissing, ChampionMissing) as missing:
        if dag_run.run_type != "asset_triggered":
            raise
        raise AirflowSkipException(f"It waits: {missing.what}") from missing


def cause(decided: Mapping[str, Any] | None) -> int | None:
    """Return the number of the verdict that a training is for; None for another cause. Skip a run that may not train.

    `decided`: the result of the task `decide_training`; None in a DAG without it.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    if decided and not decided["train"]:
        raise AirflowSkipException(f"It does not train: {decided['why']}")
    return decided["verdict"] if decided else None


def platform() -> Platform:
    """Return the platform of rempart.yaml with Airflow's connections. In a task, its evidence names the task."""
    from rempart.flows.shared.platform import open_platform

    return replace(open_platform(airflow_connection), writer=writer(os.environ), spark_pods=spark_pods)


def spark_pods(platform: Platform, site: Site, pipeline: Pipeline) -> Any:
    """Return what runs the Spark jobs of a pipeline at a site in pods. Its import takes seconds."""
    from rempart.flows.distributed.pods import SparkPods
    from rempart.orchestration.spark.in_pods import SparkInPods, started_by

    job = partial(
        SparkPods,
        platform.config,
        platform.connections,
        platform.ledger,
        platform.clock,
        platform.record,
        pipeline,
        site,
        by=started_by(),
    )
    return SparkInPods(site, job)


def writer(environment: Mapping[str, str]) -> Writer | None:
    """Return the task of this process, from Airflow's environment variables; None outside of tasks."""
    from rempart.ledger.attributed import Writer, run_name

    dag, run, task = (environment.get(f"AIRFLOW_CTX_{name}") for name in ("DAG_ID", "DAG_RUN_ID", "TASK_ID"))
    return Writer(dag, run_name(run), task) if dag and run and task else None


def pipeline(name: str) -> Pipeline:
    """Return the pipeline from its file, which may be newer than the parsed DAG."""
    from rempart.settings.pipelines import named

    return named(name)


def model_pipeline(name: str) -> ModelPipeline:
    """Return the pipeline from its file. Raises PipelineError if it has no model any more."""
    from rempart.settings.pipelines import named, with_model

    return with_model(named(name))


def champion(name: str) -> Champion:
    """Return the verified champion of a pipeline, which predicts rows with the columns of the source.

    In a task connections come from Airflow, elsewhere, as in a notebook, from the environment or the stack's secrets
    file. Raises PipelineError, and the errors of `flows.prediction.champion.champion_of`.
    """
    from rempart.flows.prediction.champion import champion_of
    from rempart.flows.shared.platform import open_platform

    return champion_of(platform() if writer(os.environ) else open_platform(), model_pipeline(name))


def drill_id(dag_run: Any) -> str:
    """Return the id of the drill of a run: the same in each task, and after a task was cleared."""
    from rempart.backup.drill.scratch import id_of_run

    return id_of_run(dag_run.run_after, dag_run.run_id)


def as_json(result: Any) -> dict[str, Any]:
    """Return a flow's result as plain JSON for REST callers (Airflow wraps tuples in type information)."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(result)))
    return plain


def logged(result: Result, lines: Callable[[Result], Iterable[str]]) -> Result:
    """Log a flow's result as the lines that the command line prints, and return it."""
    for line in lines(result):
        logger.info("%s", line)
    return result


def keep_canary() -> None:
    """Store one encrypted variable in Airflow, which each drill decrypts as a test."""
    from airflow.sdk import Variable

    from rempart.backup.keys.platform_secrets import CANARY, CANARY_VALUE

    if Variable.get(CANARY, default=None) != CANARY_VALUE:
        Variable.set(
            CANARY,
            CANARY_VALUE,
            description=("Test value that drills of restore points decrypt. Not a secret. Do not delete it."),
        )
