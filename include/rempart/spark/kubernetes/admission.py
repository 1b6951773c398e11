"""Decide what the platform does next with the pods of a Spark job: who gets the Secret, and which nodes an executor may
have. Pure: the pods and nodes that the cluster shows go in, steps come out. docs/adr/0147-gated-executors.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rempart.spark.kubernetes import labels

Role = Literal["driver", "executor"]
_ENDED = ("Succeeded", "Failed")
_RUNS = ("args", "envFrom", "workingDir", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
"""Fields of a container by which it would run, or be told, something else."""


@dataclass(frozen=True)
class PodSeen:
    """A pod of an attempt. `node`: where it is bound, or empty. `gated`: no scheduler places it yet. `over`: it has
    ended, or is being deleted. `refusal`: why the policy refuses the pod itself, such as its image, or empty.
    """

    uid: str
    name: str
    role: Role
    node: str = ""
    gated: bool = False
    over: bool = False
    refusal: str = ""


@dataclass(frozen=True)
class NodeJudged:
    """A node of the pool, and whether the job's data may be there. `why`: the reasons against it."""

    name: str
    allowed: bool
    why: str = ""


@dataclass(frozen=True)
class GiveCredentials:
    """Make the Secret for which the driver waits: its node may have the data."""

    pod: PodSeen


@dataclass(frozen=True)
class Release:
    """Limit a gated executor to these nodes, and remove its gate."""

    pod: PodSeen
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """Put on record that an executor is bound to a node that may have the data."""

    pod: PodSeen


@dataclass(frozen=True)
class Deny:
    """End the attempt: a pod is where it may not be, or may be nowhere."""

    pod: PodSeen
    why: str


Step = GiveCredentials | Release | Note | Deny


def next_steps(
    pods: Iterable[PodSeen], nodes: Sequence[NodeJudged], noted: Collection[tuple[str, str]]
) -> tuple[Step, ...]:
    """Return what to do now, in this order; a denial is the only step, because it ends the attempt.

    `noted`: uid and node of each pod that was given credentials or put on record before. A pod on a node that is not
    listed is denied, unless it was judged there before: then the node is gone, and the pod will be.
    """
    judged = {node.name: node for node in nodes}
    allowed = tuple(sorted(node.name for node in nodes if node.allowed))
    live = [pod for pod in pods if not pod.over]
    for pod in live:
        if why := _against(pod, judged, noted):
            return (Deny(pod, why),)
    is_admitted = any(pod.role == "driver" and (pod.uid, pod.node) in noted for pod in live)
    steps: list[Step] = []
    for pod in live:
        if pod.node and pod.node in judged and (pod.uid, pod.node) not in noted:
            steps.append(GiveCredentials(pod) if pod.role == "driver" else Note(pod))
        elif pod.gated and pod.role == "executor" and is_admitted:
            if not allowed:
                return (Deny(pod, _nowhere(nodes)),)
            steps.append(Release(pod, allowed))
    return tuple(steps)


def _against(pod: PodSeen, judged: Mapping[str, NodeJudged], noted: Collection[tuple[str, str]]) -> str:
    """Return why a pod may not go on, or an empty text."""
    if pod.refusal:
        return pod.refusal
    if not pod.node:
        return ""
    node = judged.get(pod.node)
    if node is None:
        return "" if (pod.uid, pod.node) in noted else f"node {pod.node} is not among the nodes of the cluster"
    return "" if node.allowed else node.why or f"node {pod.node} may not have the data"


def _nowhere(nodes: Sequence[NodeJudged]) -> str:
    if not nodes:
        return "the cluster has no node"
    return "no node of the pool may have the data: " + "; ".join(f"{node.name}: {node.why}" for node in nodes[:5])


def needs_nodes(pods: Iterable[PodSeen], noted: Collection[tuple[str, str]]) -> bool:
    """Return whether a pod waits for a judgement of nodes: it is gated, or bound and not yet judged there."""
    return any(pod.gated or bool(pod.node and (pod.uid, pod.node) not in noted) for pod in pods if not pod.over)


def beyond_template(executor: Mapping[str, Any], secret: str) -> str:
    """Return what an executor (an API object) asks for that its template does not give, or an empty text.

    `secret`: the Secret of its attempt. Whoever makes pods in a namespace could else mount every Secret there, or run
    as another account.
    """
    spec = executor["spec"]
    if foreign := sorted(secrets_of(spec) - {secret}):
        return f"it asks for Secret {', '.join(foreign)}, which is not of its attempt"
    account = spec.get("serviceAccountName") or "default"
    sources = [source for volume in spec.get("volumes") or () for source in _sources(volume)]
    if account != "default" or any("serviceAccountToken" in source for source in sources):
        return f"it asks for the token of an account ({account})"
    return ""


