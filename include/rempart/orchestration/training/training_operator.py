"""Run an ordered job through the pools until one completes it: the shared base of pods and TrainJobs.

rempart.training decides which pool is next, whether a node may have the data, and how an attempt ended. The job's
record at the site holds its state, so a retry, a cleared task or a second run of the order continues there. An attempt
has one object in one cluster, found by its name and labels; without credentials, which need admitted nodes, it cannot
run.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from kubernetes.client import ApiException  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.errors import PlacementDenied, PoolUnavailable, TrainingError
from rempart.orchestration import runtime
from rempart.orchestration.clusters.api_answers import is_there, retried, status_and_message
from rempart.orchestration.clusters.connections import why_missing
from rempart.orchestration.policies.enforcement import today
from rempart.orchestration.training.pod_triggers import PauseTrigger
from rempart.orchestration.training.pool_queue import local_queue, workload_events
from rempart.settings.config import load
from rempart.sovereignty import pool_pods
from rempart.training.backends import LAST_LINES, readable
from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import queue, verdict
from rempart.training.placement import GiveUp, Option, Plan, Resume, Start, Wait, plan, request_of

if TYPE_CHECKING:
    from rempart.flows.training.pod_job import PodJob
    from rempart.settings.pipeline import ModelPipeline

PAUSES = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Seconds between looks for a node. A free pool binds a pod at once: waited for here, it saves a deferral. The worker
is held no longer than their sum."""
YOUNG_SECONDS = 120
"""An attempt without its object counts as lost only when it is older: another task may be making it."""


class Denied(Exception):
    """A node was refused: the attempt has ended, another pool is asked."""


class NameTaken(Exception):
    """An object of the attempt's name is not the attempt's: it stays as it is, and another pool is asked."""

    def __init__(self, ending: verdict.Ending) -> None:
        super().__init__(ending.cause)
        self.ending = ending


