"""Ask Kueue about an attempt in its pool's queue with the pool's identity, for operators and triggers."""

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
"""Pauses between requests until Kueue has reported something; afterwards the job's trigger sets the pace."""


def local_queue(hook: Any, namespace: str, name: str) -> LocalQueue | None:
    """Return a LocalQueue, or None if it does not exist. Raises ApiException, HTTPError."""
    for version in queue.VERSIONS:
        try:
            answer = hook.custom_object_client.get_namespaced_custom_object(
                queue.GROUP, version, namespace, queue.LOCAL_QUEUES, name
            )
        except ApiException as cause:
            if cause.status != 404:
                raise
        else:
            return LocalQueue.of(answer)
    return None


def workload_events(core: Any, namespace: str, kind: str, name: str) -> list[Any] | None:
    """Return Kueue's events about a pod's or TrainJob's Workload, even a deleted one; None if unreadable."""

    def events(selector: str) -> list[Any]:
        listed = core.list_namespaced_event(namespace, field_selector=selector).items
        return [core.api_client.sanitize_for_serialization(event) for event in listed]

    try:
        workload = queue.workload(events(queue.of_owner(kind, name)))
        return events(queue.of_workload(workload)) if workload else []
    except (ApiException, HTTPError):
        return None


class QueueWatch:
    """Reads Kueue's events about one pod or TrainJob for its trigger: one request each time, or two while it has no
    Workload.
    """

    def __init__(self, hook: Any, namespace: str, kind: str, name: str) -> None:
        self._hook, self._namespace, self._owner = hook, namespace, queue.of_owner(kind, name)
        self._workload: str | None = None
        self._soon: tuple[float, ...] = SOON

    async def events(self) -> list[Any] | None:
        """Return the events of the Workload, or None if they cannot be read now."""
        new_events: list[Any] | None = None
        try:
            async with self._hook.get_conn() as api:
                if self._workload is None:
                    self._workload = queue.workload(await self._events(api, self._owner))
                new_events = await self._events(api, queue.of_workload(self._workload)) if self._workload else []
        except Exception as cause:  # the job waits all the same
            logger.debug("Events of %s cannot be read: %s", self._owner, type(cause).__name__)
        self._soon = () if new_events else self._soon[1:]
        return new_events

    @property
    def again(self) -> float:
        """Return the seconds until the next request: Kueue needs a moment for a new job."""
        return self._soon[0] if self._soon else math.inf

    async def _events(self, api: Any, selector: str) -> list[Any]:
        answer = await client.CoreV1Api(api).list_namespaced_event(self._namespace, field_selector=selector)
        return [api.sanitize_for_serialization(event) for event in answer.items]
