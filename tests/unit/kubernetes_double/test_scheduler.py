"""The scheduler's decisions, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes_double import quantity
from tests.kubernetes_double.scheduler import matches_node, schedule

pytestmark = pytest.mark.full


def node(name: str, gpus: int = 0, **labels: str) -> dict[str, Any]:
    """A node with some GPUs."""
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "10", "nvidia.com/gpu": str(gpus)}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"allocatable": amounts}}


def pod(name: str, gpus: int = 0, second: int = 0, **spec: Any) -> dict[str, Any]:
    """A pod that waits."""
    container = {"name": "base", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}}
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:00:{second:02d}Z"}
    return {"metadata": metadata, "spec": {"containers": [container]} | spec, "status": {"phase": "Pending"}}


def bindings(pods: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> dict[str, str | None]:
    """Each waiting pod's node."""
    return {decision.pod["metadata"]["name"]: decision.node for decision in schedule(pods, nodes)}


def test_the_first_come_and_the_more_important_are_served_first() -> None:
    pods = [pod("late", 1, second=2), pod("early", 1, second=1), pod("urgent", 1, second=3, priority=5)]
    assert bindings(pods, [node("a", 2)]) == {"urgent": "a", "early": "a", "late": None}


def test_finished_pods_hold_no_room() -> None:
    done = pod("done", 2, nodeName="a") | {"status": {"phase": "Succeeded"}}
    assert bindings([done, pod("next", 2)], [node("a", 2)]) == {"next": "a"}


def test_the_message_counts_nodes_by_reason() -> None:
    nodes = [node("a", 0, gpu="yes"), node("b"), node("c")]
    decision = schedule([pod("x", 1, nodeSelector={"gpu": "yes"})], nodes)[0]
    assert decision.message.startswith(
        "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) didn't match Pod's node affinity/selector."
    )


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [
        ("In", ["a", "b"], True),
        ("NotIn", ["a"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_node_affinity_operators(operator: str, values: list[str], matches: bool) -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    asking = pod("x", affinity={"nodeAffinity": required})
    assert matches_node(asking, node("n", zone="a")) is matches


@pytest.mark.parametrize(("text", "value"), [("500m", "1/2"), ("2Gi", str(2**31)), ("1e3", "1000"), ("1k", "1000")])
def test_quantities(text: str, value: str) -> None:
    assert str(quantity.parse(text)) == value
