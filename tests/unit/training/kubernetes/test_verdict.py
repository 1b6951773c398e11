"""Verdicts on a cluster's answers: no capacity moves on, a fault of the code does not, unknown is never success."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.kubernetes.verdict import (
    Ending,
    Ran,
    ending,
    judge_node,
    readable,
    refused,
    seconds_run,
    together,
)
from tests.unit.training.test_placement import config

TODAY = date(2026, 11, 1)


def pod(
    phase: str = "Failed", state: dict[str, Any] | None = None, deleted: bool = False, **status: Any
) -> dict[str, Any]:
    metadata = {"name": "train-x-1"} | ({"deletionTimestamp": "2026-11-01T12:00:00Z"} if deleted else {})
    containers = [{"name": "base", "state": state or {}}]
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "containerStatuses": containers, **status}}


def exited(code: int, reason: str = "Error") -> dict[str, Any]:
    times = {"startedAt": "2026-11-01T12:00:00Z", "finishedAt": "2026-11-01T12:01:30Z"}
    return {"terminated": {"exitCode": code, "reason": reason, **times}}


def condition(kind: str, status: str, reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
CASES = [
    (pod("Succeeded", exited(0, "Completed")), "succeeded", "exit status 0"),
    (pod("Pending", conditions=condition("PodScheduled", "False", "Unschedulable", NO_GPU)), "capacity", NO_GPU),
    (pod("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "none"}}), "capacity", "image cannot be"),
    (pod("Pending", {"waiting": {"reason": "InvalidImageName"}}), "capacity", "image cannot be pulled"),
    (pod("Pending", deleted=True), "interrupted", "deleted before it ran"),
    (pod("Failed", reason="Evicted", message="The node was low on memory"), "interrupted", "low on memory"),
    (pod("Failed", exited(137), conditions=condition("DisruptionTarget", "True", "ByTaint")), "interrupted", "Taint"),
    (pod("Failed", exited(143), deleted=True), "interrupted", "its pod was deleted"),
    (pod("Failed", exited(137)), "interrupted", "signal"),
    (pod("Failed", exited(137, "OOMKilled")), "failed", "training.resources.memory"),
    (pod("Failed", exited(1)), "failed", "exit status 1"),
    (pod("Failed", exited(75)), "unreachable", "did not answer"),
    (pod("Failed", reason="DeadlineExceeded"), "failed", "trainer.timeout"),
    (pod("Failed", {"waiting": {"reason": "ErrImagePull"}}, reason="DeadlineExceeded"), "capacity", "image cannot be"),
    (pod("Failed"), "interrupted", "without a stated reason"),
    (pod("Unknown"), "interrupted", "Unknown"),
    (pod("Running", {"running": {}}), "interrupted", "Running"),
    (None, "interrupted", "gone"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "outcome", "cause"), CASES)
def test_how_an_attempt_ended(seen: dict[str, Any] | None, outcome: str, cause: str) -> None:
    found = ending(seen)
    assert found.outcome == outcome
    assert cause in found.cause


@given(
    st.sampled_from(["Pending", "Running", "Failed", "Unknown", "", "Succeeded"]),
    st.none() | st.integers(0, 255),
    st.none() | st.text(max_size=12),
)
def test_only_a_container_that_ended_with_0_succeeded(phase: str, code: int | None, reason: str | None) -> None:
    found = ending(pod(phase, None if code is None else exited(code, reason or ""), reason=reason))
    assert (found.outcome == "succeeded") == (code == 0)


@pytest.mark.parametrize(
    ("status", "message", "outcome"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: gpu, requested: requests.nvidia.com/gpu=1', "capacity"),
        (403, 'pods is forbidden: User "airflow" cannot create resource "pods"', "unreachable"),
        (401, "Unauthorized", "unreachable"),
        (404, 'namespaces "training" not found', "unreachable"),
        (429, "too many requests", "unreachable"),
        (503, "apiserver not ready", "unreachable"),
        (0, "MaxRetryError", "unreachable"),
        (422, "Pod is invalid", None),
        (400, "bad request", None),
    ],
)
def test_what_a_refusal_to_make_a_pod_means(status: int, message: str, outcome: str | None) -> None:
    found = refused(status, message)
    assert (found.outcome if found else None) == outcome


def test_seconds_are_those_of_the_container() -> None:
    assert seconds_run(pod("Failed", exited(1))) == 90
    assert seconds_run(pod("Running", {"running": {}})) is None


def node(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "labels": labels}, "spec": {"providerID": "eu://par/n1"}}


REGION = "topology.kubernetes.io/region"


def test_a_node_in_the_declared_region_is_admitted_and_what_it_says_is_called_declared() -> None:
    labels = {REGION: "par", "nvidia.com/gpu.product": "H100"}
    decision, ran = judge_node(config(a={}), "personal", "a", 1, node(**labels), TODAY)
    assert decision.allowed
    assert (ran.node, ran.region, ran.gpu_type, ran.provider_id) == ("n1", "par", "H100", "eu://par/n1")
    assert ran.basis.startswith("declared")
    assert "proven" not in str(ran.as_json())


@pytest.mark.parametrize("labels", [{}, {REGION: "us-east"}, {REGION: "par", "tier": "spot"}])
def test_a_node_that_does_not_say_so_is_refused(labels: dict[str, str]) -> None:
    settings = config(a={"node_selector": {"tier": "reserved"}}) if "tier" in labels else config(a={})
    decision, _ = judge_node(settings, "personal", "a", 1, node(**labels), TODAY)
    assert not decision.allowed
    assert "gpu_pools.a" in {reason.rule for reason in decision.against}


def test_a_pool_that_the_policy_came_to_deny_is_refused_at_the_node() -> None:
    settings = config(a={"operator": "us"})
    assert not judge_node(settings, "personal", "a", 1, node(**{REGION: "par"}), TODAY)[0].allowed


def test_endings_are_told_in_the_clusters_words() -> None:
    assert ending(None, "pod not found") == Ending(
        "interrupted", "its pod is gone (evicted, or its node was lost, or a person deleted it). pod not found"
    )


def ran(node: str, gpus: int = 1, **facts: str | None) -> Ran:
    return Ran("a", "eu", "par", node, facts.get("provider_id"), facts.get("gpu_type"), gpus)


def test_where_one_node_ran_is_told_as_ever() -> None:
    alone = ran("gpu-1", provider_id="eu://1")
    assert together([alone]) == alone and "nodes" not in alone.as_json()


@given(st.lists(st.integers(0, 8), min_size=2, max_size=6))
def test_where_several_ran_is_told_together_and_one_by_one(gpus: list[int]) -> None:
    each = [ran(f"gpu-{i}", count, provider_id=f"eu://{i}", gpu_type="L4") for i, count in enumerate(gpus)]
    whole = together(each).as_json()
    names = [f"gpu-{i}" for i in range(len(gpus))]
    assert whole["node"] == ", ".join(names) and whole["gpus"] == sum(gpus)
    assert (whole["region"], whole["gpu_type"]) == ("par", "L4")
    assert [machine["node"] for machine in whole["nodes"]] == names
    assert set(whole["nodes"][0]) == {"node", "region", "provider_id", "gpu_type"}


@pytest.mark.parametrize("status", ["(403)", "403"])
def test_a_clients_exception_is_told_without_the_headers_of_its_answer(status: str) -> None:
    headers = "<CIMultiDictProxy('Audit-Id': 'f00', 'Set-Cookie': 'session=s3cret')>"
    body = '{"kind":"Status","message":"pods \\"a\\" is forbidden: User \\"u\\" cannot get","code":403}'
    text = f"{status}\nReason: Forbidden\nHTTP response headers: {headers}\nHTTP response body: {body}\n\n"
    told = f"Original error: {text}"
    assert readable(told) == (
        'Original error: the cluster\'s API answered 403: pods "a" is forbidden: User "u" cannot get'
    )
    assert readable(text.replace(body, "<html>")) == "the cluster's API answered 403: Forbidden"
    assert readable(text.partition("\nHTTP response body")[0]) == "the cluster's API answered 403: Forbidden"
    assert readable("pod failed") == "pod failed"
