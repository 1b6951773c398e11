"""Parse Kubernetes API objects into plain facts about a pool's cluster. Pure.

An unreadable fact is an `Unknown` with its reason, never an empty list or a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rempart.settings.sections import Toleration
from rempart.training.kubernetes.queue import LocalQueue
from rempart.training.kubernetes.rights import Right, Rule

Json = Mapping[str, Any]
Outcome = Literal["ok", "warn", "FAIL", "not run"]


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be read. `status` is the API's HTTP status, 0 without an answer."""

    why: str
    status: int = 0


NOT_ASKED = Unknown("it was not requested")


@dataclass(frozen=True)
class PoolFinding:
    """One check: what was found, and the remedy when it is not ok."""

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""

    def line(self) -> str:
        text = f"{self.outcome:<8} {self.check:<16} {self.found}"
        return f"{text}\n{'':<9}-> {self.remedy}" if self.remedy else text

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def unseen(check: str, unknown: Unknown, remedy: str) -> PoolFinding:
    """Return the failed finding about a fact that could not be read."""
    return PoolFinding(check, "FAIL", f"could not be read: {unknown.why}", remedy)


@dataclass(frozen=True)
class Namespace:
    """The pool's namespace."""

    labels: Mapping[str, str]
    ending: bool = False


@dataclass(frozen=True)
class Quota:
    """A ResourceQuota for all pods of the namespace: limits and what is used of them, as the API writes quantities."""

    name: str
    hard: Mapping[str, str]
    used: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """A node, with the GPUs that it can give to pods."""

    name: str
    labels: Mapping[str, str]
    gpus: int = 0
    taints: tuple[tuple[str, str, str], ...] = ()
    """Key, value and effect."""
    ready: bool = True
    provider_id: str = ""


@dataclass(frozen=True)
class NetworkPolicy:
    """A NetworkPolicy: whether it applies to every pod, which directions it closes, and which it opens completely."""

    name: str
    every_pod: bool
    closes: tuple[str, ...]
    opens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reached:
    """A pod's result for one address. `remedy` if the network is not the cause."""

    target: str
    ok: bool
    detail: str
    remedy: str = ""


KUBERNETES_API = "Kubernetes' API"
"""Begin of the address under which the doctor's pod of Spark reports about the API that a driver uses."""
ENTRY_POINT = "entry point"
"""Address under which the doctor's pod reports about the image itself."""


@dataclass(frozen=True)
class Probe:
    """A pod that ran in the pool for the doctor. `reached` is None if its output is unreadable."""

    pod: str
    started: bool
    detail: str
    node: str | None = None
    reached: tuple[Reached, ...] | None = None
    left: str = ""
    """Reason why the pod could not be deleted."""


@dataclass(frozen=True)
class SparkFacts:
    """Facts for drivers of Spark jobs: whether their account exists, its rights, the addresses of the API with the port
    that a policy opens to them, and the ports on which pods of Spark reach each other.
    """

    account: bool | Unknown = NOT_ASKED
    may: Mapping[Right, bool] | Unknown = field(default=NOT_ASKED)
    api: tuple[str, ...] | Unknown = NOT_ASKED
    ports: frozenset[int] | Unknown = NOT_ASKED


@dataclass(frozen=True)
class PoolFacts:
    """Facts about one pool. `probe` is None without a probe pod."""

    server: str = ""
    verified: bool = True
    version: str | Unknown = NOT_ASKED
    who: str = ""
    may: Mapping[Right, bool] | Unknown = field(default=NOT_ASKED)
    rules: tuple[Rule, ...] | Unknown = NOT_ASKED
    rules_elsewhere: tuple[Rule, ...] | Unknown = NOT_ASKED
    rules_complete: bool = True
    namespace: Namespace | Unknown = NOT_ASKED
    quotas: tuple[Quota, ...] | Unknown = NOT_ASKED
    nodes: tuple[Node, ...] | Unknown = NOT_ASKED
    used: Mapping[str, int] | Unknown = field(default=NOT_ASKED)
    """GPUs that pods of this namespace hold, by node: other namespaces are not seen."""
    policies: tuple[NetworkPolicy, ...] | Unknown = NOT_ASKED
    priority_class: bool | Unknown = NOT_ASKED
    queue: LocalQueue | Unknown | None = NOT_ASKED
    """None: it is not there."""
    runtime: tuple[str, ...] | Unknown = NOT_ASKED
    """Differences between the pool's TrainingRuntime and the one rendered from rempart.yaml."""
    spark: SparkFacts | None = None
    """None: no Spark job is sent there."""
    probe: Probe | None = None


