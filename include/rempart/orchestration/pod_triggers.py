"""Triggers of the training operator: the provider's pod trigger that first waits for a node, and a pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.triggers.pod import ContainerState, KubernetesPodTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

from rempart.orchestration.pool_watch import watch_of
from rempart.training.kubernetes import verdict

MINIMUM_SECONDS = 10.0
"""Airflow 3.3.2 fails tasks that resume within seconds of deferring (3 of 8 at 3 s, none at 10 s; apache/airflow
#67287, #72716): no event is fired sooner."""
OVERDUE_SECONDS = 10
LOOK_SECONDS = 45.0
"""A pod that waits for a node is looked at so often although the pool's watch tells nothing of it."""
BOUND = "bound"
"""Status of the event that a pod has a node, and waits there for its credentials."""


class Lost(Exception):
    """A pod's node does not answer."""


def overdue(pod: Any, now: datetime) -> bool:
    """Whether a pod is being deleted, and its time for that is over."""
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

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, arguments = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments | {"await_node": self.await_node}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The provider's events, none of them sooner than the minimum, and without the headers of HTTP answers."""
        began = time.monotonic()
        async for event in super().run():
            await asyncio.sleep(max(0.0, MINIMUM_SECONDS - (time.monotonic() - began)))
            told = {name: value for name, value in event.payload.items() if name != "stack_trace"}
            yield _event(told | {"message": verdict.readable(str(told.get("message") or ""))})
            return

    async def _get_pod(self) -> Any:
        """The pod. Raises Lost for one that was to be gone by now: nobody on its node confirms its end."""
        pod = await super()._get_pod()
        if overdue(pod, datetime.now(UTC)):
            raise Lost(f"pod {self.pod_name} was to be gone by {pod.metadata.deletion_timestamp}: its node is lost")
        return pod

    async def _wait_for_pod_start(self) -> ContainerState:
        if not self.await_node:
            return await super()._wait_for_pod_start()
        told = None
        deadline = self.trigger_start_time.timestamp() + self.schedule_timeout
        shared = watch_of(self.hook, str(self.kubernetes_conn_id), self.pod_namespace)
        async with shared.news(self.pod_name) as news:
            pod = await self._get_pod()
            while True:
                if pod.spec.node_name or pod.status.phase != "Pending":
                    return ContainerState.WAITING
                why = next((one.message for one in pod.status.conditions or () if one.type == "PodScheduled"), None)
                if why and why != told:
                    self.log.info("Pod %s waits for a node: %s", self.pod_name, why)
                    told = why
                if (left := deadline - time.time()) <= 0:
                    return ContainerState.UNDEFINED
                pod = await news.next(min(left, LOOK_SECONDS)) or await self._get_pod()

    async def _wait_for_container_completion(self) -> TriggerEvent:
        if not self.await_node:
            return await super()._wait_for_container_completion()
        pod = await self._get_pod()
        status = BOUND if pod.spec.node_name else "timeout"
        message = f"bound to node {pod.spec.node_name}" if pod.spec.node_name else "no node within max_pending"
        facts = {"status": status, "namespace": self.pod_namespace, "name": self.pod_name, "message": message}
        return _event({**facts, **self.trigger_kwargs})


class PauseTrigger(BaseTrigger):
    """Fires at a moment (POSIX seconds), and not sooner than the minimum."""

    def __init__(self, moment: float, why: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's base has no types there
        self.moment, self.why = moment, why

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"moment": self.moment, "why": self.why}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        seconds = max(MINIMUM_SECONDS, self.moment - time.time())
        self.log.info("Every pool was asked; the next round begins in %.0f s. %s", seconds, self.why)
        await asyncio.sleep(seconds)
        yield _event({"status": "again"})


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call] # Airflow's class has no types there
