"""Messages of Kueue: the newest event of a Workload, from either events API, and the states of a queue."""

from __future__ import annotations

from typing import Any

import pytest

from rempart.training.kubernetes import queue
from rempart.training.kubernetes.queue import LocalQueue
from rempart.training.kubernetes.verdict import ending, lost

FULL = "couldn't assign flavors to pod set main: insufficient unused quota for gpu in flavor a, 1 more needed"
TAKEN = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"


def event(reason: str, message: str, **when: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": "2026-11-01T12:00:00Z"}, "reason": reason, "message": message, **when}


def test_the_newest_event_counts_whichever_api_wrote_it() -> None:
    old = event("Pending", "old", lastTimestamp="2026-11-01T12:00:05Z")
    new = event("Pending", FULL, eventTime="2026-11-01T12:00:06.123456Z", lastTimestamp=None)
    series = event("Pending", "again", series={"lastObservedTime": "2026-11-01T12:00:07Z"})
    assert queue.waits("gpus", [new, old]) == f"LocalQueue gpus has not admitted it: Pending: {FULL}"
    assert queue.waits("gpus", [series, new]).endswith("Pending: again")
    assert queue.waits("gpus", []) == "LocalQueue gpus has not admitted it: Kueue states no reason"


def test_a_reason_that_cannot_be_read_is_not_told_as_one_that_kueue_withholds() -> None:
    assert queue.waits("gpus", None) == "LocalQueue gpus has not admitted it: Kueue's reason cannot be read"
    assert queue.stopped("gpus", None) == ""


OVER = "insufficient quota for gpu in flavor a, request > maximum capacity (4 > 2)"


@pytest.mark.parametrize(
    ("why", "never"),
    [
        (FULL, False),
        (f"couldn't assign flavors to pod set main: {OVER}", True),
        ("couldn't assign flavors to pod set main: resource gpu unavailable in ClusterQueue", True),
        (
            f"couldn't assign flavors to pod set main: {OVER}, insufficient unused quota for gpu in flavor b",
            False,
        ),
        ("Kueue states no reason", False),
    ],
)
def test_a_queue_can_never_admit_what_no_flavor_of_it_can_hold(why: str, never: bool) -> None:
    assert queue.never(queue.waits("gpus", [event("Pending", why)])) is never


def test_a_place_was_taken_away_only_if_kueue_says_so() -> None:
    admitted = event("Admitted", "Admitted by ClusterQueue a", lastTimestamp="2026-11-01T12:00:05Z")
    taken = event("EvictedDueToPreempted", TAKEN, lastTimestamp="2026-11-01T12:00:06Z")
    waits = event("Pending", FULL, lastTimestamp="2026-11-01T12:00:07Z")
    assert queue.stopped("gpus", [admitted]) == ""
    told = queue.stopped("gpus", [admitted, taken, waits])
    assert told == f"LocalQueue gpus withdrew its place: EvictedDueToPreempted: {TAKEN}"


def test_the_workload_is_the_one_that_kueue_names() -> None:
    made = event("CreatedWorkload", "Created Workload: training/pod-train-x-1-1a2b3")
    assert queue.workload([made]) == "pod-train-x-1-1a2b3"
    assert queue.workload([]) is None


@pytest.mark.parametrize(
    ("conditions", "seen"),
    [
        ([], LocalQueue(None)),
        ([{"type": "Active", "status": "True", "reason": "Ready", "message": "m"}], LocalQueue(True, "Ready: m")),
        ([{"type": "Active", "status": "False", "reason": "Stopped", "message": "m"}], LocalQueue(False, "Stopped: m")),
    ],
)
def test_a_queue_is_active_only_if_kueue_says_so(conditions: list[dict[str, str]], seen: LocalQueue) -> None:
    assert LocalQueue.of({"metadata": {}, "status": {"conditions": conditions}}) == seen


def test_a_gated_pod_waits_and_one_that_kueue_ends_is_interrupted() -> None:
    gate = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}
    found = ending(
        {"metadata": {}, "spec": gate, "status": {"phase": "Pending"}}, "LocalQueue gpus has not admitted it"
    )
    assert (found.outcome, found.cause) == ("capacity", "LocalQueue gpus has not admitted it")
    stopped = {
        "type": "TerminationTarget",
        "status": "True",
        "reason": "WorkloadEvictedDueToPreempted",
        "message": TAKEN,
    }
    state = {"terminated": {"exitCode": 1, "reason": "Error"}}
    pod = {
        "metadata": {"deletionTimestamp": "2026-11-01T12:00:05Z"},
        "status": {"phase": "Failed", "conditions": [stopped], "containerStatuses": [{"name": "base", "state": state}]},
    }
    assert lost(pod) == f"WorkloadEvictedDueToPreempted: {TAKEN}"
    assert ending(pod).outcome == "interrupted" and TAKEN in ending(pod).cause
