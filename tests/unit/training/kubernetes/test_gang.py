"""Pods of one TrainJob: all or none, the first that ended decides, and an unknown is never a success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.kubernetes.gang import Gang, rank
from rempart.training.kubernetes.train_job import RANK

LATE, LATER = "2026-11-01T12:00:10Z", "2026-11-01T12:00:20Z"


def job(*conditions: tuple[str, str], **metadata: Any) -> dict[str, Any]:
    told = [{"type": kind, "status": "True", "reason": reason, "message": ""} for kind, reason in conditions]
    return {"metadata": {"name": "train-x-1"} | metadata, "status": {"conditions": told}}


def pod(index: int, phase: str = "Running", code: int | None = None, at: str = LATE, **more: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"running": {}} if phase == "Running" else {}
    if code is not None:
        reason = "Completed" if code == 0 else "Error"
        state = {"terminated": {"exitCode": code, "reason": reason, "startedAt": LATE, "finishedAt": at}}
    metadata = {"name": f"train-x-1-node-0-{index}", "labels": {RANK: str(index)}} | more.pop("metadata", {})
    statuses = [{"name": "node", "state": more.pop("state", state)}]
    spec = {"nodeName": f"gpu-{index}"} if more.pop("node", True) else {}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase, "containerStatuses": statuses, **more}}


def gang(*pods: dict[str, Any], of: dict[str, Any] | None = None, nodes: int = 2, machines: Sequence[str] = ()) -> Gang:
    return Gang.of(job() if of is None else of, pods, nodes, machines)


SUSPENDED = job(("Suspended", "Suspended")) | {"spec": {"suspend": True}}


NO_GPU = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient gpu"}]
EVICTED = [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "memory"}]
IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
DELETED = {"metadata": {"deletionTimestamp": LATER, "deletionGracePeriodSeconds": 25}}
"""Its deletion was asked for at 11:59:55."""
DONE = [pod(0, "Succeeded", 0), pod(1, "Succeeded", 0)]
CASES = [
    (gang(*DONE), "succeeded", "all 2 nodes"),
    (gang(pod(0, "Succeeded", 0), of=job(("Complete", "AllJobsCompleted"))), "succeeded", "complete"),
    (gang(pod(0, "Pending", node=False, conditions=NO_GPU)), "capacity", "1 of 2 pods exist; train-x-1-node-0-0: "),
    (gang(), "capacity", "0 of 2 pods exist"),
    (gang(of=SUSPENDED), "capacity", "suspended"),
    (gang(of=SUSPENDED, machines=["gpu-0", "gpu-1"]), "interrupted", "lost the admitted nodes"),
    (
        gang(pod(0, "Failed", 143), pod(1), of=SUSPENDED, machines=["gpu-0", "gpu-1"]),
        "interrupted",
        "lost the admitted nodes",
    ),
    (gang(pod(0), pod(1), machines=["gpu-0", "gpu-9"]), "interrupted", "lost the admitted nodes"),
    (gang(pod(0), pod(1, "Pending", state=IMAGE)), "capacity", "image cannot be pulled"),
    (gang(pod(0), pod(1, "Failed", 1)), "failed", "node-0-1: exit status 1"),
    (gang(pod(0, "Failed", 1, LATER), pod(1, "Failed", 75)), "unreachable", "did not answer"),
    (gang(pod(0, "Failed", 75, LATER), pod(1, "Failed", 3)), "failed", "exit status 3"),
    (gang(pod(0, "Failed", 143), pod(1, "Failed", 2)), "failed", "exit status 2"),
    (gang(pod(0, "Failed", 1), pod(1, "Failed", 143, conditions=EVICTED)), "interrupted", "node-0-1: Termin"),
    (gang(pod(0, "Failed", 1), pod(1, "Failed", reason="Evicted")), "interrupted", "Evicted"),
    (gang(pod(0, "Failed", 1), pod(1, **DELETED)), "interrupted", "node-0-1 was deleted; then exit status 1"),
    (gang(pod(0, "Failed", 143), pod(1)), "interrupted", "signal"),
    (gang(pod(0, "Failed", 124, LATER), pod(1, "Failed", 143)), "failed", "node-0-0: it ran longer"),
    (gang(pod(0), of=job(("Failed", "FailedJobs"))), "interrupted", "no pod shows why"),
    (gang(pod(0), pod(1), of=job(("Failed", "DeadlineExceeded"))), "failed", "longer than allowed"),
    (gang(pod(0), pod(1)), "interrupted", "last seen running"),
    (gang(pod(0), pod(1), of=job(deletionTimestamp=LATE)), "interrupted", "being deleted"),
    (Gang(None, (), 2), "interrupted", "gone"),
]


@pytest.mark.parametrize(("seen", "outcome", "cause"), CASES)
def test_how_an_attempt_on_several_nodes_ended(seen: Gang, outcome: str, cause: str) -> None:
    found = seen.ending()
    assert (found.outcome, cause in found.cause) == (outcome, True), found


def test_it_is_bound_when_every_rank_has_a_machine_and_not_before() -> None:
    assert gang(pod(1), pod(0)).bound
    assert not gang(pod(0), pod(1, "Pending", node=False)).bound
    assert not gang(pod(0), pod(0)).bound and not gang(pod(0)).bound
    assert [rank(member) for member in gang(pod(1), pod(0)).pods] == [0, 1]


def test_it_is_over_when_nothing_of_it_goes_on() -> None:
    assert not gang(pod(0), pod(1)).over and not gang(pod(0, "Succeeded", 0), pod(1)).over
    assert not gang(pod(0, "Pending", node=False)).over
    assert gang(pod(0), pod(1, "Failed", 1)).over and gang(pod(0), pod(1, "Pending", state=IMAGE)).over
    assert gang(pod(0), pod(1), of=job(("Complete", "x"))).over and Gang(None, (pod(0), pod(1)), 2).over


def test_the_others_are_waited_for_when_one_ended_badly() -> None:
    assert gang(pod(0), pod(1, "Failed", 143)).settles
    assert not gang(pod(0), pod(1)).settles and not gang(pod(0), pod(1, "Succeeded", 0)).settles
    assert not gang(pod(0, "Failed", 143), pod(1, "Failed", 1)).settles
    assert not gang(pod(0), pod(1, "Pending", state=IMAGE)).settles


def test_the_log_to_read_is_that_of_the_pod_that_failed_first() -> None:
    assert gang(pod(0, "Failed", 1, LATER), pod(1, "Failed", 1, LATE)).culprit == pod(1, "Failed", 1, LATE)
    assert gang(pod(0), pod(1)).culprit == pod(0) and gang().culprit is None


PODS = st.builds(
    pod,
    st.integers(0, 2),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    st.sampled_from([None, 0, 1, 75, 124, 137, 143]),
    st.sampled_from([LATE, LATER]),
    node=st.booleans(),
    conditions=st.sampled_from([[], NO_GPU, EVICTED]),
)
JOBS = st.sampled_from([None, job(), job(("Failed", "FailedJobs")), job(("Suspended", "Suspended"))])


@given(st.lists(PODS, max_size=4), JOBS)
def test_only_nodes_that_all_ended_well_are_a_success(pods: list[dict[str, Any]], of: dict[str, Any] | None) -> None:
    found = Gang.of(of, pods, 3).ending("told")
    well = {
        rank(member)
        for member in pods
        if (member["status"]["containerStatuses"][0]["state"].get("terminated") or {}).get("exitCode") == 0
    }
    if found.outcome == "succeeded":
        assert well == {0, 1, 2} and of is not None
    assert found.cause


@given(st.lists(PODS, max_size=4), JOBS)
def test_a_pod_that_the_cluster_took_away_is_never_the_codes_fault(
    pods: list[dict[str, Any]], of: dict[str, Any] | None
) -> None:
    if of is not None and any(member["status"]["conditions"] == EVICTED for member in pods):
        assert Gang.of(of, pods, 3).ending().outcome == "interrupted"
