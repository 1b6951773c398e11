"""Run a job on several nodes: each attempt is a TrainJob, whose pods Kubeflow Trainer makes from the pool's runtime.

The steps common to all kinds of attempts are in rempart.orchestration.training.training_operator. The nodes of an
attempt get their credentials, and can run, only after all of them were admitted.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from kubernetes.client import ApiException  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.errors import PlacementDenied
from rempart.orchestration.clusters.api_answers import is_there, retried, status_and_message
from rempart.orchestration.training.pod_triggers import BOUND
from rempart.orchestration.training.train_job_trigger import POLL_SECONDS, TrainJobTrigger, new_lines, seconds_since
from rempart.orchestration.training.training_operator import PAUSES, Denied, NameTaken, TrainingOperatorBase
from rempart.settings.config import load
from rempart.sovereignty import pool_pods
from rempart.training.backends import readable
from rempart.training.kubernetes import queue, verdict
from rempart.training.kubernetes import train_job as shape
from rempart.training.kubernetes.capacity import too_small
from rempart.training.kubernetes.facts import quotas_of
from rempart.training.kubernetes.gang import Gang

if TYPE_CHECKING:
    from rempart.settings.pipeline import ModelPipeline

_KIND: dict[str, str] = {"group": shape.GROUP, "version": shape.VERSION, "plural": shape.PLURAL}
LATE_SECONDS = 120
"""A job that its own bound did not end is deleted so long after it."""


class TrainJobOperator(TrainingOperatorBase):
    """Run the job that the task before it ordered, on as many nodes as its trainer says; it returns where it ran."""

    thing = "TrainJob"

    def __init__(self, *, pipeline: ModelPipeline, order: Any, poll: float = POLL_SECONDS, **provided: Any) -> None:
        plan = self._declare(pipeline, order)
        self.kubernetes_conn_id = self.kubernetes_conn_ids[0]
        self.image, self.poll = plan.options[0].image, poll
        self.limit = pipeline.trainer.timeout
        super().__init__(**provided)

    @cached_property
    def hook(self) -> KubernetesHook:
        return KubernetesHook(conn_id=self.kubernetes_conn_id)

    @cached_property
    def client(self) -> Any:
        return self.hook.core_v1_client

    def on_kill(self) -> None:
        """Delete the attempt when the task is killed."""
        if getattr(self, "_option", None) is not None:
            self._delete()

    def _ask(self, context: Any) -> None:
        if self._found(context) is None:
            self._see_quota()
            try:
                manifest = self._job.train_job(self._number, self._option)
            except PlacementDenied as cause:
                self._deny(cause.what)
                raise Denied from cause
            retried(self._make)(manifest)
            if self._queue and (job := self._gang().job) is not None:
                self._see_managed(job)
        gang = self._gang()
        for pause in PAUSES:
            if gang.bound or gang.over:
                break
            time.sleep(pause)
            gang = self._gang()
        if not self._lives(gang):
            self._over(context, self._number, {"status": "failed"}, gang)
            return
        self._watch(gang)

    def _see_quota(self) -> None:
        """Check that the namespace's quotas can hold all nodes, because a TrainJob itself is always accepted.

        Raises NameTaken.
        """
        try:
            answer = retried(self.client.list_namespaced_resource_quota)(self.namespace)
        except ApiException as cause:
            if cause.status != 403:
                raise
            self.log.info("The quotas of %s cannot be read: %s", self.namespace, status_and_message(cause)[1])
            return
        quotas = quotas_of(self._plain(item) for item in answer.items)
        if why := too_small(load().gpu_pools[self._option.pool], self._option.gpus * self._option.nodes, quotas):
            raise NameTaken(verdict.Ending("capacity", why))

    def _make(self, manifest: dict[str, Any]) -> None:
        try:
            self.hook.create_custom_object(**_KIND, body=manifest, namespace=self.namespace)
        except ApiException as cause:
            if not is_there(cause):  # made by a call whose answer was lost
                raise

    def _watch(self, gang: Gang, seen: str = "") -> None:
        """Give credentials if every pod has a node, and defer. Raises Denied."""
        assert gang.job is not None  # noqa: S101 - it lives
        if gang.bound:
            nodes = [str(verdict.bound(pod)) for pod in gang.pods]
            self._give_credentials(gang.job, nodes, gang.pods)
        settings = load()
        created = datetime.fromisoformat(gang.job["metadata"]["creationTimestamp"]).timestamp()
        pending = settings.gpu_pools[self._option.pool].max_pending.total_seconds()
        trigger = TrainJobTrigger(
            connection=self.kubernetes_conn_id,
            namespace=self.namespace,
            name=self.name,
            nodes=self._option.nodes,
            attempt=self._number,
            pool=self._option.pool,
            await_nodes=not gang.bound,
            started_by=pending + (time.time() if gang.bound else created),
            ended_by=created + 2 * pending + self.limit.total_seconds() + LATE_SECONDS,
            log_every=settings.training.log_every.total_seconds(),
            machines=self._job.machines(self._number),
            seen=seen,
            poll=self.poll,
        )
        self.defer(trigger=trigger, method_name="reenter")

    def _found(self, context: Any) -> Gang | None:
        gang = self._gang()
        return None if gang.job is None else gang

    def _gang(self) -> Gang:
        """Return the attempt's TrainJob and its pods, whichever task made it. Raises NameTaken."""
        try:
            job = self.hook.get_custom_object(**_KIND, name=str(self.name), namespace=self.namespace)
        except ApiException as cause:
            if cause.status != 404:
                raise
            job = None
        else:
            self._hold_to(job["metadata"])
        selector = f"{shape.OF_JOB}={self.name}"
        listed = retried(self.client.list_namespaced_pod)(self.namespace, label_selector=selector)
        machines = self._job.machines(self._number)
        return Gang.of(job, [self._plain(pod) for pod in listed.items], self._option.nodes, machines)

    def _lives(self, gang: Gang) -> bool:
        return not gang.over

    def _look(self, context: Any, number: int, event: dict[str, Any]) -> None:
        gang = self._gang()
        if self._lives(gang) and event["status"] in (BOUND, "error"):
            self._watch(gang, event["seen"])
        self._over(context, number, event, gang)

    def _over(self, context: Any, number: int, event: dict[str, Any], gang: Gang) -> None:
        self._tell_the_rest(gang, str(event.get("seen") or ""))
        ending = gang.ending(self._told(event, gang))
        if event["status"] == "timeout" and not gang.over and time.time() >= self._end_of(gang):
            ending = verdict.Ending("failed", "it ran longer than trainer.timeout and did not end on its own")
        if ending.outcome == "capacity" and gang.job is not None:
            ending = verdict.Ending("capacity", "; ".join((ending.cause, *self._refusals())))
        told_by = gang.culprit
        lines = "  (its pods are gone)"
        if told_by is not None:
            lines = self._last_lines(told_by["metadata"]["name"], shape.NODE)
        self._delete()
        self._conclude(number, ending, next(iter(gang.pods), None), lines)

    def _told(self, event: dict[str, Any], gang: Gang) -> str:
        """Return the watcher's words about the attempt's end, or Kueue's if a queue holds it back or stopped it."""
        message = str(event.get("message") or "")
        if gang.displaced:
            return message or self._of_queue(queue.stopped, shape.KIND)
        return (self._of_queue(queue.waits, shape.KIND) if gang.suspended else "") or message

    def _end_of(self, gang: Gang) -> float:
        """Return the latest end of the pods that started last."""
        begun = [pod.get("status", {}).get("startTime") for pod in gang.pods]
        last = max((datetime.fromisoformat(moment).timestamp() for moment in begun if moment), default=float("inf"))
        return last + self.limit.total_seconds()

    def _refusals(self) -> list[str]:
        """Return why pods were not made (quota, namespace profile), from the events of the TrainJob's Job."""
        selector = f"involvedObject.name={self.name}-{shape.NODE}-0,reason=FailedCreate"
        try:
            events = self.client.list_namespaced_event(self.namespace, field_selector=selector).items
        except (ApiException, HTTPError) as cause:
            return [f"its events cannot be read: {status_and_message(cause)[1]}"]
        return list(dict.fromkeys(str(event.message) for event in events))

    def _tell_the_rest(self, gang: Gang, seen: str) -> None:
        """Log what rank 0 printed since the trigger's last report."""
        if gang.first is None or not verdict.terminated(gang.first):
            return
        name = gang.first["metadata"]["name"]
        named: dict[str, Any] = {"container": shape.NODE, "timestamps": True, "_preload_content": False}
        if (since := seconds_since(seen)) is not None:
            named["since_seconds"] = since
        try:
            answer = self.client.read_namespaced_pod_log(name, self.namespace, **named)
        except (ApiException, HTTPError) as cause:
            self.log.info("The rest of rank 0's log cannot be read: %s", status_and_message(cause)[1])
            return
        lines, _ = new_lines(answer.data.decode("utf-8", "replace").splitlines(), seen)
        for line in lines:
            self.log.info("[rank 0] %s", readable(line))

    def _delete(self, grace: int = pool_pods.GRACE_SECONDS) -> None:
        """Delete the TrainJob with its pods, each within its own grace period; a pod without credentials runs
        nothing.
        """
        with suppress(ApiException, HTTPError):
            self.hook.delete_custom_object(
                **_KIND, name=str(self.name), namespace=self.namespace, propagation_policy="Foreground"
            )