def whole_units(quantity: object) -> int:
    """Return a count from an API quantity of whole units. Raises ValueError for any other quantity."""
    text = str(quantity)
    for suffix, factor in (("k", 1000), ("M", 1000**2)):
        if text.endswith(suffix):
            return int(text.removesuffix(suffix)) * factor
    return int(text)


def namespace_of(seen: Json) -> Namespace:
    return Namespace(seen["metadata"].get("labels") or {}, (seen.get("status") or {}).get("phase") == "Terminating")


def quotas_of(items: Iterable[Json]) -> tuple[Quota, ...]:
    """Return the quotas for all pods; those with a scope hold only for some."""
    return tuple(
        Quota(
            quota["metadata"]["name"],
            (quota.get("status") or {}).get("hard") or quota["spec"].get("hard") or {},
            (quota.get("status") or {}).get("used") or {},
        )
        for quota in items
        if not quota["spec"].get("scopes") and not quota["spec"].get("scopeSelector")
    )


def left_of(quota: Quota, key: str) -> tuple[int, int]:
    """Return a quota's limit on a countable resource, and the rest. Raises KeyError or ValueError without one."""
    hard = whole_units(quota.hard[key])
    return hard, max(hard - whole_units(quota.used.get(key, 0)), 0)


def node_of(seen: Json, gpu: str) -> Node:
    """Return a node; `gpu` names the resource to count. Raises ValueError for an invalid count."""
    spec, status = seen.get("spec") or {}, seen.get("status") or {}
    taints = tuple((taint["key"], taint.get("value") or "", taint["effect"]) for taint in spec.get("taints") or ())
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions") or ()
    )
    return Node(
        seen["metadata"]["name"],
        seen["metadata"].get("labels") or {},
        whole_units((status.get("allocatable") or {}).get(gpu, 0)),
        taints,
        ready and not spec.get("unschedulable"),
        spec.get("providerID") or "",
    )


def used_of(pods: Iterable[Json], gpu: str) -> dict[str, int]:
    """Return the GPUs held by placed pods that have not ended, by node."""
    used: dict[str, int] = {}
    for pod in pods:
        spec, phase = pod["spec"], (pod.get("status") or {}).get("phase")
        if (node := spec.get("nodeName")) and phase not in ("Succeeded", "Failed"):
            held = [
                ((container.get("resources") or {}).get("limits") or {}).get(gpu, 0) for container in spec["containers"]
            ]
            used[node] = used.get(node, 0) + sum(map(whole_units, held))
    return used


def network_policy_of(seen: Json) -> NetworkPolicy:
    """Return a NetworkPolicy from the API.

    Source of the meanings: the reference of networking.k8s.io/v1 NetworkPolicy.
    """
    spec = seen["spec"]
    closes = tuple(spec.get("policyTypes") or ("Ingress", *(["Egress"] if spec.get("egress") else [])))
    selector = spec.get("podSelector") or {}
    opens = [
        direction
        for direction, rules, peers in (("Ingress", "ingress", "from"), ("Egress", "egress", "to"))
        if direction in closes and any(_opens(rule, peers) for rule in spec.get(rules) or ())
    ]
    every = not selector.get("matchLabels") and not selector.get("matchExpressions")
    return NetworkPolicy(seen["metadata"]["name"], every, closes, tuple(opens))


def _opens(rule: Json, peers: str) -> bool:
    """Return whether a rule allows everything: no peer (or every address), and no port."""
    if rule.get("ports"):
        return False
    blocks = [peer.get("ipBlock") or {} for peer in rule.get(peers) or ()]
    return not rule.get(peers) or any(
        str(block.get("cidr")).endswith("/0") and not block.get("except") for block in blocks
    )


def tolerates(toleration: Toleration, taint: tuple[str, str, str]) -> bool:
    """Return whether a pod with this toleration may run on a node with this taint."""
    key, value, effect = taint
    same = toleration.operator == "Exists" or (toleration.value or "") == value
    return toleration.key == key and same and toleration.effect in (None, effect)
