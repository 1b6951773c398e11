"""How long a driver waits for its first executor before its pool is left, and how it is deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.spark.kubernetes import labels
from rempart.spark.kubernetes.pods import CONTAINER

pytestmark = pytest.mark.airflow

WAIT = timedelta(minutes=10)
BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)


def pod(role: str, phase: str, job: str = "j1", node: str = "n1", **status: Any) -> dict[str, Any]:
    told = {labels.JOB: job, labels.ATTEMPT: "1", labels.ROLE: role}
    return {
        "metadata": {
            "name": f"spark-{job}-{role}",
            "creationTimestamp": f"2026-11-30T12:00:0{job[1]}Z",
            "labels": told,
        },
        "spec": {"nodeName": node},
        "status": {"phase": phase, "startTime": BEGAN.isoformat(), **status},
    }


def told(after: timedelta, driver: dict[str, Any], *executors: dict[str, Any], others: Any = ()) -> Any:
    from rempart.orchestration.spark.attempt import Attempt

    made: Any = Attempt(None, SimpleNamespace(wait=WAIT), 1, None, None, _since=BEGAN)  # type: ignore[arg-type]
    made._in_namespace = [driver, *executors, *others]
    return made._alone(driver, list(executors), BEGAN + after)


def test_executors_that_their_nodes_cannot_start_do_not_hold_the_pool() -> None:
    """Spark makes such executors again and again, until the job's time is over."""
    driver = pod(labels.DRIVER, "Running")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    stuck = pod(labels.EXECUTOR, "Pending", containerStatuses=[{"name": CONTAINER, "state": waiting}])
    assert told(WAIT * 0.9, driver, stuck) is None
    outcome, why = told(WAIT, driver, stuck)
    assert outcome == "capacity" and "no executor began on its node in 0:10:00" in why and "ImagePullBackOff" in why
    assert told(WAIT * 9, driver, stuck, pod(labels.EXECUTOR, "Running")) is None


def test_the_wait_is_half_as_long_only_for_a_node() -> None:
    driver, rival = pod(labels.DRIVER, "Running", "j2"), pod(labels.DRIVER, "Running", "j1")
    unplaced, pulls = pod(labels.EXECUTOR, "Pending", "j2", node=""), pod(labels.EXECUTOR, "Pending", "j2")
    outcome, why = told(WAIT / 2, driver, unplaced, others=[rival])
    assert outcome == "capacity" and "no executor got a node in 0:05:00" in why and "spark-j1-driver" in why
    assert told(WAIT / 2, driver, pulls, others=[rival]) is None


@pytest.mark.parametrize(
    ("answers", "asked"),
    [([None], 1), (["silent", None], 2), (["silent", 404], 2), ([500, "silent", 503], 3)],
    ids=["it answers", "one answer is lost", "only the answer was lost", "it never answers"],
)
def test_a_deletion_is_asked_for_again_if_the_api_server_does_not_answer(
    answers: list[str | int | None], asked: int
) -> None:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    from rempart.orchestration.spark.attempt import Attempt

    names = list[str]()

    def delete(name: str, *_: Any, **__: Any) -> None:
        answer = answers[len(names)]
        names.append(name)
        if answer == "silent":
            raise HTTPError
        if answer is not None:
            raise ApiException(status=int(answer))

    client, place = SimpleNamespace(delete_namespaced_pod=delete), SimpleNamespace(namespace="training")
    attempt: Any = SimpleNamespace(client=client, place=place)
    Attempt._delete(attempt, "spark-j1-1", 5)
    assert names == ["spark-j1-1"] * asked
