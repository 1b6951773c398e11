"""Seconds of pods are the cluster's, and a price that nobody declared is not guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.spark.kubernetes import usage

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def pod(phase: str = "Running", ended: datetime | None = None, node: str = "n1") -> dict[str, Any]:
    state = {"terminated": {"finishedAt": ended.isoformat()}} if ended else {"running": {}}
    return {
        "metadata": {"uid": "u1", "name": "spark-1-exec-1"},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "startTime": NOON.isoformat(), "containerStatuses": [{"state": state}]},
    }


def test_a_pod_counts_from_its_start_until_it_was_last_seen_or_ended() -> None:
    known = usage.look({}, pod(), "executor", NOON + timedelta(seconds=5))
    known = usage.look(known, pod(), "executor", NOON + timedelta(seconds=9))
    assert known["u1"].seconds == 9
    ended = usage.look(known, pod("Succeeded", NOON + timedelta(seconds=7)), "executor", NOON + timedelta(seconds=60))
    assert ended["u1"].as_json() == {"pod": "spark-1-exec-1", "role": "executor", "node": "n1", "seconds": 7.0}


def test_a_pod_without_a_node_costs_nothing() -> None:
    assert usage.look({}, pod(node=""), "executor", NOON) == {}


def test_the_cost_is_that_of_the_contract_or_says_that_there_is_none() -> None:
    assert usage.cost(0.36, 1000) == {"euros": 0.1, "price_per_executor_hour": 0.36}
    assert usage.cost(None, 1000)["euros"] is None and "no price declared" in usage.cost(None, 1000)["why"]
