"""Interpret a cluster's answers about a job: whether a node is allowed, and how an attempt ended. Pure.

A pod is an API object (camelCase dict). Unknown states are never a success.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from rempart.settings.config import Config
from rempart.sovereignty.places import decide_pool
from rempart.sovereignty.pods import REGION
from rempart.sovereignty.policy import Decision, Reason, verdict
from rempart.training.entrypoint import SESSION_OVER, TRY_AGAIN
from rempart.training.kubernetes import queue
from rempart.training.kubernetes.pod import CONTAINER, NODE_CONTAINER
from rempart.training.placement import Outcome

GPU_PRODUCT = "nvidia.com/gpu.product"
_LOST = frozenset(("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting", "Shutdown", "NodeAffinity"))
"""Reasons of failed pods for which the cluster is responsible.

Source: Kubernetes, kubelet and node lifecycle controller.
"""
_IMAGE = re.compile(r"Image|Registry")
_PASSES = re.compile(r"(?i)rate limit|too many requests|qps exceeded|timeout|temporarily|bad gateway|unavailable")
"""A registry's fault that passes: the kubelet tries again."""
_ANSWER = re.compile(
    r"\(?(?P<status>\d{3})\)?\s*Reason: (?P<reason>[^\n]*)\s*HTTP response headers: .*?"
    r"(?:HTTP response body: (?P<body>.*))?\Z",
    re.DOTALL,
)
"""Pattern of an API error in the Kubernetes clients' messages."""
TERMINATED_BY_SIGNAL = (137, 143)
TIMED_OUT = 124
"""Exit status of timeout(1), which bounds the job in a TrainJob's pods."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, with the cause in the cluster's words."""

    outcome: Outcome
    cause: str


@dataclass(frozen=True)
class Ran:
    """Place of an attempt, and the source of that fact. A label is the operator's declaration, not a proof."""

    pool: str
    operator: str
    region: str | None
    node: str
    provider_id: str | None
    gpu_type: str | None
    gpus: int
    basis: str = "declared: the node's labels, read through the cluster's API"
    image: str | None = None
    seconds: float | None = None
    nodes: tuple[Ran, ...] = ()
    """Each node by rank, where there are several: then `node` and `provider_id` name all, and `gpus` counts all."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields of a single node; for several nodes also each node, without their common parts."""
        whole = asdict(self)
        each = [
            {key: node[key] for key in ("node", "region", "provider_id", "gpu_type")} for node in whole.pop("nodes")
        ]
        return whole | ({"nodes": each} if each else {})


def together(ran: Sequence[Ran]) -> Ran:
    """Return the place of an attempt of several nodes: `ran` by rank, at least one."""

    def named(texts: Iterable[str | None]) -> str | None:
        return ", ".join(dict.fromkeys(text for text in texts if text)) or None

    if len(ran) == 1:
        return ran[0]
    return replace(
        ran[0],
        region=named(node.region for node in ran),
        node=str(named(node.node for node in ran)),
        provider_id=named(node.provider_id for node in ran),
        gpu_type=named(node.gpu_type for node in ran),
        gpus=sum(node.gpus for node in ran),
        nodes=tuple(ran),
    )


def judge_node(
    config: Config, classification: str, pool: str, gpus: int, node: Mapping[str, Any], on: Any
) -> tuple[Decision, Ran]:
    """Judge whether a bound node may have data of this classification. Return what the node says of itself."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    declared = config.gpu_pools[pool]
    name, place = node["metadata"]["name"], f"node '{node['metadata']['name']}' of pool '{pool}'"
    wanted = {REGION: declared.region} | declared.node_selector
    reasons = [*decide_pool(config, classification, "job", pool, on=on).reasons]
    for key, value in wanted.items():
        found = labels.get(key)
        fact = f"the node's label {key} is {found}" if found else f"the node has no label {key}"
        remedy = f"Label the nodes of pool {pool} with {key}={value}, or correct gpu_pools.{pool} in rempart.yaml."
        reasons.append(Reason(found == value, f"gpu_pools.{pool}", f"{fact}, but {value} is declared", remedy))
    ran = Ran(
        pool,
        declared.operator,
        labels.get(REGION),
        name,
        (node.get("spec") or {}).get("providerID"),
        labels.get(GPU_PRODUCT),
        gpus,
    )
    return verdict(classification, "job", place, reasons), ran


def ending(pod: Mapping[str, Any] | None, message: str = "") -> Ending:
    """Return how a pod's attempt ended; None for a deleted pod. `message` is the watcher's message."""
    if pod is None:
        return Ending(
            "interrupted", f"its pod is gone (evicted, or its node was lost, or a person deleted it). {message}".strip()
        )
    status: Mapping[str, Any] = pod.get("status") or {}
    state = _state(status)
    ended: Mapping[str, Any] | None = state.get("terminated")
    if ended is not None and ended.get("exitCode") == 0:
        return Ending("succeeded", "exit status 0")
    if why := lost(pod):
        return Ending("interrupted", why)
    if status.get("reason") == "DeadlineExceeded":
        if "waiting" in state:
            return Ending("capacity", next(_waiting(status, state)))
        return Ending("failed", "it ran longer than trainer.timeout (DeadlineExceeded)")
    if ended is not None:
        return _exited(ended, bool(pod["metadata"].get("deletionTimestamp")))
    if status.get("phase") == "Pending":
        if pod["metadata"].get("deletionTimestamp"):
            return Ending("interrupted", f"its pod was deleted before it ran. {message}".strip())
        if queue.gated(pod):
            return Ending("capacity", message or "Kueue has not admitted it")
        return Ending(
            "capacity", next(_waiting(status, state), message or ("it stayed Pending without a stated reason"))
        )
    if status.get("phase") == "Failed":
        pod_message = " ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
        return Ending("interrupted", pod_message or message or "the pod failed without a stated reason")
    return Ending("interrupted", message or f"the pod was last seen {status.get('phase') or 'in no known phase'}")


def readable(text: str) -> str:
    """Return status and message of a Kubernetes client's exception, without HTTP headers."""
    return _ANSWER.sub(_answered, text)