def secrets_of(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the Secrets that a pod's spec (of an API object) mounts or takes variables from."""
    mounted = [source.get("secret") or {} for volume in spec.get("volumes") or () for source in _sources(volume)]
    asked = {str(secret.get("secretName") or secret.get("name") or "") for secret in mounted}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        asked |= {(source.get("secretRef") or {}).get("name", "") for source in container.get("envFrom") or ()}
        values = [each.get("valueFrom") or {} for each in container.get("env") or ()]
        asked |= {(value.get("secretKeyRef") or {}).get("name", "") for value in values}
    return frozenset(asked - {""})


def unlike(driver: Mapping[str, Any], made: Mapping[str, Any], free: str) -> str:
    """Return in what a driver (an API object) is not the one that the platform makes, or an empty text.

    `made`: that one. `free`: a variable that is compared by the caller. Whoever makes pods in a namespace could else
    make a driver that runs other code and is given the Secret.
    """
    spec, wanted = driver["spec"], made["spec"]
    if driver["metadata"]["name"] != made["metadata"]["name"]:
        return f"it says that it is the driver, which is {made['metadata']['name']}"
    containers = list(spec.get("containers") or ())
    if len(containers) != 1 or spec.get("initContainers"):
        return "it has containers that a driver does not have"
    own, ours = containers[0], wanted["containers"][0]
    for what in ("command", *_RUNS):
        if (own.get(what) or None) != (ours.get(what) or None):
            return f"its {what} is not that of a driver"
    found, expected = (
        {each["name"]: (each.get("value") or "", each.get("valueFrom") or {}) for each in container.get("env") or ()}
        for container in (own, ours)
    )
    names = sorted(
        name for name in found.keys() | expected.keys() if name != free and found.get(name) != expected.get(name)
    )
    if names or (free in found) != (free in expected):
        return f"its variables are not those of a driver: {', '.join(names) or free}"
    if foreign := sorted(secrets_of(spec) - secrets_of(wanted)):
        return f"it asks for Secret {', '.join(foreign)}, which is not of its attempt"
    account = spec.get("serviceAccountName") or "default"
    return "" if account == wanted["serviceAccountName"] else f"it asks for the token of an account ({account})"


def _sources(volume: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (volume.get("projected") or {}).get("sources") or [volume]


def release_patch(pod: Mapping[str, Any], nodes: Sequence[str], gate: str) -> list[dict[str, Any]]:
    """Return the JSON patch that limits a gated pod (an API object) to nodes by name and removes the gate.

    Each node is an alternative of its own, because Kubernetes takes one name in a `matchFields` requirement. The patch
    fails if the pod changed meanwhile. Raises ValueError if the pod has no such gate, or requires nodes by itself.
    """
    spec = pod["spec"]
    gates = [each["name"] for each in spec.get("schedulingGates") or ()]
    affinity: dict[str, Any] = dict(spec.get("affinity") or {})
    node_affinity: dict[str, Any] = dict(affinity.get("nodeAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if node_affinity.get(required):
        raise ValueError("the pod requires nodes by an affinity of its own, which cannot be narrowed by name")
    index = gates.index(gate)
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]} for name in sorted(nodes)]
    affinity["nodeAffinity"] = node_affinity | {required: {"nodeSelectorTerms": terms}}
    return [
        {"op": "test", "path": "/metadata/uid", "value": pod["metadata"]["uid"]},
        {"op": "test", "path": f"/spec/schedulingGates/{index}/name", "value": gate},
        {"op": "add", "path": "/spec/affinity", "value": affinity},
        {"op": "remove", "path": f"/spec/schedulingGates/{index}"},
    ]


def is_at_work(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod (an API object) was started by its node, and goes on."""
    return has_node(pod) and (pod.get("status") or {}).get("phase") == "Running"


def has_node(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod (an API object) has a node, and neither ended nor is being deleted."""
    is_over = pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get("phase") in _ENDED
    return bool(pod["spec"].get("nodeName")) and not is_over


def came_before(driver: Mapping[str, Any], in_namespace: Iterable[Mapping[str, Any]]) -> str:
    """Return the oldest driver without an executor in a driver's namespace, if it came before it; or an empty text.

    Drivers that take a whole quota leave none for executors. All but the oldest of them go, so it is never all of them.
    """
    pods = [pod for pod in in_namespace if has_node(pod)]
    served = {_job(pod) for pod in pods if labels.role_of(pod) == labels.EXECUTOR}
    drivers = [pod for pod in pods if labels.role_of(pod) == labels.DRIVER and labels.JOB in pod["metadata"]["labels"]]
    oldest = min((_age(pod) for pod in drivers if _job(pod) not in served | {_job(driver)}), default=None)
    return oldest[1] if oldest and oldest < _age(driver) else ""


def _job(pod: Mapping[str, Any]) -> tuple[str, str]:
    told = pod["metadata"].get("labels") or {}
    return str(told.get(labels.JOB)), str(told.get(labels.ATTEMPT))


def _age(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Return what orders drivers by age. The API's moments are whole seconds in one form, and names decide the rest."""
    return str(pod["metadata"].get("creationTimestamp")), str(pod["metadata"]["name"])
