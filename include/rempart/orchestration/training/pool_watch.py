"""Watch a pool's pods, and its TrainJobs if any, once for all triggers of a process.

A trigger alone would request its pod at the provider's pace, thirty times a minute. Here one request lists the pods of
a pool, one watch reports changes, and each trigger wakes for its own job. A failed watch wakes no trigger, so triggers
also check now and then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal
from weakref import WeakKeyDictionary

from kubernetes_asyncio import client, watch

from rempart.training.kubernetes import pod as shape
from rempart.training.kubernetes import train_job

logger = logging.getLogger(__name__)
Kind = Literal["pods", "train jobs"]
WATCH_SECONDS = 300
"""Seconds after which the API server ends a watch. The next watch continues there."""
AGAIN_SECONDS, MOST_SECONDS = 5.0, 60.0
"""Pause after a watch that failed or ended at once: the first, and the longest."""
_SELECTOR = ",".join(f"{key}={value}" for key, value in shape.MANAGED_BY.items())


class News:
    """Newest state of one pod, or a change of one TrainJob. Later news replace earlier news."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._state: Any = None
        self._at = 0.0
        self.count = 0
        """Number of reported news."""

    def tell(self, state: Any) -> None:
        """Report the current state; None if the pod or TrainJob is deleted."""
        self.keep(state)
        self.count += 1
        self._told.set()

    def keep(self, state: Any) -> None:
        """Store a requested state without waking anybody."""
        self._state, self._at = state, time.monotonic()

    def newest(self, seconds: float) -> Any:
        """Return the state reported or stored within some seconds, or None."""
        return self._state if time.monotonic() - self._at < seconds else None

    async def wait(self, seconds: float) -> None:
        """Wait for news, reported now or since the last call, at most some seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), max(seconds, 0.0))
        self._told.clear()


class PoolWatch:
    """Watches pods or TrainJobs of jobs in one namespace while there are subscribers."""

    def __init__(self, namespace: str, kind: Kind) -> None:
        self.hook: Any = None
        """Cluster of the newest trigger: its credentials are the newest."""
        self._namespace, self._kind = namespace, kind
        self._wanted: dict[str, list[News]] = {}
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def news(self, name: str, mine: News | None = None) -> AsyncIterator[News]:
        """Subscribe to a pod, or to a TrainJob and (in the pod watch) its pods."""
        mine = mine or News()
        self._wanted.setdefault(name, []).append(mine)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield mine
        finally:
            self._wanted[name].remove(mine)
            if not self._wanted[name]:
                del self._wanted[name]
            if not self._wanted and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        version, pause = "", AGAIN_SECONDS
        while True:
            began, resumes, failed = time.monotonic(), bool(version), False
            try:
                async with self.hook.get_conn() as api:
                    ask, where = self._asked(api)
                    version = version or await self._list(ask, where)
                    version = await self._follow(ask, where, version)
            except Exception as fault:  # whatever it is, triggers look for themselves meanwhile
                version, failed = "", True
                if resumes and getattr(fault, "status", None) == 410:
                    continue  # the version of the last watch is too old: list again
                logger.info("The watch of the %s of %s failed: %s", self._kind, self._namespace, type(fault).__name__)
            # kubernetes_asyncio takes an error without a body (503 of a load balancer) for the end of a watch
            lasted = time.monotonic() - began
            if lasted >= (MOST_SECONDS if failed else AGAIN_SECONDS):
                pause = AGAIN_SECONDS
            if failed or lasted < AGAIN_SECONDS:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_SECONDS)

    def _asked(self, api: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
        if self._kind == "pods":
            return client.CoreV1Api(api).list_namespaced_pod, (self._namespace,)
        where = (train_job.GROUP, train_job.VERSION, self._namespace, train_job.PLURAL)
        return client.CustomObjectsApi(api).list_namespaced_custom_object, where

    async def _list(self, ask: Callable[..., Any], where: tuple[str, ...]) -> str:
        listed = await ask(*where, label_selector=_SELECTOR)
        plain = isinstance(listed, dict)
        listed_pods = {name: pod for pod in (listed["items"] if plain else listed.items) for name in _names(pod)}
        for name in list(self._wanted):
            self._tell(name, listed_pods.get(name))
        return str(listed["metadata"]["resourceVersion"] if plain else listed.metadata.resource_version)

    async def _follow(self, ask: Callable[..., Any], where: tuple[str, ...], version: str) -> str:
        """Report changes until the watch ends. Return the version to continue from."""
        named: dict[str, Any] = {"label_selector": _SELECTOR, "resource_version": version}
        named |= {"timeout_seconds": WATCH_SECONDS, "_request_timeout": WATCH_SECONDS + AGAIN_SECONDS}
        async with watch.Watch() as stream:
            async for event in stream.stream(ask, *where, **named):
                version = event["raw_object"]["metadata"]["resourceVersion"]
                for name in _names(event["object"]):
                    self._tell(name, None if event["type"] == "DELETED" else event["object"])
        return version

    def _tell(self, name: str, state: Any) -> None:
        for waiter in self._wanted.get(name, ()):
            waiter.tell(state)


def _names(pod: Any) -> tuple[str, ...]:
    """Return the names that subscribers use: the object's own, and for a TrainJob's pod the TrainJob's."""
    if isinstance(pod, dict):
        return (pod["metadata"]["name"],)
    job = (pod.metadata.labels or {}).get(train_job.OF_JOB)
    return (pod.metadata.name, job) if job else (pod.metadata.name,)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, Kind], PoolWatch]] = WeakKeyDictionary()


def watch_of(hook: Any, connection: str, namespace: str, kind: Kind = "pods") -> PoolWatch:
    """Return the watch of a pool in this event loop, shared by all its subscribers."""
    mine = _watches.setdefault(asyncio.get_running_loop(), {})
    pool_watch = mine.setdefault((connection, namespace, kind), PoolWatch(namespace, kind))
    pool_watch.hook = hook
    return pool_watch