def _answered(matched: re.Match[str]) -> str:
    try:
        told = str(json.loads(matched["body"] or "")["message"])
    except (ValueError, KeyError, TypeError):
        told = matched["reason"].strip()
    return f"the cluster's API answered {matched['status']}: {told[:500]}"


def seconds_run(pod: Mapping[str, Any]) -> float | None:
    """Return the seconds between a container's start and end; None while it runs or if unknown."""
    ended = _state(pod.get("status") or {}).get("terminated") or {}
    begun, over = ended.get("startedAt"), ended.get("finishedAt")
    if not begun or not over:
        return None
    return (datetime.fromisoformat(over) - datetime.fromisoformat(begun)).total_seconds()


def image_digest(pod: Mapping[str, Any]) -> str | None:
    """Return the digest of the image that ran, as the kubelet reports it."""
    return _container(pod.get("status") or {}).get("imageID") or None


def refused(status: int, message: str) -> Ending | None:
    """Return what a refused pod means; None if no other pool would help."""
    if status == 403 and "exceeded quota" in message:
        return Ending("capacity", f"the namespace's quota refuses the pod: {message}")
    if status in (401, 403):
        return Ending("unreachable", f"the cluster refuses: {message}")
    if status == 404:
        return Ending("unreachable", f"the namespace does not exist: {message}")
    if status in (408, 409, 429) or status >= 500 or status == 0:
        return Ending("unreachable", f"the cluster's API answered {status or 'nothing'}: {message}")
    return None


def bound(pod: Mapping[str, Any]) -> str | None:
    """Return the node that a pod was bound to."""
    return (pod.get("spec") or {}).get("nodeName") or None


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    ours = (CONTAINER, NODE_CONTAINER)
    return next((container for container in status.get("containerStatuses") or () if container.get("name") in ours), {})


def _state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    state: Mapping[str, Any] = _container(status).get("state") or {}
    return state


def terminated(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the end of a pod's container, or None."""
    state: Mapping[str, Any] | None = _state(pod.get("status") or {}).get("terminated")
    return state


def hopeless(pod: Mapping[str, Any]) -> str | None:
    """Return why a pod's image can never be pulled, if so."""
    waiting = _state(pod.get("status") or {}).get("waiting") or {}
    if not _IMAGE.search(str(waiting.get("reason"))) or _PASSES.search(str(waiting.get("message"))):
        return None
    return f"image cannot be pulled: {waiting['reason']}: {waiting.get('message') or ''}".strip(": ")


def lost(pod: Mapping[str, Any]) -> str | None:
    """Return why the cluster took the pod's place away, or None."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("DisruptionTarget", queue.STOPPED) and condition.get("status") == "True":
            return f"{condition.get('reason')}: {condition.get('message') or status.get('message') or ''}".strip(": ")
    if (reason := status.get("reason")) in _LOST:
        return f"{reason}: {status.get('message') or ''}".strip(": ")
    return None


def _exited(ended: Mapping[str, Any], deleted: bool) -> Ending:
    code, reason = ended.get("exitCode"), ended.get("reason") or ""
    if code == TRY_AGAIN:
        return Ending("unreachable", "a service that the job needs did not answer")
    if code == SESSION_OVER:
        return Ending("interrupted", "its session at the site ended before the job")
    if code == TIMED_OUT:
        return Ending("failed", f"it ran longer than trainer.timeout (exit status {code})")
    if reason == "OOMKilled":
        return Ending("failed", "it needed more memory than training.resources.memory allows (OOMKilled)")
    if code in TERMINATED_BY_SIGNAL:
        return Ending(
            "interrupted", f"ended by a signal (exit status {code})" + (", its pod was deleted" if deleted else "")
        )
    return Ending("failed", f"exit status {code} ({reason})" if reason else f"exit status {code}")


def _waiting(status: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"{condition.get('reason')}: {condition.get('message') or ''}".strip(": ")
    if waiting := state.get("waiting"):
        pod_message = f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip(": ")
        yield f"image cannot be pulled: {pod_message}" if _IMAGE.search(str(waiting.get("reason"))) else pod_message
