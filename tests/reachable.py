"""Which pod reaches which, by NetworkPolicies as the reference of networking.k8s.io/v1 defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod, and its namespace with that one's labels."""

    labels: Mapping[str, str]
    namespace: str = "airflow"
    space: Mapping[str, str] = field(default_factory=dict)


def selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector means these labels; an empty one means all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        holds = {
            "In": labels.get(expression["key"]) in expression.get("values", ()),
            "Exists": expression["key"] in labels,
        }
        if not holds[expression["operator"]]:
            return False
    return True


def _is(peer: Mapping[str, Any], pod: Pod, home: str) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        space = {"kubernetes.io/metadata.name": pod.namespace, **pod.space}
        if not selected(peer["namespaceSelector"], space):
            return False
    elif pod.namespace != home:
        return False
    return selected(peer.get("podSelector") or {}, pod.labels)


def _lets(policies: Sequence[Policy], pod: Pod, other: Pod, port: int, direction: str) -> bool:
    """Whether the policies of a pod's namespace let one direction through: all of it, where none selects the pod."""
    rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    mine = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and selected(policy["spec"]["podSelector"], pod.labels)
    ]
    if not mine:
        return True
    for resource in mine:
        for rule in resource["spec"].get(rules) or ():
            named = not rule.get(peers) or any(_is(peer, other, pod.namespace) for peer in rule[peers])
            if named and (not rule.get("ports") or port in [place["port"] for place in rule["ports"]]):
                return True
    return False


def reaches(policies: Sequence[Policy], source: Pod, target: Pod, port: int) -> bool:
    """Whether a connection from one pod to a port of another comes through: both ends have to let it."""
    return _lets(policies, source, target, port, "Egress") and _lets(policies, target, source, port, "Ingress")
