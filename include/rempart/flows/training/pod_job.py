"""Manage a training job in a pod: the order, the next step, the check of its node, and the evidence of where it ran.

Nothing here talks to a cluster: the orchestration's operator does, with the provider's code, and calls this module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rempart.errors import PlacementDenied, TrackingRefused, TrackingUnavailable, TrainingError
from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials, train
from rempart.flows.training.check_pipeline import check_trainer
from rempart.flows.training.job_credentials import Granted
from rempart.flows.training.pool_capacity import known_free
from rempart.ledger.port import Ledger
from rempart.settings.config import Config, Connections
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty import pods
from rempart.sovereignty.policy import Decision
from rempart.training import permission
from rempart.training.attempts.record import Record, read_order
from rempart.training.gpus.cost import spent
from rempart.training.gpus.usage import energy
from rempart.training.job import JobResult, JobSpec, Param
from rempart.training.kubernetes import pod, train_job, verdict
from rempart.training.kubernetes.verdict import Ending
from rempart.training.placement import Attempt, Option, Plan, Step, next_step, plan, request_of
from rempart.training.waiting import RECORDS, Waiting, waiting_times

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ordered:
    """A job that waits for a pool: the key of its order at the active site, and the pools in order of preference.

    `free` has the known free GPUs of the pools at planning time. The tasks that run the plan use the same numbers.
    """

    job_id: str
    bucket: str
    key: str
    plan: dict[str, Any]
    free: dict[str, int]


def order(platform: Platform, pipeline: ModelPipeline, *, params: Mapping[str, Param] | None = None) -> Ordered:
    """Freeze the training set, write the order, and return where the job may run.

    Raises PlacementDenied if no declared pool may run it, and the errors of `flows.training.train.train`.
    """
    check_trainer(pipeline, params)  # before the join, which takes minutes
    found = train.training_set(platform, pipeline)
    spec = train.order(
        platform, pipeline, found.table, found.snapshot, params=params, labels=found.labels, used=found.used
    )
    return place(platform, pipeline, spec)


def place(platform: Platform, pipeline: ModelPipeline, spec: JobSpec) -> Ordered:
    """Write the order of a job and return where it may run. Raises PlacementDenied, SiteError."""
    config, ledger = platform.config, platform.ledger
    record = Record(platform.active_site(pipeline.classification), spec)
    key = record.order()
    request, today = request_of(config, pipeline), platform.clock().date()
    allowed = [option.pool for option in plan(config, request, on=today).options]
    free = known_free(config, platform.connections, allowed, request.gpus)
    placement = plan(config, request, on=today, free=free, waiting=recorded_waiting(ledger))
    for line in (*placement.lines(), *job_credentials.shortened(config, spec, pipeline.trainer.timeout)):
        logger.info("%s", line)
    if unsaid := job_credentials.missing(config, spec):
        body = {"what": "job", "classification": pipeline.classification, "reasons": unsaid}
        ledger.append("denial", f"job {spec.job_id}", body)
        raise job_credentials.refusal(spec, unsaid)
    if not placement.options:
        why = [f"pool {excluded.pool}: {reason}" for excluded in placement.excluded for reason in excluded.reasons]
        error = PlacementDenied(
            f"No pool may run job {spec.job_id} ({pipeline.classification}): {'; '.join(why) or 'none is declared'}",
            "Declare a pool that the policy allows, or ask for fewer GPUs: docs/how-to/gpu-pools.md.",
        )
        body = {"what": "job", "classification": pipeline.classification, "reasons": why}
        ledger.append("denial", f"job {spec.job_id}", body)
        raise error
    return Ordered(spec.job_id, spec.output.bucket, key, placement.as_json(), free)


def recorded_waiting(ledger: Ledger) -> dict[str, Waiting]:
    """Return how long the last jobs waited for each pool, from the ledger. Raises LedgerError, DatabaseUnavailable."""
    return waiting_times(record.body for record in ledger.find("placement", limit=RECORDS))


@dataclass(frozen=True)
class PodJob:
    """One ordered job and its attempts in pools.

    `record_decision` writes evidence of a placement, and raises PlacementDenied for a denial.
    """

    config: Config
    connections: Connections
    ledger: Ledger
    clock: Callable[[], datetime]
    record_decision: Callable[[Decision], None]
    pipeline: ModelPipeline
    record: Record
    plan: Plan

    @property
    def spec(self) -> JobSpec:
        return self.record.spec

    def step(self, since: datetime) -> Step:
        """Return the next step of a job whose task began at `since`."""
        settings = self.config.training
        return next_step(
            self.plan,
            self.record.attempts(),
            now=self.clock(),
            since=since,
            deadline=settings.deadline,
            pause=settings.pause,
        )

    def begin(self, number: int, option: Option, by: Mapping[str, str]) -> bool:
        """Begin an attempt for the Airflow task `by`. Return False if another task did before."""
        return self.record.begin(number, option.pool, self.clock(), by)

    def template(self, number: int, option: Option) -> dict[str, Any]:
        """Return the attempt's pod. Raises PlacementDenied."""
        seconds = int(self.pipeline.trainer.timeout.total_seconds())
        return pod.template(self.config, self._permitted(), option, number, seconds=seconds)

    def train_job(self, number: int, option: Option) -> dict[str, Any]:
        """Return the attempt's TrainJob if the policy allows its pods. Raises PlacementDenied.

        `pod_mutation_hook` does not see pods made by Kubeflow, so the same decision is made and recorded here.
        """
        config, seconds = self.config, int(self.pipeline.trainer.timeout.total_seconds())
        spec = self._permitted()
        like = pod.template(config, spec, option, number, seconds=seconds)
        today = self.clock().date()
        self.record_decision(pods.plan(config, like, connection=option.connection, on=today).decision)
        return train_job.manifest(config, spec, option, number, seconds=seconds)

    def judge_pods(self, option: Option, created_pods: Iterable[Mapping[str, Any]]) -> None:
        """Judge pods made by a controller: a runtime may differ from what was rendered. Raises PlacementDenied."""
        for created in created_pods:
            stated, today = [self.spec.classification], self.clock().date()
            pod_plan = pods.plan(self.config, created, stated, connection=option.connection, on=today)
            self.record_decision(pod_plan.decision)

    def admit(
        self, number: int, option: Option, owner_manifest: Mapping[str, Any], *nodes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the Secret for a pod (or TrainJob) bound to a node (or several, by rank) if the policy allows the data
        there.

        The decision is always evidence. The record tells how long the attempt waited for its pool. Raises
        PlacementDenied; TrainingError if the attempt has ended: a late pod gets no credentials, so no job runs twice.
        """
        begun = next(
            (attempt for attempt in self.record.attempts() if attempt.number == number and attempt.outcome is None),
            None,
        )
        if begun is None:
            raise TrainingError(
                f"Attempt {number} of job {self.spec.job_id} has ended, and its pod came later",
                "Do nothing: the pod is deleted, and the job continues in its next attempt.",
            )
        config, today = self.config, self.clock().date()
        ran = []
        for node in nodes:
            decision, ran_on = verdict.judge_node(
                config, self.spec.classification, option.pool, option.gpus, node, today
            )
            self.record_decision(decision)
            ran.append(ran_on)
        for decision in permission.decisions(config, self.spec, on=today):
            self.record_decision(decision)
        granted = self._credentials(number)
        owner = "train_job" if owner_manifest.get("kind") == "TrainJob" else "pod"
        where = {
            owner: str(owner_manifest["metadata"]["name"]),
            "credentials": granted.description,
            "decision": permission.permission_of(self._permitted()).decision,
            "waited": max((self.clock() - begun.started).total_seconds(), 0.0),
        }
        self.record.admit(number, verdict.together(ran).as_json() | where)
        return pod.secret(owner_manifest, granted.variables)

    def end(self, number: int, ending: Ending, last_seen: Mapping[str, Any] | None = None) -> None:
        """End an attempt once: in the ledger, if it had a node, and then in its record.

        The evidence comes first, because a later task looks only at attempts whose record has no end.
        """
        ran = self.record.admitted(number)
        if ran and last_seen:
            ran |= {"image": verdict.image_digest(last_seen), "seconds": verdict.seconds_run(last_seen)}
        subject = f"{self.pipeline.name} {self.spec.job_id}"
        if ran and not any(placed.body["attempt"] == number for placed in self.ledger.find("placement", subject)):
            body: dict[str, Any] = {
                "job_id": self.spec.job_id,
                "attempt": number,
                "outcome": ending.outcome,
                "cause": ending.cause[:500],
            }
            try:
                job_credentials.release(self.config, self.connections, self.spec, number)
            except (TrackingUnavailable, TrackingRefused) as error:  # `finish` tries again
                body["left_behind"] = error.what
            self.ledger.append("placement", subject, body | {"pipeline": self.pipeline.name, "ran": ran})
        self.record.end(number, ending.outcome, ending.cause, self.clock(), ran)

    def end_done(self) -> None:
        """End the attempt of a done job that a task left open when it failed."""
        for attempt in self.record.attempts():
            if attempt.outcome is None:
                self.end(attempt.number, Ending("succeeded", "its result is stored"))

    def admitted(self, number: int) -> bool:
        """Return whether an attempt's pod may have its credentials."""
        return self.record.admitted(number) is not None

    def machines(self, number: int) -> list[str]:
        """Return the nodes to which an attempt was admitted; empty before."""
        ran = self.record.admitted(number)
        return str(ran["node"]).split(", ") if ran else []

    def result(self) -> JobResult | None:
        """Return the job's result, or None. Raises TrainingError for an unusable result."""
        return self.record.result()

    def ran(self) -> dict[str, Any] | None:
        """Return where the job ran, if it ran in a pod."""
        return self.record.ran()

    def attempts(self) -> list[Attempt]:
        return self.record.attempts()

    def _permitted(self) -> JobSpec:
        """Return the spec with the policy's current permission. Raises PlacementDenied."""
        return permission.permit(self.config, self.spec, on=self.clock().date())

    def _credentials(self, number: int) -> Granted:
        """Return the credentials of the job's sites and tracking server only."""
        return job_credentials.grant(
            self.config,
            self.connections,
            self.record_decision,
            self.spec,
            number,
            self.pipeline.trainer.timeout,
            self.clock().date(),
        )


def ordered_job(
    platform: Platform, pipeline: ModelPipeline, bucket: str, key: str, free: Mapping[str, int] | None = None
) -> PodJob:
    """Return the job of an order at the active site, with `free` as when it was ordered.

    Raises ObjectMissing, TrainingError, PlacementDenied, SiteError.
    """
    record = read_order(platform.active_site(pipeline.classification), bucket, key)
    config, today = platform.config, platform.clock().date()
    placement = plan(config, request_of(config, pipeline), on=today, free=free)
    running = next((attempt for attempt in record.attempts() if attempt.outcome is None), None)
    if running and placement.option(running.pool) is None and running.pool in config.gpu_pools:
        # a pool that was removed from the order while a job ran there still has its pod, which must be found again
        gone = next((excluded for excluded in placement.excluded if excluded.pool == running.pool), None)
        raise PlacementDenied(
            f"Job {record.spec.job_id} runs in pool {running.pool}, which is no longer allowed: "
            f"{'; '.join(gone.reasons) if gone else 'it is not declared'}",
            "Delete its pod (label rempart.eu/job), then clear this task: another pool is used.",
        )
    return PodJob(
        config, platform.connections, platform.ledger, platform.clock, platform.record, pipeline, record, placement
    )


def finish(
    platform: Platform, pipeline: ModelPipeline, bucket: str, key: str, *, verdict: int | None = None
) -> train.TrainResult:
    """Register the result of an ordered job; `verdict`: as for `train.train`.

    Raises TrainingError without a result, and the errors of `register`.
    """
    job = ordered_job(platform, pipeline, bucket, key)
    if (result := job.result()) is None:
        raise TrainingError(
            f"Job {job.spec.job_id} left no result at site '{job.record.site.name}'",
            "Read the log of the task that ran it; clear that task to run the job again.",
        )
    job_credentials.release(platform.config, platform.connections, job.spec)
    ran = job.ran()
    shown = {name: value for name, value in ran.items() if name not in ("seconds", "nodes", "waited")} if ran else None
    used = spent(platform.config.gpu_pools, job.record.admitted_attempts(), energy(result.gpus))
    made = train.register(platform, pipeline, job.spec, result, ran=shown, spent=used, verdict=verdict)
    return replace(made, placement=ran)
