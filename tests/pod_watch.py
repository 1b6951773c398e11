"""Every pod that was ever created in a namespace, from a watch of the API."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.api_proxy import Loop, Upstream
from tests.kubernetes_double.history import History, PodRecord
from tests.kubernetes_double.kinds import POD
from tests.kubernetes_double.store import Change

_LONGEST_LINE = 2**22


class PodWatch:
    """Follows a namespace's pods from its start to its close, through interruptions of the watch."""

    def __init__(self, loop: Loop, upstream: Upstream, namespace: str) -> None:
        self._loop, self._upstream = loop, upstream
        self._url = f"{upstream.url}/api/v1/namespaces/{namespace}/pods"
        self._history = History()
        self._known: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> PodWatch:
        self._loop.run(self._begin())
        return self

    def close(self) -> None:
        self._loop.run(self._end())

    @property
    def records(self) -> list[PodRecord]:
        """Copies of what is known, oldest first."""

        async def read() -> list[PodRecord]:
            return self._history.records()

        return self._loop.run(read())

    async def _begin(self) -> None:
        listed = asyncio.Event()
        self._task = asyncio.create_task(self._follow(listed))
        await asyncio.wait_for(listed.wait(), 30)

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self, listed: asyncio.Event) -> None:
        timeout = ClientTimeout(total=None, sock_connect=10)
        async with ClientSession(
            connector=self._upstream.connector(), timeout=timeout, read_bufsize=_LONGEST_LINE
        ) as session:
            version = ""
            while True:
                try:
                    if not version:
                        version = await self._list(session)
                        listed.set()
                    version = await self._watch(session, version)
                except (ClientError, TimeoutError):
                    await asyncio.sleep(0.2)

    async def _list(self, session: ClientSession) -> str:
        async with self._asked(session, {}) as answer:
            answer.raise_for_status()
            found = await answer.json()
        present = {pod["metadata"]["uid"]: pod for pod in found.get("items") or ()}
        for uid in set(self._known) - set(present):
            self._notice("DELETED", self._known[uid])
        for pod in present.values():
            self._notice("MODIFIED", pod)
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, session: ClientSession, version: str) -> str:
        """Follow from a version on; the version to go on from, or none if that one is too old."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "240"}
        async with self._asked(session, query) as answer:
            if answer.status == 410:
                return ""
            answer.raise_for_status()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                self._notice(event["type"], event["object"])
        return version

    def _asked(self, session: ClientSession, query: dict[str, str]) -> Any:
        found = self._upstream.authorization()
        headers = {"Authorization": found} if found else {}
        return session.get(self._url, params=query, headers=headers, server_hostname=self._upstream.server_name)

    def _notice(self, what: str, pod: Any) -> None:
        uid = pod["metadata"]["uid"]
        if what == "DELETED":
            self._known.pop(uid, None)
        else:
            self._known[uid] = pod
        pod.setdefault("status", {}).setdefault("phase", "Pending")
        self._history.notice(Change(0, POD, what, pod, None))
