"""The trigger of TrainJobs: all nodes or none, rank 0's lines once each, no secret in its serialized form."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.kubernetes.gang import Gang
from tests.unit.training.kubernetes.test_gang import NO_GPU, gang, pod

if TYPE_CHECKING:
    from rempart.orchestration.training.train_job_trigger import TrainJobTrigger

pytestmark = pytest.mark.airflow
WAITING = gang(pod(0, "Pending"), pod(1, "Pending", node=False, conditions=NO_GPU))
BOUND = gang(pod(0, "Pending"), pod(1, "Pending"))
RUNNING = gang(pod(0), pod(1))
ONE_ENDED = gang(pod(0), pod(1, "Failed", 143))
ALL_ENDED = gang(pod(0, "Failed", 1), pod(1, "Failed", 143))


def trigger(seen: list[Any], **changes: Any) -> TrainJobTrigger:
    """A trigger that sees these one after the other, the last one for ever; what is no Gang is raised."""
    from rempart.orchestration.training.train_job_trigger import TrainJobTrigger

    given = {
        "connection": "k8s_a",
        "namespace": "training",
        "name": "train-x-1",
        "nodes": 2,
        "attempt": 1,
        "pool": "a",
        "await_nodes": True,
        "started_by": time.time() + 60,
        "ended_by": time.time() + 600,
        "log_every": 600.0,
        "poll": 0.01,
    }
    made = TrainJobTrigger(**(given | changes))

    async def look() -> Gang:
        found = seen.pop(0) if len(seen) > 1 else seen[0]
        if isinstance(found, Exception):
            raise found
        return found

    made._look = look  # type: ignore[method-assign]
    return made


def fired(train_job_trigger: TrainJobTrigger) -> dict[str, Any]:
    async def first() -> Any:
        async for event in train_job_trigger.run():
            return event.payload
        raise AssertionError("no event")

    quickly = patch(
        "rempart.orchestration.training.train_job_trigger.LOOK_SECONDS", 0.01
    )  # no cluster tells anything here
    with quickly, patch("rempart.orchestration.training.pod_triggers.MINIMUM_SECONDS", 0.0):
        found: dict[str, Any] = asyncio.run(asyncio.wait_for(first(), 60))
    return found


def test_it_fires_when_the_last_node_has_its_machine() -> None:
    event = fired(trigger([WAITING, WAITING, BOUND]))
    assert (event["status"], event["attempt"], event["pool"]) == ("bound", 1, "a")


def test_nodes_that_do_not_all_come_in_time_are_a_timeout() -> None:
    assert fired(trigger([WAITING], started_by=time.time() + 0.05))["status"] == "timeout"
    assert fired(trigger([BOUND], started_by=time.time() + 0.05, await_nodes=False))["status"] == "timeout"


def test_a_job_that_outlives_its_bound_is_a_timeout() -> None:
    late = trigger([RUNNING], await_nodes=False, started_by=0.0, ended_by=time.time() + 0.05)
    assert fired(late)["status"] == "timeout"


def test_when_one_node_ended_badly_the_others_are_waited_for() -> None:
    seen: list[Any] = [RUNNING, ONE_ENDED, ONE_ENDED, ALL_ENDED]
    assert fired(trigger(seen, await_nodes=False))["status"] == "over"
    assert seen == [ALL_ENDED]
    with patch("rempart.orchestration.training.train_job_trigger.SETTLE_SECONDS", 0.05):
        assert fired(trigger([ONE_ENDED], await_nodes=False))["status"] == "over"


def test_a_cluster_that_does_not_answer_is_told_and_not_taken_for_an_end() -> None:
    event = fired(trigger([RUNNING, OSError("token abc")], await_nodes=False))
    assert event["status"] == "error" and "abc" not in event["message"]


def test_what_airflow_stores_makes_the_same_trigger_again() -> None:
    from rempart.orchestration.training.train_job_trigger import TrainJobTrigger

    made = trigger([RUNNING])
    path, stored = made.serialize()
    assert path == "rempart.orchestration.training.train_job_trigger.TrainJobTrigger"
    assert TrainJobTrigger(**stored).serialize() == (path, stored)
    assert json.loads(json.dumps(stored)) == stored and stored["connection"] == "k8s_a"


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=20, unique=True), st.integers(0, 20))
def test_each_line_is_told_once_however_often_the_log_is_read(moments: list[int], cut: int) -> None:
    from rempart.orchestration.training.train_job_trigger import new_lines

    def written(nanoseconds: int) -> str:
        whole, part = divmod(nanoseconds, 10**9)
        digits = f"{part:09}".rstrip("0")
        return f"2026-11-01T12:00:{whole:02}{f'.{digits}' if digits else ''}Z"

    lines = [f"{written(moment)} line {index}" for index, moment in enumerate(sorted(moments))]
    first, seen = new_lines(lines[:cut], "")
    rest, last = new_lines(lines, seen)
    assert first + rest == [f"line {index}" for index in range(len(lines))]
    assert new_lines(lines, last) == ([], last)
