"""Triggers of the training operator: the provider's pod trigger fed by the pool's watch, and a pause.

The provider's loop reads the pod every two seconds. Here it reads the watched state, which costs no request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.triggers.pod import ContainerState, KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import (
    PodLaunchTimeoutException,
    PodPhase,
    detect_pod_terminate_early_issues,
)
from airflow.triggers.base import BaseTrigger, TriggerEvent

from rempart.orchestration.training.pool_queue import QueueWatch
from rempart.orchestration.training.pool_watch import News, watch_of
from rempart.sovereignty import pool_pods
from rempart.training.kubernetes import queue, verdict

MINIMUM_SECONDS = 10.0
"""Airflow 3.3.2 fails tasks that resume within seconds of deferring (3 of 8 at 3 s, none at 10 s; apache/airflow
#67287, #72716): no event is fired sooner."""
OVERDUE_SECONDS = 10
LOOK_SECONDS = 90.0
"""Seconds after which a pod is read although the pool's watch reports nothing."""
BOUND = "bound"
"""Status of the event that a pod has a node and waits for its credentials."""


class Lost(Exception):
    """A pod's node does not answer."""


def overdue(pod: Any, now: datetime) -> bool:
    """Return whether a pod's deletion is overdue."""
    gone_by = pod.metadata.deletion_timestamp
    return gone_by is not None and now > gone_by + timedelta(seconds=OVERDUE_SECONDS)


class TrainingPodTrigger(KubernetesPodTrigger):
    """The provider's trigger; with `await_node`, it fires as soon as the pod is bound to a node.

    It resolves the pool's connection itself, so that no credentials stand in the trigger's stored arguments.
    """

    def __init__(self, *, await_node: bool = False, **provided: Any) -> None:
        # the provider would also take what KUBECONFIG in the worker's environment leads to, instead of the connection
        provided["connection_extras"] = provided["config_dict"] = None
        super().__init__(**provided)
        self.await_node = await_node
        self._news = News()
        self._queue: QueueWatch | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, arguments = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments | {"await_node": self.await_node}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the provider's only event, not before the minimum, and without HTTP headers."""
        began = time.monotonic()
        async with watch_of(self.hook, str(self.kubernetes_conn_id), self.pod_namespace).news(self.pod_name) as news:
            self._news = news
            event = await anext(super().run())
        await asyncio.sleep(max(0.0, MINIMUM_SECONDS - (time.monotonic() - began)))
        payload = {name: value for name, value in event.payload.items() if name != "stack_trace"}
        yield _event(payload | {"message": verdict.readable(str(payload.get("message") or ""))})

    async def _get_pod(self) -> Any:
        """Return the pod's watched state if recent, else read it.

        Raises Lost for an overdue pod: no kubelet on its node confirms its end.
        """
        pod = self._news.newest(LOOK_SECONDS)
        if pod is None or overdue(pod, datetime.now(UTC)):
            count = self._news.count
            pod = await super()._get_pod()
            if self._news.count == count:  # what was told meanwhile may be newer
                self._news.keep(pod)
        if overdue(pod, datetime.now(UTC)):
            raise Lost(f"pod {self.pod_name} was not deleted by {pod.metadata.deletion_timestamp}: its node is lost")
        return pod

    async def _wait_for_pod_start(self) -> ContainerState:
        """Wait until the pod has a node or, if it has a node, until it starts. Raises the provider's errors."""
        logged = None
        began = self.trigger_start_time.timestamp() if self.await_node else time.time()
        deadline = began + (self.schedule_timeout if self.await_node else self.startup_timeout)
        while True:
            pod = await self._get_pod()
            if pod.status.phase not in (PodPhase.PENDING, PodPhase.UNKNOWN):
                if pod.status.phase == PodPhase.FAILED and pod.status.container_statuses is None:
                    raise PodLaunchFailedException("the pod failed before its containers started")
                return ContainerState.WAITING if self.await_node else self.define_pod_container_state(pod)
            if self.await_node and pod.spec.node_name:
                return ContainerState.WAITING
            if not self.await_node and (hopeless := detect_pod_terminate_early_issues(pod)):
                raise PodLaunchFailedException(hopeless)
            why = await self._reason(pod)
            if why and why != logged:
                self.log.info("Pod %s is waiting: %s", self.pod_name, why)
                logged = why
            if queue.never(why):
                return ContainerState.UNDEFINED
            if (left := deadline - time.time()) <= 0:
                if self.await_node:
                    return ContainerState.UNDEFINED
                raise PodLaunchTimeoutException(f"it did not start within {self.startup_timeout} s. {why}".strip())
            await self._news.wait(min(left, LOOK_SECONDS, self._queue.again if self._queue else LOOK_SECONDS))

    async def _reason(self, pod: Any) -> str:
        """Return why a pod waits: for Kueue, its node or its container."""
        name = (pod.metadata.labels or {}).get(pool_pods.QUEUE)
        if name is None or not any(gate.name.startswith(f"{queue.GROUP}/") for gate in pod.spec.scheduling_gates or ()):
            return _why(pod, self.base_container_name)
        self._queue = self._queue or QueueWatch(self.hook, self.pod_namespace, "Pod", self.pod_name)
        return queue.waits(name, await self._queue.events())

    async def _wait_for_container_completion(self) -> TriggerEvent:
        if not self.await_node:
            return await super()._wait_for_container_completion()
        pod = await self._get_pod()
        status = BOUND if pod.spec.node_name else "timeout"
        message = f"bound to node {pod.spec.node_name}" if pod.spec.node_name else "no node within max_pending"
        facts = {"status": status, "namespace": self.pod_namespace, "name": self.pod_name, "message": message}
        return _event({**facts, **self.trigger_kwargs})


def _why(pod: Any, container: str) -> str:
    """Return why a pod waits for its node or container, in the cluster's words."""
    scheduled = next((condition for condition in pod.status.conditions or () if condition.type == "PodScheduled"), None)
    if scheduled and scheduled.status != "True":
        return str(scheduled.message or scheduled.reason or "")
    states = (
        status.state.waiting
        for status in pod.status.container_statuses or ()
        if status.name == container and status.state
    )
    waiting = next((state for state in states if state), None)
    if waiting is None:
        return ""
    if waiting.reason == "CreateContainerConfigError" and f'"{pod.metadata.name}" not found' in (waiting.message or ""):
        # The Secret is made after the pod's node is judged. The node looks for it again after some seconds.
        return f"the job's Secret has not reached its node yet ({waiting.message})"
    return f"{waiting.reason}: {waiting.message or ''}".strip(": ")


class PauseTrigger(BaseTrigger):
    """Fires at a moment (POSIX seconds), but not before the minimum."""

    def __init__(self, moment: float, why: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's base has no types there
        self.moment, self.why = moment, why

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"moment": self.moment, "why": self.why}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        seconds = max(MINIMUM_SECONDS, self.moment - time.time())
        self.log.info("All pools were tried. The next round starts in %.0f s. %s", seconds, self.why)
        await asyncio.sleep(seconds)
        yield _event({"status": "again"})


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call] # Airflow's class has no types there
