"""One watch of a pool's pods for all triggers that wait there for a node, in one process.

A trigger by itself would ask the cluster for its pod at the provider's pace, thirty times a minute. Here one request
lists the pods of a pool, one watch tells what changes, and each trigger is woken by what concerns its own pod. A watch
that does not work wakes nobody: triggers look for themselves now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from kubernetes_asyncio import client, watch

from rempart.training.kubernetes import pod as shape

log = logging.getLogger("rempart.pools")
WATCH_SECONDS = 300
"""The API server ends a watch after so long; the next one goes on where it ended."""
AGAIN_SECONDS, MOST_SECONDS = 5.0, 60.0
"""Pause after a watch that failed: the first, and the longest."""
_SELECTOR = ",".join(f"{key}={value}" for key, value in shape.MANAGED_BY.items())


class News:
    """The newest state of one pod. A newer one replaces it."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._pod: Any = None

    def tell(self, pod: Any) -> None:
        """The pod as it is now; None if it is gone."""
        self._pod = pod
        self._told.set()

    async def next(self, seconds: float) -> Any:
        """The pod after its next change; None if nothing is told within so many seconds, or it is gone."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), seconds)
        self._told.clear()
        pod, self._pod = self._pod, None
        return pod


class PoolWatch:
    """The jobs' pods of one namespace. It runs while somebody wants news."""

    def __init__(self, namespace: str) -> None:
        self.hook: Any = None
        """Of the trigger that came last: its credentials are the newest."""
        self._namespace = namespace
        self._wanted: dict[str, list[News]] = {}
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def news(self, name: str) -> AsyncIterator[News]:
        """News of a pod, from now on."""
        mine = News()
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
            try:
                async with self.hook.get_conn() as api:
                    core = client.CoreV1Api(api)
                    if not version:
                        version = await self._list(core)
                    version = await self._follow(core, version)
                pause = AGAIN_SECONDS
            except Exception as fault:  # whatever it is, triggers look for themselves meanwhile
                expired = getattr(fault, "status", None) == 410
                version = ""
                if not expired:
                    log.info("The pods of %s cannot be watched now: %s", self._namespace, type(fault).__name__)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MOST_SECONDS)

    async def _list(self, core: Any) -> str:
        listed = await core.list_namespaced_pod(self._namespace, label_selector=_SELECTOR)
        found = {one.metadata.name: one for one in listed.items}
        for name in list(self._wanted):
            self._tell(name, found.get(name))
        return str(listed.metadata.resource_version)

    async def _follow(self, core: Any, version: str) -> str:
        """Tell what changes until the watch ends; the version to go on from."""
        named: dict[str, Any] = {"label_selector": _SELECTOR, "resource_version": version}
        named |= {"timeout_seconds": WATCH_SECONDS, "_request_timeout": WATCH_SECONDS + AGAIN_SECONDS}
        async with watch.Watch() as stream:
            async for event in stream.stream(core.list_namespaced_pod, self._namespace, **named):
                pod = event["object"]
                version = pod.metadata.resource_version
                self._tell(pod.metadata.name, None if event["type"] == "DELETED" else pod)
        return version

    def _tell(self, name: str, pod: Any) -> None:
        for one in self._wanted.get(name, ()):
            one.tell(pod)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], PoolWatch]] = WeakKeyDictionary()


def watch_of(hook: Any, connection: str, namespace: str) -> PoolWatch:
    """The watch of a pool in this event loop, which all that ask for the same pool share."""
    mine = _watches.setdefault(asyncio.get_running_loop(), {})
    found = mine.setdefault((connection, namespace), PoolWatch(namespace))
    found.hook = hook
    return found
