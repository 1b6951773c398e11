"""The training operator: an ordered job goes through the pools until one runs it to its end.

The pod is the provider's business (KubernetesPodOperator, deferrable); which pool is asked next, whether a node may
have the data, and how an attempt ended is decided by rempart.training. The job's record at the site says where it
stands, so a retry, a cleared task or a second run of the same order goes on there. An attempt has one pod whoever asks,
and a pod has no credentials, so cannot run, before its node was admitted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import (
    PodNotFoundException,
    PodPhase,
    detect_pod_terminate_early_issues,
)
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiException, V1Pod  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.config import load
from rempart.errors import PlacementDenied, PoolUnavailable, TrainingError
from rempart.orchestration import runtime
from rempart.orchestration.enforcement import today
from rempart.orchestration.pod_triggers import BOUND, PauseTrigger, TrainingPodTrigger, overdue
from rempart.training.backends import LAST_LINES, readable
from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import verdict
from rempart.training.placement import GiveUp, Option, Resume, Start, Wait, plan, request_of

if TYPE_CHECKING:
    from rempart.flows.pod_job import PodJob
    from rempart.pipeline import Pipeline

WAIT_FOR_NODE_SECONDS = 5
"""A free pool binds a pod at once: waited for here, it saves a deferral. The worker is held no longer than this."""
YOUNG_SECONDS = 120
"""An attempt without a pod counts as lost only when it is older: another task may be making its pod."""


class TrainingPodOperator(KubernetesPodOperator):
    """Run the job that the task before it ordered; it returns where it ran.

    `order` is that task's output: bucket and key of the order, and the plan that its page shows. Raises TrainingError
    with the job's last lines, PlacementDenied, PoolUnavailable and SiteUnavailable (both worth a retry).
    """

    template_fields: Sequence[str] = ("order",)
    template_fields_renderers = {"order": "json"}  # noqa: RUF012 - as Airflow declares it

    def __init__(self, *, pipeline: Pipeline, order: Any, **provided: Any) -> None:
        settings = load()
        self.pipeline, self.order = pipeline.name, order
        found = plan(settings, request_of(settings, pipeline), on=today())
        if not found.options:
            raise PlacementDenied(
                "No pool may run its jobs:\n" + "\n".join(found.lines()),
                "Declare a pool that the policy allows, or ask for fewer GPUs: docs/how-to/gpu-pools.md.",
            )
        self.kubernetes_conn_ids = list(dict.fromkeys(one.connection for one in found.options))
        """Every cluster that may be asked: the policy judges each when the DAG is read."""
        super().__init__(
            kubernetes_conn_id=self.kubernetes_conn_ids[0],
            image=found.options[0].image,
            base_container_name=shape.CONTAINER,
            deferrable=True,
            durable=True,
            do_xcom_push=False,
            get_logs=True,
            logging_interval=int(settings.training.log_every.total_seconds()),
            random_name_suffix=False,
            on_finish_action="delete_pod",
            on_kill_action="delete_pod",
            termination_grace_period=shape.GRACE_SECONDS,
            log_pod_spec_on_failure=False,
            **provided,
        )

    def execute(self, context: Any) -> dict[str, Any]:
        """Ask the next pool, or find the pod of the attempt that is on, and defer."""
        while True:
            if self._job.result() is not None:
                return self._done()
            step = self._job.step(context["ti"].start_date)
            if isinstance(step, GiveUp):
                self._give_up(step)
            if isinstance(step, Wait):
                self._pause(step.until.timestamp(), f"every pool was asked; round {step.round} comes. {step.why}")
            if isinstance(step, Start):
                self._start(step, context)
            else:
                self._resume(step, context)

    def again(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """After a pause."""
        return self.execute(context)

    def _start(self, step: Start, context: Any) -> None:
        """Ask a pool; returns if it has no place, or somebody else began this attempt."""
        if not self._job.begin(step.number, step.option, self._task(context)):
            return
        self._aim(step.option, step.number)
        self.log.info("Attempt %d: pool %s (%s)", step.number, step.option.pool, step.option.operator)
        try:
            self.execute_async(context)
        except _Denied:
            return
        except (ApiException, HTTPError) as cause:
            status, message = _told(cause)
            if self._job.admitted(step.number):  # its pod may run by now
                raise self._away(step.number, cause) from cause
            ending = verdict.refused(status, message)
            self._job.end(step.number, ending or verdict.Ending("failed", message))
            self._delete(grace=0)  # the answer may have been lost, and not the request
            if ending is None:
                raise TrainingError(
                    f"Pool {step.option.pool} refuses the pod of job {self._job.spec.job_id}: {message}",
                    "Correct the pool in rempart.yaml; `rempart doctor pool` explains it.",
                ) from cause
            self.log.warning("Attempt %d: %s (%s)", step.number, ending.outcome, ending.cause)

    def _resume(self, step: Resume, context: Any) -> None:
        """Find the pod of the attempt that is on; returns if it has ended meanwhile."""
        number = step.attempt.number
        self._aim(step.option, number)
        self.log.info("Attempt %d is on in pool %s: looking for its pod", number, step.option.pool)
        try:
            found = self.find_pod(step.option.namespace, context)
            if found is None:
                age = (datetime.now(UTC) - step.attempt.started).total_seconds()
                if age < YOUNG_SECONDS:  # whoever began it may be making its pod now
                    self._pause(time.time(), "the attempt has just begun, and has no pod yet")
                self._job.end(number, verdict.ending(None))
                self._delete()  # one that came in between has no credentials, and gets none any more
            elif not _lives(found):
                event = {"status": "failed", "message": "", "name": self.name, "namespace": self.namespace}
                self._over(context, number, event, found)
            else:
                self.execute_async(context)
        except _Denied:
            return
        except (ApiException, HTTPError) as cause:
            raise self._away(number, cause) from cause

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Any) -> V1Pod:
        """The attempt's pod; if it gets a node within seconds, also its credentials."""
        try:
            made = super().get_or_create_pod(pod_request_obj, context)
        except ApiException as cause:
            if not _is_there(cause):
                raise
            made = pod_request_obj  # made by a call whose answer was lost
        until = time.monotonic() + WAIT_FOR_NODE_SECONDS
        while True:
            found = _retried(self.hook.get_pod)(made.metadata.name, made.metadata.namespace)
            if self._admit(found) or time.monotonic() > until:
                return found
            time.sleep(0.5)

    def find_pod(self, namespace: str, context: Any, *, exclude_checked: bool = True) -> V1Pod | None:
        """The attempt's pod by its name, whichever task made it."""
        try:
            found: V1Pod = _retried(self.hook.get_pod)(str(self.name), namespace)
            return found
        except ApiException as cause:
            if cause.status == 404:
                return None
            raise

    def defer(self, *, trigger: Any, **named: Any) -> NoReturn:
        """Defer on our triggers: they keep the minimum, store no credentials, and wait for a node first."""
        if not isinstance(trigger, PauseTrigger):
            _, arguments = trigger.serialize()
            trigger = TrainingPodTrigger(**arguments, await_node=verdict.bound(self._plain(self.pod)) is None)
        super().defer(trigger=trigger, **named)
        raise AssertionError("defer returns never")

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The pod has a node, or its attempt ended: admit it, finish, or ask the next pool, within this attempt."""
        number = int(event["attempt"])
        option = self._job.plan.option(event["pool"])
        if option is None:
            raise PlacementDenied(
                f"Pool {event['pool']} may not be asked any more", "Clear the task: another is asked."
            )
        self._aim(option, number)
        try:
            found = self.find_pod(option.namespace, context)
            hopeless = found is not None and detect_pod_terminate_early_issues(found)  # no image
            if found is not None and _lives(found) and event["status"] in (BOUND, "error") and not hopeless:
                self.pod = found
                self._admit(found)
                self.invoke_defer_method(last_log_time=event.get("last_log_time"), context=context)
            self._over(context, number, event, found)
        except _Denied:
            pass
        except (ApiException, HTTPError) as cause:
            raise self._away(number, cause) from cause
        return self.execute(context)

    def _over(self, context: Any, number: int, event: dict[str, Any], found: V1Pod | None) -> None:
        """End an attempt whose pod is over: returns if the job is done or another pool is to be asked."""
        job, seen = self._job.spec.job_id, self._plain(found) if found else None
        lines = self._last_lines() if found else "  (its pod is gone)"
        ending = verdict.ending(seen, str(event.get("message") or ""))
        if event["status"] == "timeout" and found is not None and found.status.phase == PodPhase.RUNNING:
            ending = verdict.Ending("failed", "the task's execution_timeout was reached while it ran")
        if found is not None:
            self._finish_pod(context, event)
        if self._job.result() is not None:
            ending = verdict.Ending("succeeded", ending.cause)
        elif ending.outcome == "succeeded":
            ending = verdict.Ending("failed", "it ended well but left no result")
        self._job.end(number, ending, seen)
        if ending.outcome == "failed":
            raise TrainingError(
                f"Job {job} failed in attempt {number}: {ending.cause}. Its last lines:\n{lines}",
                "Correct what the last lines name, and run again.",
            )
        if ending.outcome == "unreachable":
            raise PoolUnavailable(
                f"Job {job}, attempt {number}: {ending.cause}. Its last lines:\n{lines}",
                "Run again: what was trained is at the site and is kept.",
            )
        self.log.info("Attempt %d ended: %s (%s)", number, ending.outcome, ending.cause)

    def _finish_pod(self, context: Any, event: dict[str, Any]) -> None:
        """What the provider does at the end of a pod: the rest of its log, its events, its deletion."""
        # a pod that still runs is not waited for: it is deleted
        status = event["status"] if event["status"] in ("success", "failed") else "timeout"
        try:
            super().trigger_reentry(context, event | {"status": status})
        except (AirflowException, PodNotFoundException) as told:
            self.log.info("The pod is over: %s", (str(told) or type(told).__name__).splitlines()[0])

    def _admit(self, found: V1Pod) -> bool:
        """Give a pod that has a node its credentials; if the node may not have the data, delete the pod.

        True if it has them, False while it has no node. Raises _Denied.
        """
        if not (node := found.spec.node_name):
            return False
        number = int(found.metadata.labels[shape.ATTEMPT])
        option = self._job.plan.option(self._pool)
        assert option is not None  # noqa: S101 - _aim took it from the plan
        try:
            facts = self._plain(_retried(self.client.read_node)(node))
            secret = self._job.admit(number, option, self._plain(found), facts)
        except (PlacementDenied, TrainingError, ApiException) as cause:
            if isinstance(cause, ApiException) and cause.status not in (403, 404):
                raise
            told = f"node {node} cannot be read: {_told(cause)[1]}" if isinstance(cause, ApiException) else cause.what
            self._delete(grace=0)
            self._job.end(number, verdict.Ending("denied", told))
            self.log.warning("Pod %s was deleted before it got any credentials: %s", found.metadata.name, told)
            raise _Denied from cause
        _retried(self._make_secret)(found.metadata.namespace, secret)
        return True

    def _make_secret(self, namespace: str, secret: Mapping[str, Any]) -> None:
        try:
            self.client.create_namespaced_secret(namespace, secret)
        except ApiException as cause:
            if not _is_there(cause):  # made by an earlier try, for this very pod
                raise

    def _delete(self, grace: int = shape.GRACE_SECONDS) -> None:
        with suppress(ApiException, HTTPError):  # it is gone, or the janitor finds it
            self.client.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=grace)

    def _pause(self, moment: float, why: str) -> NoReturn:
        self.log.info("Waiting without a worker: %s", why)
        self.defer(trigger=PauseTrigger(moment, why), method_name="again")

    def _away(self, number: int, cause: Exception) -> PoolUnavailable:
        return PoolUnavailable(
            f"The cluster of pool {self._pool} did not answer while attempt {number} was on: {_told(cause)[1]}",
            "Run again: the pod is found by its job. `rempart doctor pool` explains what is wrong.",
        )

    def _give_up(self, step: GiveUp) -> NoReturn:
        job = self._job.spec.job_id
        if step.denied:
            raise PlacementDenied(f"No pool may run job {job}: {step.why}", "Correct the pools: `rempart doctor pool`.")
        raise TrainingError(
            f"Job {job}: {step.why}",
            "Clear this task to search again, add a pool, or raise training.deadline: docs/runbooks/training-pool.md.",
        )

    def _done(self) -> dict[str, Any]:
        ran = self._job.ran() or {}
        self.log.info("Job %s is done%s", self._job.spec.job_id, f": {ran}" if ran else "")
        return {"job_id": self._job.spec.job_id, "placement": ran}

    def _aim(self, option: Option, number: int) -> None:
        """Turn this operator to a pool: its cluster, and the pod of one attempt there."""
        pool = load().pools[option.pool]
        self._pool = option.pool
        for name in ("hook", "client", "pod_manager"):
            self.__dict__.pop(name, None)
        self.kubernetes_conn_id, self.namespace = option.connection, option.namespace
        self.image = option.image
        self.name = shape.name(self._job.spec.job_id, number)
        self.labels = shape.labels(self._job.spec, number)
        self.pod_template_dict = self._job.template(number, option)
        self.pod, self.pod_request_obj = None, None
        self.schedule_timeout_seconds = int(pool.max_pending.total_seconds())
        self.startup_timeout_seconds = self.schedule_timeout_seconds
        self.trigger_kwargs = {"attempt": number, "pool": option.pool}

    def _last_lines(self) -> str:
        """The job's last lines, readable, indented."""
        try:
            answer = self.client.read_namespaced_pod_log(
                self.name, self.namespace, container=shape.CONTAINER, tail_lines=LAST_LINES, _preload_content=False
            )  # as it is: the client would give the bytes' repr
        except ApiException as cause:
            return f"  (its log cannot be read: {_told(cause)[1]})"
        return "\n".join(f"  {readable(line)}" for line in answer.data.decode("utf-8", "replace").splitlines())

    def _plain(self, found: Any) -> dict[str, Any]:
        plain: dict[str, Any] = self.client.api_client.sanitize_for_serialization(found)
        return plain

    @cached_property
    def _job(self) -> PodJob:
        from rempart.flows.pod_job import ordered_job

        pipeline = runtime.pipeline(self.pipeline)
        return ordered_job(runtime.platform(), pipeline, self.order["bucket"], self.order["key"])

    @staticmethod
    def _task(context: Any) -> dict[str, str]:
        task = context["ti"]
        return {"dag": task.dag_id, "run": task.run_id, "task": task.task_id, "map_index": str(task.map_index)}


class _Denied(Exception):
    """A node was refused: the attempt has ended, another pool is asked."""


_retried: Callable[[Callable[..., Any]], Callable[..., Any]] = generic_api_retry
"""The provider's rule: transient answers (409, 429, 5xx) are asked again, with Retry-After honoured."""


def _lives(found: V1Pod) -> bool:
    return found.status.phase in (PodPhase.PENDING, PodPhase.RUNNING) and not overdue(found, datetime.now(UTC))


def _is_there(cause: ApiException) -> bool:
    """Whether an object was not made because it exists, which no retry changes."""
    return cause.status == 409 and '"AlreadyExists"' in str(cause.body)


def _told(cause: Exception) -> tuple[int, str]:
    """An API server's status and message, without the headers that the exception prints; 0 if it did not answer."""
    if not isinstance(cause, ApiException):
        return 0, type(cause).__name__
    try:
        return int(cause.status or 0), str(json.loads(cause.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return int(cause.status or 0), str(cause.reason)[:500]