class TrainingOperatorBase(BaseOperator):
    """Base of the training operators. A subclass makes and watches one kind of object for each attempt: `thing`.

    `order` is the output of the previous task: bucket and key of the order, and the plan for its page. Raises
    TrainingError with the job's last lines, PlacementDenied, PoolUnavailable and SiteUnavailable (both worth a retry).
    """

    template_fields: Sequence[str] = ("order",)
    template_fields_renderers = {"order": "json"}  # noqa: RUF012 - as Airflow declares it
    thing: str
    """Name of an attempt's object in the cluster, for messages."""
    hook: Any
    client: Any
    kubernetes_conn_id: Any
    namespace: Any
    name: Any

    # what a kind of object gives

    @abstractmethod
    def _ask(self, context: Any) -> None:
        """Make the attempt's object, or find it, give it credentials as soon as that may be, and defer.

        Raises Denied, NameTaken.
        """

    @abstractmethod
    def _found(self, context: Any) -> Any:
        """Return the attempt's object in the cluster, or None. Raises NameTaken."""

    @abstractmethod
    def _lives(self, pod: Any) -> bool:
        """Return whether the object is still running or waiting."""

    @abstractmethod
    def _look(self, context: Any, number: int, event: dict[str, Any]) -> None:
        """Handle an event: give credentials and defer again, or end the attempt. Returns if another pool is next."""

    @abstractmethod
    def _over(self, context: Any, number: int, event: dict[str, Any], pod: Any) -> None:
        """End an attempt whose object is over: returns if the job is done or another pool is to be asked."""

    @abstractmethod
    def _delete(self, grace: int = pool_pods.GRACE_SECONDS) -> None:
        """Delete the attempt's object; no error if that fails: it is gone, or the janitor finds it."""

    # the attempts, from pool to pool

    def _declare(self, pipeline: ModelPipeline, order: Any) -> Plan:
        """Take the order, and name every cluster that may be asked: the policy judges each when the DAG is read.

        Raises PlacementDenied.
        """
        settings = load()
        self.pipeline, self.order = pipeline.name, order
        placement = plan(settings, request_of(settings, pipeline), on=today())
        if not placement.options:
            raise PlacementDenied(
                "Run the training: no pool may run its jobs:\n" + "\n".join(placement.lines()),
                "Declare a pool that the policy allows, or request fewer GPUs: docs/how-to/gpu-pools.md.",
            )
        self.kubernetes_conn_ids = list(dict.fromkeys(option.connection for option in placement.options))
        return placement

    def execute(self, context: Any) -> dict[str, Any]:
        """Ask the next pool, or find the object of the attempt that is on, and defer."""
        while True:
            if self._job.result() is not None:
                self._job.end_done()
                return self._done()
            step = self._job.step(context["ti"].start_date)
            if isinstance(step, GiveUp):
                self._give_up(step)
            if isinstance(step, Wait):
                self._pause(step.until.timestamp(), f"all pools were tried; round {step.round} follows. {step.why}")
            if isinstance(step, Start):
                self._start(step, context)
            else:
                self._resume(step, context)

    def again(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Continue after a pause."""
        return self.execute(context)

    def reenter(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Continue with bound nodes or an ended attempt: admit, finish, or try the next pool, within this attempt."""
        number = int(event["attempt"])
        option = self._job.plan.option(event["pool"])
        if option is None:
            raise PlacementDenied(
                f"Pool {event['pool']} is no longer allowed for this job", "Clear the task. It then uses another pool."
            )
        self._aim(option, number)
        try:
            self._look(context, number, event)
        except Denied:
            pass
        except NameTaken as taken:
            self._leave(number, taken)
        except (ApiException, HTTPError) as cause:
            raise self._away(number, cause) from cause
        return self.execute(context)

    def _start(self, step: Start, context: Any) -> None:
        """Try a pool. Returns if it has no place, or another task began this attempt."""
        if not self._job.begin(step.number, step.option, self._task(context)):
            return
        self._aim(step.option, step.number)
        self.log.info("Attempt %d: pool %s (%s)", step.number, step.option.pool, step.option.operator)
        try:
            self._check_pool()
            self._ask(context)
        except Denied:
            return
        except NameTaken as taken:
            self._leave(step.number, taken)
        except (ApiException, HTTPError) as cause:
            status, message = status_and_message(cause)
            if self._job.admitted(step.number):  # it may run by now
                raise self._away(step.number, cause) from cause
            ending = verdict.refused(status, message)
            self._job.end(step.number, ending or verdict.Ending("failed", message))
            self._delete(grace=0)  # the answer may have been lost, and not the request
            if ending is None:
                raise TrainingError(
                    f"Pool {step.option.pool} refuses the {self.thing} of job {self._job.spec.job_id}: {message}",
                    "Correct the pool in rempart.yaml; `rempart pool doctor` explains it.",
                ) from cause
            self.log.warning("Attempt %d: %s (%s)", step.number, ending.outcome, ending.cause)

    def _check_pool(self) -> None:
        """Check that the connection names a cluster, and the pool's queue exists in it. Raises NameTaken."""
        if why := why_missing(self.kubernetes_conn_id):
            raise NameTaken(verdict.Ending("unreachable", why))
        if (name := self._queue) is None:
            return
        try:
            queue_state = retried(local_queue)(self.hook, self.namespace, name)
        except ApiException as cause:
            if cause.status != 403:
                raise
            self.log.info("The state of LocalQueue %s cannot be read: %s", name, status_and_message(cause)[1])
            return
        if queue_state is None:
            raise NameTaken(verdict.Ending("unreachable", queue.absent(self._option.pool, self.namespace, name)))
        if queue_state.active is False:
            self.log.warning("LocalQueue %s admits no job now: %s", name, queue_state.why)

    def _see_managed(self, owner: Mapping[str, Any]) -> None:
        """Tell that an object with the name of a queue does not wait in it: its quota does not count the job."""
        if not queue.managed(owner):
            self.log.warning(
                "The %s %s runs outside LocalQueue %s, because Kueue does not manage such objects in namespace %s",
                self.thing,
                self.name,
                self._queue,
                self.namespace,
            )

    @property
    def _queue(self) -> str | None:
        """Return the queue of the current pool."""
        return load().gpu_pools[self._option.pool].queue

    def _of_queue(self, describe: Callable[[str, list[Any] | None], str], kind: str) -> str:
        """Return Kueue's state of the attempt's object, in the form of `describe`; empty in a pool without a queue."""
        if (name := self._queue) is None:
            return ""
        return describe(name, workload_events(self.client, self.namespace, kind, self.name))

    def _resume(self, step: Resume, context: Any) -> None:
        """Find the object of the attempt that is on; returns if it has ended meanwhile."""
        number = step.attempt.number
        self._aim(step.option, number)
        self.log.info("Attempt %d is running in pool %s: looking for its %s", number, step.option.pool, self.thing)
        try:
            pod = self._found(context)
            if pod is None:
                age = (datetime.now(UTC) - step.attempt.started).total_seconds()
                if age < YOUNG_SECONDS:  # whoever began it may be making it now
                    self._pause(time.time(), f"the attempt has just started and has no {self.thing} yet")
                self._job.end(number, verdict.ending(None))
                self._delete()  # one that came in between has no credentials, and gets none any more
            elif not self._lives(pod):
                event = {"status": "failed", "message": "", "name": self.name, "namespace": self.namespace}
                self._over(context, number, event, pod)
            else:
                self._ask(context)
        except Denied:
            return
        except NameTaken as taken:
            self._leave(number, taken)
        except (ApiException, HTTPError) as cause:
            raise self._away(number, cause) from cause

    def _aim(self, option: Option, number: int) -> None:
        """Point this operator at a pool: its cluster, and the object of one attempt there."""
        self._option, self._number = option, number
        for name in ("hook", "client", "pod_manager"):
            self.__dict__.pop(name, None)
        self.kubernetes_conn_id, self.namespace = option.connection, option.namespace
        self.name = shape.name(self._job.spec.job_id, number)

    def _give_credentials(
        self, owner: Mapping[str, Any], nodes: Sequence[str], created_pods: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Make the Secret for which an attempt's containers wait, if all its nodes may have the data.

        The policy has not checked `created_pods` before. If a node may not have the data, the attempt ends: its object
        is deleted before it gets credentials. Raises Denied.
        """
        node = ""
        try:
            self._job.judge_pods(self._option, created_pods)
            facts = []
            for node in nodes:
                facts.append(self._plain(retried(self.client.read_node)(node)))
            secret = self._job.admit(self._number, self._option, owner, *facts)
        except (PlacementDenied, TrainingError, ApiException) as cause:
            if isinstance(cause, ApiException) and cause.status not in (403, 404):
                raise
            why = (
                f"node {node} cannot be read: {status_and_message(cause)[1]}"
                if isinstance(cause, ApiException)
                else cause.what
            )
            self._deny(why)
            raise Denied from cause
        if retried(self._make_secret)(secret):
            for pod in [created["metadata"]["name"] for created in created_pods] or [self.name]:
                self._wake(pod)

    def _deny(self, why: str) -> None:
        self._delete(grace=0)
        self._job.end(self._number, verdict.Ending("denied", why))
        self.log.warning("The %s %s gets no credentials and is deleted: %s", self.thing, self.name, why)

    def _leave(self, number: int, name_taken: NameTaken) -> None:
        self._job.end(number, name_taken.ending)
        self.log.warning("Attempt %d: %s (%s)", number, name_taken.ending.outcome, name_taken.ending.cause)

    def _hold_to(self, metadata: Mapping[str, Any]) -> None:
        """Raises NameTaken for an object of the attempt's name without the attempt's labels."""
        labels = metadata.get("labels") or {}
        wanted = {shape.JOB: self._job.spec.job_id, shape.ATTEMPT: str(self._number)}
        if any(labels.get(key) != value for key, value in wanted.items()):
            cause = f"{self.thing} {self.name} in namespace {self.namespace} was not made for this attempt"
            raise NameTaken(verdict.Ending("unreachable", cause))

    def _make_secret(self, secret: Mapping[str, Any]) -> bool:
        """Make the Secret. Return False if it exists."""
        try:
            self.client.create_namespaced_secret(self.namespace, secret)
        except ApiException as cause:
            if not is_there(cause):  # made by an earlier try, for this very object
                raise
            return False
        return True

    def _wake(self, pod: str) -> None:
        """Change a pod so that its kubelet looks for the missed Secret at once instead of 10 to 15 s later."""
        with suppress(ApiException, HTTPError):  # then later it is
            self.client.patch_namespaced_pod(
                pod, self.namespace, {"metadata": {"annotations": {shape.ADMITTED: "yes"}}}
            )

    def _conclude(self, number: int, ending: verdict.Ending, pod: Mapping[str, Any] | None, lines: str) -> None:
        """End an attempt, described by `pod`. Only a result counts as success.

        Returns if the job is done or another pool is next. Raises TrainingError, PoolUnavailable.
        """
        job = self._job.spec.job_id
        if self._job.result() is not None:
            ending = verdict.Ending("succeeded", ending.cause)
        elif ending.outcome == "succeeded":
            ending = verdict.Ending("failed", "it succeeded but stored no result")
        self._job.end(number, ending, pod)
        if ending.outcome == "failed":
            raise TrainingError(
                f"Job {job} failed in attempt {number}: {ending.cause}. Its last lines:\n{lines}",
                "Correct the cause in the last lines, and run again.",
            )
        if ending.outcome == "unreachable":
            raise PoolUnavailable(
                f"Job {job}, attempt {number}: {ending.cause}. Its last lines:\n{lines}",
                "Run again: finished steps are stored at the site and are reused.",
            )
        self.log.info("Attempt %d ended: %s (%s)", number, ending.outcome, ending.cause)

    def _last_lines(self, pod: str, container: str) -> str:
        """Return a pod's last lines, readable and indented."""
        try:
            answer = self.client.read_namespaced_pod_log(
                pod, self.namespace, container=container, tail_lines=LAST_LINES, _preload_content=False
            )  # as it is: the client would give the bytes' repr
        except ApiException as cause:
            return f"  (its log cannot be read: {status_and_message(cause)[1]})"
        return "\n".join(f"  {readable(line)}" for line in answer.data.decode("utf-8", "replace").splitlines())

    def _pause(self, moment: float, why: str) -> NoReturn:
        self.log.info("Waiting in the triggerer: %s", why)
        self.defer(trigger=PauseTrigger(moment, why), method_name="again")
        raise AssertionError("defer never returns")

    def _away(self, number: int, cause: Exception) -> PoolUnavailable:
        _, answer = status_and_message(cause)
        return PoolUnavailable(
            f"follow attempt {number} in pool {self._option.pool}: the cluster did not answer: {answer}",
            f"Run again: the {self.thing} is found by its job. `rempart pool doctor` shows the cause.",
        )

    def _give_up(self, step: GiveUp) -> NoReturn:
        job = self._job.spec.job_id
        if step.denied:
            raise PlacementDenied(f"No pool may run job {job}: {step.why}", "Correct the pools: `rempart pool doctor`.")
        raise TrainingError(
            f"Job {job}: {step.why}",
            "Clear this task to search again, add a pool, or raise training.deadline: docs/runbooks/training-pool.md.",
        )

    def _done(self) -> dict[str, Any]:
        ran = self._job.ran() or {}
        self.log.info("Job %s is done%s", self._job.spec.job_id, f": {ran}" if ran else "")
        return {"job_id": self._job.spec.job_id, "placement": ran}

    def _plain(self, answer: Any) -> dict[str, Any]:
        plain: dict[str, Any] = self.client.api_client.sanitize_for_serialization(answer)
        return plain

    @cached_property
    def _job(self) -> PodJob:
        from rempart.flows.training.pod_job import ordered_job

        pipeline, order = runtime.model_pipeline(self.pipeline), self.order
        return ordered_job(runtime.platform(), pipeline, order["bucket"], order["key"], order.get("free"))

    @staticmethod
    def _task(context: Any) -> dict[str, str]:
        task = context["ti"]
        return {"dag": task.dag_id, "run": task.run_id, "task": task.task_id, "map_index": str(task.map_index)}
