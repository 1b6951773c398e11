"""Run a job on one node: each attempt is a pod, which the provider's KubernetesPodOperator (deferrable) handles.

The steps common to all kinds of attempts are in rempart.orchestration.training.training_operator.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import (
    PodNotFoundException,
    PodPhase,
    detect_pod_terminate_early_issues,
)
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiException, V1Pod  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.orchestration.clusters.api_answers import is_there, retried
from rempart.orchestration.training.pod_triggers import BOUND, PauseTrigger, TrainingPodTrigger, overdue
from rempart.orchestration.training.training_operator import PAUSES, NameTaken, TrainingOperatorBase
from rempart.settings.config import load
from rempart.sovereignty import pool_pods
from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import queue, verdict
from rempart.training.placement import Option

if TYPE_CHECKING:
    from rempart.settings.pipeline import ModelPipeline


class TrainingPodOperator(TrainingOperatorBase, KubernetesPodOperator):
    """Run the previous task's job on one node. Return where it ran."""

    thing = "pod"

    def __init__(self, *, pipeline: ModelPipeline, order: Any, **provided: Any) -> None:
        plan = self._declare(pipeline, order)
        super().__init__(
            kubernetes_conn_id=self.kubernetes_conn_ids[0],
            image=plan.options[0].image,
            base_container_name=shape.CONTAINER,
            deferrable=True,
            durable=False,  # the provider would look for the last pod in its pool with this pool's identity
            do_xcom_push=False,
            get_logs=True,
            logging_interval=int(load().training.log_every.total_seconds()),
            random_name_suffix=False,
            on_finish_action="delete_pod",
            on_kill_action="delete_pod",
            termination_grace_period=pool_pods.GRACE_SECONDS,
            log_pod_spec_on_failure=False,
            **provided,
        )

    def _ask(self, context: Any) -> None:
        self.execute_async(context)

    def _found(self, context: Any) -> V1Pod | None:
        return self.find_pod(str(self.namespace), context)

    def _lives(self, pod: V1Pod) -> bool:
        if not _goes_on(pod) or overdue(pod, datetime.now(UTC)):
            return False
        # one that is being deleted ends in its time if it runs, and never runs if it has no credentials by now
        return pod.metadata.deletion_timestamp is None or self._job.admitted(self._number)

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Any) -> V1Pod:
        """Return the attempt's pod; make it if missing. Give it credentials if it gets a node within seconds.

        Raises NameTaken for a pod with the attempt's name that will not run it, Denied, ApiException.
        """
        namespace = str(pod_request_obj.metadata.namespace)
        if self._free_to_use(self.find_pod(namespace, context)) is None:
            try:
                super().get_or_create_pod(pod_request_obj, context)
            except ApiException as cause:
                if not is_there(cause):  # made by a call whose answer was lost
                    raise
            if self._queue and (pod := self.find_pod(namespace, context)) is not None:
                self._see_managed(self._plain(pod))
        for pause in (*PAUSES, None):
            existing = self._free_to_use(self.find_pod(namespace, context))
            if existing is None:
                raise NameTaken(verdict.Ending("interrupted", "its pod was deleted right after it was made"))
            if self._admit(existing) or pause is None:
                break
            time.sleep(pause)
        return existing

    def find_pod(self, namespace: str, context: Any, *, exclude_checked: bool = True) -> V1Pod | None:
        """Return the attempt's pod by its name and labels, whichever task made it. Raises NameTaken."""
        try:
            pod: V1Pod = retried(self.hook.get_pod)(str(self.name), namespace)
        except ApiException as cause:
            if cause.status == 404:
                return None
            raise
        self._hold_to(self._plain(pod)["metadata"])
        return pod

    def _free_to_use(self, pod: V1Pod | None) -> V1Pod | None:
        """Return a pod for which this attempt may wait, or None. Raises NameTaken if the pod is ending or ended without
        credentials.

        An attempt's number is used twice if the record of the first was lost, as after a failover to a lagging site. A
        pod that has credentials by this record belongs to this attempt.
        """
        if pod is None or self._job.admitted(self._number):
            return pod
        if pod.metadata.deletion_timestamp is not None or not _goes_on(pod):
            does = "is being deleted" if pod.metadata.deletion_timestamp is not None else "has ended"
            cause = f"pod {self.name} in namespace {self.namespace} {does}: the next attempt has a name of its own"
            raise NameTaken(verdict.Ending("capacity", cause))
        return pod

    def defer(self, *, trigger: Any, **named: Any) -> NoReturn:
        """Defer on our triggers, which keep the minimum, store no credentials, and wait for a node first."""
        if not isinstance(trigger, PauseTrigger):
            _, arguments = trigger.serialize()
            trigger = TrainingPodTrigger(**arguments, await_node=verdict.bound(self._plain(self.pod)) is None)
        super().defer(trigger=trigger, **named)
        raise AssertionError("defer never returns")

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Continue after the provider's triggers."""
        return self.reenter(context, event)

    def _look(self, context: Any, number: int, event: dict[str, Any]) -> None:
        pod = self._found(context)
        hopeless = pod is not None and detect_pod_terminate_early_issues(pod)  # no image
        # a pod may start after its trigger told that it had not
        late = event["status"] == "timeout" and _runs(pod) and not _is_out_of_time(event)
        if pod is not None and self._lives(pod) and (late or event["status"] in (BOUND, "error")) and not hopeless:
            self.pod = pod
            self._admit(pod)
            self.invoke_defer_method(last_log_time=event.get("last_log_time"), context=context)
        self._over(context, number, event, pod)

    def _over(self, context: Any, number: int, event: dict[str, Any], pod: V1Pod | None) -> None:
        seen = self._plain(pod) if pod else None
        lines = self._last_lines(str(self.name), shape.CONTAINER) if pod else "  (its pod is gone)"
        ending = verdict.ending(seen, self._told(event, seen))
        if _runs(pod) and _is_out_of_time(event):
            ending = verdict.Ending("failed", "the task's execution_timeout was reached while the job ran")
        if pod is not None:
            self._finish_pod(context, event)
        self._conclude(number, ending, seen, lines)

    def _told(self, event: dict[str, Any], seen: dict[str, Any] | None) -> str:
        """Return the watcher's words about a pod's end, or Kueue's if it waits in a queue or lost its place."""
        message = str(event.get("message") or "")
        if seen is None:
            return ". ".join(sentence for sentence in (message, self._of_queue(queue.stopped, "Pod")) if sentence)
        return self._of_queue(queue.waits, "Pod") if queue.gated(seen) else message

    def _finish_pod(self, context: Any, event: dict[str, Any]) -> None:
        """Finish a pod as the provider does: the rest of its log, its events, its deletion."""
        # a pod that still runs is not waited for: it is deleted
        status = event["status"] if event["status"] in ("success", "failed") else "timeout"
        try:
            KubernetesPodOperator.trigger_reentry(self, context, event | {"status": status})
        except (AirflowException, PodNotFoundException) as end:
            self.log.info("The pod has ended: %s", (str(end) or type(end).__name__).splitlines()[0])

    def _admit(self, pod: V1Pod) -> bool:
        """Give a pod with a node its credentials. Return False while it has no node. Raises Denied."""
        if not (node := pod.spec.node_name):
            return False
        self._give_credentials(self._plain(pod), [node])
        return True

    def _delete(self, grace: int = pool_pods.GRACE_SECONDS) -> None:
        with suppress(ApiException, HTTPError):
            self.client.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=grace)

    def _aim(self, option: Option, number: int) -> None:
        super()._aim(option, number)
        self.image = option.image
        self.labels = shape.labels(self._job.spec, number)
        self.pod_template_dict = self._job.template(number, option)
        self.pod, self.pod_request_obj = None, None
        self.schedule_timeout_seconds = int(load().gpu_pools[option.pool].max_pending.total_seconds())
        self.startup_timeout_seconds = self.schedule_timeout_seconds
        self.trigger_kwargs = {"attempt": number, "pool": option.pool}


def _goes_on(pod: V1Pod) -> bool:
    """Return whether a pod has not ended."""
    return pod.status.phase in (PodPhase.PENDING, PodPhase.RUNNING)


def _runs(pod: V1Pod | None) -> bool:
    """Return whether a pod is running."""
    return pod is not None and pod.status.phase == PodPhase.RUNNING


def _is_out_of_time(event: dict[str, Any]) -> bool:
    """Return whether a trigger ended at the task's execution_timeout: the provider adds its moment (POSIX seconds)."""
    return bool(event["status"] == "timeout" and time.time() >= event.get("_execution_deadline", math.inf))
