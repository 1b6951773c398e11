"""The trigger of TrainJobs: waits until every node has its pod and every pod a machine, then until the attempt is over.

Meanwhile the lines of rank 0 come into the task's log, without a worker. The pool's watches wake the trigger, for its
TrainJob and for each pod of it, so a job that waits asks the cluster nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio import client

from rempart.orchestration.training import pod_triggers
from rempart.orchestration.training.pool_queue import QueueWatch
from rempart.orchestration.training.pool_watch import News, watch_of
from rempart.training.backends import readable
from rempart.training.kubernetes import queue
from rempart.training.kubernetes import train_job as shape
from rempart.training.kubernetes.gang import Gang

POLL_SECONDS = 5.0
"""Minimum seconds between two checks, however many news arrive."""
LOOK_SECONDS = 90.0
"""A TrainJob is looked at so often although the pool's watches tell nothing of it. A look is two requests."""
_retried: Callable[[Callable[..., Any]], Callable[..., Any]] = generic_api_retry
SETTLE_SECONDS = 10.0
"""Seconds to wait for the other nodes of a failed attempt: together they show the cause."""
OVER = "over"
"""Status of the event that the attempt has ended."""


class TrainJobTrigger(BaseTrigger):
    """Watches one TrainJob. Its arguments hold no credentials: it resolves the connection itself.

    `await_nodes` fires as soon as all pods are bound. `started_by` and `ended_by` (POSIX seconds) limit when all pods
    must be bound or running, and ended. `machines` are the admitted nodes, empty before. `seen` is the time of the last
    reported line.
    """

    def __init__(
        self,
        *,
        connection: str,
        namespace: str,
        name: str,
        nodes: int,
        attempt: int,
        pool: str,
        await_nodes: bool,
        started_by: float,
        ended_by: float,
        log_every: float,
        machines: Sequence[str] = (),
        seen: str = "",
        poll: float = POLL_SECONDS,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's base has no types there
        self.connection, self.namespace, self.name, self.nodes = connection, namespace, name, nodes
        self.attempt, self.pool, self.await_nodes = attempt, pool, await_nodes
        self.started_by, self.ended_by = started_by, ended_by
        self.log_every, self.machines, self.seen, self.poll = log_every, list(machines), seen, poll
        self._queue: QueueWatch | None = None
        self._told = ""
        self._logged = time.monotonic()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            *("connection", "namespace", "name", "nodes", "attempt", "pool", "await_nodes", "started_by", "ended_by"),
            *("log_every", "machines", "seen", "poll"),
        )
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    @cached_property
    def hook(self) -> AsyncKubernetesHook:
        return AsyncKubernetesHook(conn_id=self.connection)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: `bound`, `over`, `timeout` or `error`, with its message; not before the minimum."""
        began = time.monotonic()
        try:
            status, message = await self._watch()
        except Exception as fault:  # as the provider's trigger: the operator asks the cluster itself
            status, message = "error", f"the cluster could not be watched: {type(fault).__name__}"
            self.log.warning("TrainJob %s: %s", self.name, message)
        await asyncio.sleep(max(0.0, pod_triggers.MINIMUM_SECONDS - (time.monotonic() - began)))
        facts = {"status": status, "message": message, "attempt": self.attempt, "pool": self.pool, "seen": self.seen}
        yield TriggerEvent(facts)  # type: ignore[no-untyped-call] # Airflow's class has no types there

    async def on_kill(self) -> None:
        """Delete the TrainJob if the task is killed while deferred."""
        async with self.hook.get_conn() as api:
            where = (shape.GROUP, shape.VERSION, self.namespace, shape.PLURAL, self.name)
            await client.CustomObjectsApi(api).delete_namespaced_custom_object(*where, propagation_policy="Foreground")

    async def _watch(self) -> tuple[str, str]:
        pods = watch_of(self.hook, self.connection, self.namespace)
        jobs = watch_of(self.hook, self.connection, self.namespace, "train jobs")
        async with pods.news(self.name) as news, jobs.news(self.name, news):
            return await self._until_over(news)

    async def _until_over(self, news: News) -> tuple[str, str]:
        ended = None
        while True:
            gang: Gang = await self._look()
            if gang.displaced:  # at once: its pods would begin again, with its Secret
                why = await self._of_queue(gang, queue.stopped)
                await self.on_kill()
                return OVER, why
            if gang.over:
                ended = ended or time.monotonic()
                if not gang.settles or time.monotonic() - ended >= SETTLE_SECONDS:
                    return OVER, ""
                await asyncio.sleep(min(self.poll, 1.0))
                continue
            if self.await_nodes and gang.bound:
                return pod_triggers.BOUND, f"all {self.nodes} pods are bound"
            if not gang.bound:
                why = await self._of_queue(gang, queue.waits) if gang.suspended else gang.waits
                self._tell(why)
                if queue.never(why):
                    return "timeout", why
            started = not self.await_nodes and all(
                (pod.get("status") or {}).get("phase") != "Pending" for pod in gang.pods
            )
            if not started and time.time() >= self.started_by:
                return "timeout", f"not all of the {self.nodes} nodes were bound within max_pending"
            if time.time() >= self.ended_by:
                return "timeout", "it did not end in time"
            if started and time.monotonic() - self._logged >= self.log_every:
                await self._relay(gang)
            await asyncio.sleep(self.poll)
            await news.wait(self._until_a_look(started))

    def _until_a_look(self, started: bool) -> float:
        """Return the seconds until the next check without news."""
        deadline = self.ended_by if started else min(self.started_by, self.ended_by)
        log_due = self._logged + self.log_every - time.monotonic() if started else LOOK_SECONDS
        soon = self._queue.again if self._queue else LOOK_SECONDS
        return min(LOOK_SECONDS, deadline - time.time(), log_due, soon)

    async def _of_queue(self, gang: Gang, describe: Callable[[str, list[Any] | None], str]) -> str:
        """Return Kueue's state of the TrainJob, in the form of `describe`."""
        name = queue.name_of(gang.job) if gang.job else None
        if name is None:
            return gang.waits
        self._queue = self._queue or QueueWatch(self.hook, self.namespace, shape.KIND, self.name)
        return describe(name, await self._queue.events())

    def _tell(self, why: str) -> None:
        if why != self._told:
            self.log.info("TrainJob %s is waiting for its nodes: %s", self.name, why)
            self._told = why

    @_retried
    async def _look(self) -> Gang:
        async with self.hook.get_conn() as api:
            answer = await client.CoreV1Api(api).list_namespaced_pod(
                self.namespace, label_selector=f"{shape.OF_JOB}={self.name}"
            )
            pods = [api.sanitize_for_serialization(pod) for pod in answer.items]
            try:
                job = await client.CustomObjectsApi(api).get_namespaced_custom_object(
                    shape.GROUP, shape.VERSION, self.namespace, shape.PLURAL, self.name
                )
            except client.ApiException as cause:
                if cause.status != 404:
                    raise
                job = None
        return Gang.of(job, pods, self.nodes, self.machines)

    async def _relay(self, gang: Gang) -> None:
        """Tell what rank 0 printed since; what cannot be read now is read later."""
        self._logged = time.monotonic()
        if gang.first is None:
            return
        try:
            lines = await self.hook.read_logs(
                gang.first["metadata"]["name"], self.namespace, shape.NODE, seconds_since(self.seen)
            )
        except Exception as fault:  # the watch goes on: the next look tells what is wrong
            self.log.info("The log of rank 0 cannot be read now: %s", type(fault).__name__)
            return
        fresh, self.seen = new_lines(lines, self.seen)
        for line in fresh:
            self.log.info("[rank 0] %s", readable(line))


def new_lines(lines: Iterable[str], seen: str) -> tuple[list[str], str]:
    """Return lines newer than `seen` without their timestamps, and the time of the last one."""
    fresh = []
    for line in lines:
        moment, _, text = line.partition(" ")
        if _key(moment) > _key(seen):
            fresh.append(text)
            seen = moment
    return fresh, seen


def _key(moment: str) -> tuple[str, str]:
    """Return a sort key for Kubernetes timestamps: UTC with as many fractional digits as are not 0."""
    whole, _, part = moment.removesuffix("Z").partition(".")
    return whole, part.ljust(9, "0")


def seconds_since(seen: str) -> int | None:
    """Return how many seconds of a log to read at least; None for all of it."""
    if not seen:
        return None
    whole, _, _ = seen.removesuffix("Z").partition(".")
    since = datetime.now(UTC) - datetime.fromisoformat(f"{whole}+00:00")
    return max(math.ceil(since.total_seconds()), 0) + 2
