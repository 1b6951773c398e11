"""Find orphaned pods of jobs from the jobs' records and their tasks' states. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.training.placement import Attempt

AWAITED = frozenset(("running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule"))
"""States of an Airflow task that may still come back to its pod."""
YOUNG = timedelta(minutes=5)
"""A pod that is younger is left alone: who made it may be about to write that down."""


@dataclass(frozen=True)
class PodSeen:
    """A pod, or a TrainJob, that carries a job's labels. `terminating`: its deletion has begun.

    The pods of a TrainJob carry none of them: they come and go with it.
    """

    pool: str
    name: str
    uid: str
    job_id: str
    attempt: int
    created: datetime
    terminating: bool
    train_job: bool = False


@dataclass(frozen=True)
class JobFacts:
    """Facts about a pod's job: its attempt (None: not recorded), and the state of the task that began it.

    `task_state` is None if Airflow has no such task. `unknown` gives the reason if these facts are missing.
    """

    attempt: Attempt | None = None
    task_state: str | None = None
    unknown: str | None = None


@dataclass(frozen=True)
class OrphanFinding:
    """Decision about a pod, with its reason. `orphan`: delete the pod. Otherwise leave or report it."""

    pod: PodSeen
    orphan: bool
    why: str


def judge(pod: PodSeen, known: JobFacts, now: datetime) -> OrphanFinding:
    """Judge whether a pod is orphaned. An unknown pod is never deleted."""
    if pod.terminating:
        return OrphanFinding(pod, False, "its deletion has begun")
    if now - pod.created < YOUNG:
        return OrphanFinding(pod, False, "it is young")
    if known.unknown:
        return OrphanFinding(pod, False, f"not checked: {known.unknown}")
    if known.attempt is None:
        return OrphanFinding(pod, True, "its attempt is not recorded")
    if known.attempt.outcome is not None:
        return OrphanFinding(pod, True, f"its attempt ended: {known.attempt.outcome}")
    if known.task_state in AWAITED:
        return OrphanFinding(pod, False, f"its task is {known.task_state}")
    return OrphanFinding(pod, True, f"no task waits for it: its task is {known.task_state or 'gone'}")
