"""Apply the rules of rempart.sovereignty to Airflow's objects: a DAG when it is read, a pod before it is made."""

from __future__ import annotations

import time
from copy import deepcopy
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from typing import Any

from rempart.orchestration import runtime
from rempart.orchestration.policies.dag_facts import dag_facts
from rempart.settings import config
from rempart.settings.config import Config
from rempart.sovereignty import dag_rules, pods
from rempart.sovereignty.classification import ORDER, highest


def today() -> date:
    return datetime.now(UTC).date()


@lru_cache(maxsize=1)
def _config_at(second: int) -> tuple[Config, dag_rules.JudgedPlacements]:
    """Return the configuration, read at most once a second, and cached verdicts: a folder may hold many DAGs."""
    return config.load(), {}


def refusal(dag: Any) -> str | None:
    """Return every rule that a DAG breaks as one text for its import error, or None."""
    current, judged = _config_at(int(time.monotonic()))
    violations = dag_rules.violations(current, dag_facts(dag), on=today(), judged=judged)
    return dag_rules.message(dag.dag_id, violations) if violations else None


@cache
def _kubernetes_executor() -> bool:
    from airflow.configuration import conf

    return "KubernetesExecutor" in conf.get_mandatory_value("core", "executor")


def label_worker_pods(dag: Any) -> None:
    """Label each task's own pod with its DAG's classification under the KubernetesExecutor.

    The scheduler makes that pod and does not know the DAG's tags. If the task has a higher label, it stays.
    """
    classification = dag_rules.stated_classification(dag.tags)
    if classification is None or not _kubernetes_executor():
        return
    from kubernetes.client import V1ObjectMeta, V1Pod

    for task in dag.tasks:
        override = deepcopy((task.executor_config or {}).get("pod_override")) or V1Pod()
        override.metadata = override.metadata or V1ObjectMeta()
        own = (override.metadata.labels or {}).get(pods.LABEL)
        stated = highest([classification, *(level for level in ORDER if level == own)])
        override.metadata.labels = {**(override.metadata.labels or {}), pods.LABEL: stated}
        executor_config = {**(task.executor_config or {}), "pod_override": override}
        if task.is_mapped:
            task.partial_kwargs["executor_config"] = executor_config
        else:
            task.executor_config = executor_config


def restrict(pod: Any) -> None:
    """Change a V1Pod in place into the allowed pod. Raises PlacementDenied.

    In a task the decision is recorded as evidence. In the scheduler (KubernetesExecutor) it is only logged; the
    scheduler fails the task and shows the reason.
    """
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    running = _running()
    stated = [dag_rules.stated_classification(running["dag"].tags)] if running else []
    plan = pods.plan(
        config.load(),
        PodGenerator.serialize_pod(pod),
        [rule for rule in stated if rule],
        connection=getattr(running["task"], "kubernetes_conn_id", None) if running else None,
        on=today(),
    )
    if running:
        runtime.platform().record(plan.decision)
    if plan.pod is None:
        raise plan.decision.refusal()
    planned_pod = PodGenerator.deserialize_model_dict(plan.pod)
    pod.metadata, pod.spec = planned_pod.metadata, planned_pod.spec


def _running() -> Any:
    """Return the context of the task that runs in this process, or None, as in the scheduler."""
    from airflow.sdk import get_current_context

    try:
        return get_current_context()
    except RuntimeError:
        return None
