"""What every DAG has in common: defaults from rempart.yaml, one retry rule, isolation of one pipeline from another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, RetryRule, task

from rempart import config
from rempart.errors import PipelineError, RempartError
from rempart.pipeline import Pipeline, load_all

RETRY_POLICY = ExceptionRetryPolicy(
    [
        RetryRule(
            [
                "rempart.errors.SiteUnavailable",
                "rempart.errors.DatabaseUnavailable",
                "rempart.errors.TrackingUnavailable",
            ],
            RetryAction.RETRY,
            reason="the service may answer again",
        ),
        RetryRule("rempart.errors.RempartError", RetryAction.FAIL, reason="a retry would fail in the same way"),
    ]
)
"""Errors that a retry can help are retried; every other error of ours fails the task at once; anything else retries."""


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
            "retry_policy": RETRY_POLICY,
            "execution_timeout": timeout or defaults.timeout,
        },
    }


def pipeline_dags(stage: str, build: Callable[[str, Pipeline], DAG]) -> dict[str, DAG]:
    """Build `<stage>_<pipeline>` for each pipeline file.

    Airflow drops every DAG of a file that raises, so one pipeline's fault must not leave this function: a pipeline that
    is not valid, or whose DAG cannot be built, becomes a paused DAG that carries the error and its remedy.
    """
    dags = {}
    for name, loaded in load_all().items():
        dag_id = re.sub(r"[^\w.-]", "_", f"{stage}_{name}")
        if isinstance(loaded, PipelineError):
            # one sign is enough: the first stage carries it
            if stage == "ingest":
                dags[dag_id] = broken_dag(dag_id, name, loaded)
            continue
        try:
            dags[dag_id] = build(dag_id, loaded)
        except Exception as cause:
            dags[dag_id] = broken_dag(
                dag_id,
                name,
                PipelineError(
                    f"include/pipelines/{name}.yaml: DAG {dag_id} cannot be built: {cause}",
                    "Correct the value that the message names (a schedule is a cron expression in UTC).",
                ),
            )
    return dags


def broken_dag(dag_id: str, pipeline: str, error: RempartError) -> DAG:
    """A paused DAG whose page tells what is wrong and what to do, and whose one task fails with the same words."""
    doc = f"# {pipeline}: the pipeline file is not valid\n\n```\n{error.what}\n```\n\n**What to do:** {error.hint}\n"
    tags = ["rempart", "broken", *tag(pipeline)]
    with DAG(dag_id, doc_md=doc, tags=tags, is_paused_upon_creation=True, **settings()) as dag:

        @task
        def explain() -> None:
            raise PipelineError(error.what, error.hint)

        explain()
    return dag


def tag(*words: str) -> Iterable[str]:
    """Tags as Airflow accepts them (at most 100 characters)."""
    return [word[:100] for word in words]
