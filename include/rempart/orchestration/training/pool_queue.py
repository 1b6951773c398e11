"""What Kueue says of an attempt in its pool's queue, asked with the pool's identity, by operators and triggers."""

from __future__ import annotations

import logging
import math
from typing import Any

from kubernetes.client import ApiException  # noqa: TID253 - only where pods run
from kubernetes_asyncio import client
from urllib3.exceptions import HTTPError

from rempart.training.kubernetes import queue
from rempart.training.kubernetes.queue import LocalQueue

logger = logging.getLogger(__name__)

SOON = (1.0, 1.0, 3.0, 10.0)
"""Pauses between looks until Kueue has said something; then a look comes when the job's trigger looks."""


def local_queue(hook: Any, namespace: str, name: str) -> LocalQueue | None:
    """A LocalQueue; None if it is not there. Raises ApiException, HTTPError."""
    for version in queue.VERSIONS:
        try:
            found = hook.custom_object_client.get_namespaced_custom_object(
                queue.GROUP, version, namespace, queue.LOCAL_QUEUES, name
            )
        except ApiException as cause:
            if cause.status != 404:
                raise
        else:
            return LocalQueue.of(found)
    return None


def workload_events(core: Any, namespace: str, kind: str, name: str) -> list[Any] | None:
    """What Kueue told of the Workload of a pod or TrainJob, also of one that is gone; None if it cannot be read."""

    def events(selector: str) -> list[Any]:
        found = core.list_namespaced_event(namespace, field_selector=selector).items
        return [core.api_client.sanitize_for_serialization(one) for one in found]

    try:
        workload = queue.workload(events(queue.of_owner(kind, name)))
        return events(queue.of_workload(workload)) if workload else []
    except (ApiException, HTTPError):
        return None


class QueueWatch:
    """What Kueue tells of one pod or TrainJob, for its trigger: one request a look, and two until it has a Workload."""

    def __init__(self, hook: Any, namespace: str, kind: str, name: str) -> None:
        self._hook, self._namespace, self._owner = hook, namespace, queue.of_owner(kind, name)
        self._workload: str | None = None
        self._soon: tuple[float, ...] = SOON

    async def events(self) -> list[Any] | None:
        """The events of the Workload; None if they cannot be read now."""
        found: list[Any] | None = None
        try:
            async with self._hook.get_conn() as api:
                if self._workload is None:
                    self._workload = queue.workload(await self._events(api, self._owner))
                found = await self._events(api, queue.of_workload(self._workload)) if self._workload else []
        except Exception as cause:  # the job waits all the same
            logger.debug("Events of %s cannot be read: %s", self._owner, type(cause).__name__)
        self._soon = () if found else self._soon[1:]
        return found

    @property
    def again(self) -> float:
        """Seconds until the next look is worth it: Kueue takes a moment to say something of a new job."""
        return self._soon[0] if self._soon else math.inf

    async def _events(self, api: Any, selector: str) -> list[Any]:
        found = await client.CoreV1Api(api).list_namespaced_event(self._namespace, field_selector=selector)
        return [api.sanitize_for_serialization(one) for one in found.items]
