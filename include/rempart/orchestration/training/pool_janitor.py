"""Find and delete orphaned pods and TrainJobs of jobs in every pool, and drivers of Spark jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rempart.airflow_api import AirflowApi
from rempart.errors import PoolUnavailable
from rempart.orchestration import runtime
from rempart.settings import config
from rempart.spark.kubernetes import labels
from rempart.spark.kubernetes.labels import STARTED_BY
from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import train_job
from rempart.training.kubernetes.orphans import OrphanFinding, PodSeen

logger = logging.getLogger(__name__)


def clean_up(*, dry_run: bool) -> dict[str, Any]:
    """Classify every job's pod in every pool, and delete the orphaned pods. Return the findings by pool.

    If a pool does not answer, the others are still checked. Raises PoolUnavailable for it at the end.
    """
    from airflow.sdk.exceptions import AirflowException
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    from rempart.flows.training.clean_up_pods import find_orphans, judge_driver, note

    platform = runtime.platform()
    api = AirflowApi(platform.connections("airflow_api"))
    orphan_findings: list[OrphanFinding] = []
    away: dict[str, str] = {}
    for name in platform.config.gpu_pools:
        try:
            hook = _hook(platform.config.gpu_pools[name].kubernetes_connection)
            pods = [*_pods(hook, platform.config, name), *_train_jobs(hook, platform.config, name)]
            drivers = [*_spark_drivers(hook, platform.config, name)]
        except (ApiException, ConfigException, HTTPError, AirflowException) as cause:
            away[name] = type(cause).__name__
            continue
        pipelines = {pod.uid: pipeline for pod, pipeline in pods}
        for finding in find_orphans(platform, api, pods):
            orphan_findings.append(finding)
            logger.info("pool %s: %s: %s%s", name, finding.pod.name, "orphan, " if finding.orphan else "", finding.why)
            if finding.orphan and not dry_run:
                _delete(hook, platform.config.gpu_pools[name].namespace, finding.pod)
                note(platform, finding, pipelines[finding.pod.uid])
        for driver, by in drivers:
            finding = judge_driver(api, driver, by, platform.clock())
            orphan_findings.append(finding)
            logger.info("pool %s: %s: %s%s", name, driver.name, "orphan, " if finding.orphan else "", finding.why)
            if finding.orphan and not dry_run:
                _delete(hook, platform.config.gpu_pools[name].namespace, driver)
    if away:
        pools = ", ".join(f"{name} ({why})" for name, why in away.items())
        raise PoolUnavailable(f"Pools not checked: {pools}", "Run `rempart pool doctor`. The other pools were checked.")
    orphans = [seen.pod.name for seen in orphan_findings if seen.orphan]
    return {"pods": len(orphan_findings), "orphans": orphans, "deleted": 0 if dry_run else len(orphans)}


def _hook(connection: str) -> Any:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    return KubernetesHook(conn_id=connection)


_SELECTOR = ",".join((*(f"{key}={value}" for key, value in shape.MANAGED_BY.items()), shape.JOB))


def _pods(hook: Any, settings: config.Config, pool: str) -> Iterator[tuple[PodSeen, str]]:
    client = hook.core_v1_client
    for pod in client.list_namespaced_pod(settings.gpu_pools[pool].namespace, label_selector=_SELECTOR).items:
        yield _seen(pool, client.api_client.sanitize_for_serialization(pod.metadata), train_job=False)


def _train_jobs(hook: Any, settings: config.Config, pool: str) -> Iterator[tuple[PodSeen, str]]:
    if settings.gpu_pools[pool].runtime is None:
        return
    where = (train_job.GROUP, train_job.VERSION, settings.gpu_pools[pool].namespace, train_job.PLURAL)
    for job in hook.custom_object_client.list_namespaced_custom_object(*where, label_selector=_SELECTOR)["items"]:
        yield _seen(pool, job["metadata"], train_job=True)


def _spark_drivers(hook: Any, settings: config.Config, pool: str) -> Iterator[tuple[PodSeen, str]]:
    """Yield each driver of a Spark job with the task that made it, as JSON. Its executors go with it."""
    client = hook.core_v1_client
    selector = ",".join(f"{key}={value}" for key, value in {**labels.MANAGED_BY, labels.ROLE: labels.DRIVER}.items())
    for pod in client.list_namespaced_pod(settings.gpu_pools[pool].namespace, label_selector=selector).items:
        metadata = client.api_client.sanitize_for_serialization(pod.metadata)
        try:
            driver, _ = _seen(pool, metadata, train_job=False)
        except (KeyError, ValueError):  # a driver may make pods: one that is labelled oddly must not hide the others
            logger.warning("pool %s: %s has labels that no driver has, and is not checked", pool, metadata["name"])
            continue
        yield driver, (metadata.get("annotations") or {}).get(STARTED_BY, "")


def _seen(pool: str, metadata: dict[str, Any], *, train_job: bool) -> tuple[PodSeen, str]:
    labels = metadata["labels"]
    seen = PodSeen(
        pool,
        metadata["name"],
        metadata["uid"],
        labels[shape.JOB],
        int(labels.get(shape.ATTEMPT, 0)),
        datetime.fromisoformat(metadata["creationTimestamp"]),
        metadata.get("deletionTimestamp") is not None,
        train_job,
    )
    return seen, labels.get(shape.PIPELINE, "")


def _delete(hook: Any, namespace: str, pod: PodSeen) -> None:
    from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions

    # this very object, not one of the same name that came meanwhile
    options = V1DeleteOptions(preconditions=V1Preconditions(uid=pod.uid))
    try:
        if pod.train_job:
            options.propagation_policy = "Foreground"
            where = (train_job.GROUP, train_job.VERSION, namespace, train_job.PLURAL, pod.name)
            hook.custom_object_client.delete_namespaced_custom_object(*where, body=options)
        else:
            hook.core_v1_client.delete_namespaced_pod(pod.name, namespace, body=options)
    except ApiException as cause:
        if cause.status not in (404, 409):
            raise
