"""Find orphaned pods of jobs by the jobs' records and the state of the Airflow task that began each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.errors import ObjectMissing, RempartError
from rempart.flows.shared.platform import Platform
from rempart.settings.pipelines import named
from rempart.settings.sections import Classification
from rempart.sites.port import Site
from rempart.training.attempts.record import ORDER, Record, read_order
from rempart.training.kubernetes.orphans import JobFacts, OrphanFinding, PodSeen, judge
from rempart.training.placement import Attempt


def find_orphans(platform: Platform, api: AirflowApi, pods: Iterable[tuple[PodSeen, str]]) -> list[OrphanFinding]:
    """Judge each pod, with the pipeline of its label, without changes."""
    order_of = partial(_record, platform.active_site, platform.config.buckets.artifacts)
    return [judge(pod, _known(order_of, api, pod, pipeline), platform.clock()) for pod, pipeline in pods]


def judge_driver(api: AirflowApi, driver: PodSeen, by: str, now: datetime) -> OrphanFinding:
    """Judge the driver of a Spark job by the Airflow task that made it, as JSON; one that names none stays."""
    try:
        task = json.loads(by)
        attempt = Attempt(driver.attempt, driver.pool, driver.created)
        known = JobFacts(attempt, _task_state(api, task))
    except (ValueError, KeyError, TypeError):
        known = JobFacts(unknown="it does not name the task that made it")
    except RempartError as fault:
        known = JobFacts(unknown=fault.what)
    return judge(driver, known, now)


def note(platform: Platform, finding: OrphanFinding, pipeline: str) -> None:
    """End the attempt of an orphaned pod in its record, if it is still open."""
    if record := _record(platform.active_site, platform.config.buckets.artifacts, finding.pod, pipeline):
        record.end(finding.pod.attempt, "ended", f"deleted as an orphaned pod: {finding.why}", platform.clock(), None)


def _record(active_site: Callable[[Classification], Site], bucket: str, pod: PodSeen, pipeline: str) -> Record | None:
    site = active_site(named(pipeline).classification)
    try:
        return read_order(site, bucket, f"jobs/{pod.job_id}/{ORDER}")
    except ObjectMissing:
        return None


def _known(order_of: Callable[[PodSeen, str], Record | None], api: AirflowApi, pod: PodSeen, pipeline: str) -> JobFacts:
    try:
        record = order_of(pod, pipeline)
        attempts = record.attempts() if record else []
        attempt = next((attempt for attempt in attempts if attempt.number == pod.attempt), None)
        if record is None or attempt is None or attempt.outcome is not None:
            return JobFacts(attempt)
        return JobFacts(attempt, _task_state(api, record.begun_by(pod.attempt)))
    except RempartError as fault:
        return JobFacts(unknown=fault.what)


def _task_state(api: AirflowApi, by: dict[str, Any]) -> str | None:
    path = f"/api/v2/dags/{quote(by['dag'])}/dagRuns/{quote(by['run'], safe='')}/taskInstances/{quote(by['task'])}"
    index = int(by.get("map_index", -1))
    try:
        found = api.get(path if index < 0 else f"{path}/{index}")
    except AirflowApiError as fault:
        if "HTTP 404" in fault.what:
            return None
        raise
    state: str | None = found["state"]
    return state or "scheduled"
