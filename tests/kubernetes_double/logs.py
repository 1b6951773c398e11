"""The pods/log subresource."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime

from .cluster import Cluster
from .errors import Refusal
from .kinds import POD, Obj
from .kubelet import Kubelet
from .processes import Log

TRUE = ("1", "t", "T", "true", "True", "TRUE")  # what Go reads as true


def find(cluster: Cluster, kubelet: Kubelet, namespace: str, name: str, query: Mapping[str, str]) -> Log:
    """The log that a request names. Raises Refusal 400, 404 or 500."""
    pod = cluster.get(POD, namespace, name)
    containers = [each["name"] for each in pod["spec"]["containers"]]
    inits = [each["name"] for each in pod["spec"].get("initContainers") or []]
    container = query.get("container") or (containers[0] if len(containers + inits) == 1 else "")
    if not container:
        shown = f"[{' '.join(containers)}]" + (f" or one of the init containers: [{' '.join(inits)}]" if inits else "")
        raise Refusal(400, f"a container name must be specified for pod {name}, choose one of: {shown}")
    if container not in containers + inits:
        raise Refusal(400, f"container {container} is not valid for pod {name}")
    node = pod["spec"].get("nodeName")
    if node in kubelet.lost_nodes:
        url = f"https://10.0.0.1:10250/containerLogs/{namespace}/{name}/{container}"
        raise Refusal(500, f'Get "{url}": dial tcp 10.0.0.1:10250: connect: no route to host')
    if query.get("previous") in TRUE:
        raise Refusal(400, f'previous terminated container "{container}" in pod "{name}" not found')
    worker = kubelet.workers.get(pod["metadata"]["uid"])
    log = worker.logs.get(container) if worker else None
    if log is None:
        raise Refusal(400, f'container "{container}" in pod "{name}" is waiting to start: {_waiting(pod, container)}')
    return log


def _waiting(pod: Obj, container: str) -> str:
    status = pod["status"]
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if each["name"] == container and "waiting" in each["state"]:
            reason: str = each["state"]["waiting"]["reason"]
            return "image can't be pulled" if reason == "ErrImagePull" else reason
    return "ContainerCreating"


async def read(log: Log, query: Mapping[str, str]) -> AsyncIterator[bytes]:
    """The lines that a request asks for; with `follow` until the container ends. Raises Refusal 400."""
    numbers = {name: _number(query, name) for name in ("tailLines", "sinceSeconds", "limitBytes")}
    since = 0
    if numbers["sinceSeconds"] is not None:
        since = time.time_ns() - numbers["sinceSeconds"] * 10**9
    elif query.get("sinceTime"):
        try:
            since = int(datetime.fromisoformat(query["sinceTime"]).timestamp() * 10**6) * 10**3
        except ValueError as problem:
            raise Refusal(400, f"invalid sinceTime: {query['sinceTime']}") from problem
    stamps, follow = (query.get(name) in TRUE for name in ("timestamps", "follow"))
    left = numbers["limitBytes"]
    at, end = 0, len(log.lines)
    if numbers["tailLines"] is not None:
        at = max(end - numbers["tailLines"], 0)
    with log.news() as news:
        while True:
            news.clear()
            while at < len(log.lines):
                moment, line = log.lines[at]
                at += 1
                if moment < since:
                    continue
                shown = (nano(moment) + b" " + line) if stamps else line
                if left is not None:
                    shown = shown[:left]
                    left -= len(shown)
                yield shown
                if left == 0:
                    return
            if not follow or log.closed:
                return
            await news.wait()


def _number(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return max(int(query[name]), 0)
    except ValueError as problem:
        raise Refusal(400, f"{name} must be a number") from problem


def nano(moment: int) -> bytes:
    """Nanoseconds since 1970 as RFC 3339."""
    seconds, rest = divmod(moment, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".encode()
