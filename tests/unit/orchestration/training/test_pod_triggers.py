"""The training operator's triggers: never sooner than the minimum, no credentials in their serialized form."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rempart.orchestration.training.pod_triggers import TrainingPodTrigger

pytestmark = pytest.mark.airflow


def pod(node: str | None = None, deleted: datetime | None = None, phase: str = "Pending") -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=deleted, labels=None),
        spec=SimpleNamespace(node_name=node),
        status=SimpleNamespace(phase=phase, conditions=[], container_statuses=None),
    )


def trigger(pods: list[Any], *, wait: float = 5) -> TrainingPodTrigger:
    """A trigger whose cluster answers with these pods, the last one for ever."""
    from rempart.orchestration.training.pod_triggers import TrainingPodTrigger

    made = TrainingPodTrigger(
        pod_name="train-x-1",
        pod_namespace="training",
        trigger_start_time=datetime.now(UTC),
        base_container_name="base",
        kubernetes_conn_id="k8s_a",
        connection_extras={"kube_config": "token: secret"},
        config_dict={"users": [{"name": "of KUBECONFIG", "user": {"token": "secret"}}]},
        poll_interval=0.01,
        schedule_timeout=wait,
        log_events_on_startup=False,
        trigger_kwargs={"attempt": 1, "pool": "a"},
        await_node=True,
    )

    async def get_pod(name: str, namespace: str) -> Any:
        return pods.pop(0) if len(pods) > 1 else pods[0]

    made.__dict__["hook"] = SimpleNamespace(get_pod=get_pod)
    return made


def fired(waiting: Any) -> tuple[dict[str, Any], float]:
    """The first event's payload, and the seconds until then."""

    async def first() -> Any:
        async for event in waiting.run():
            return event.payload
        raise AssertionError("no event")

    began = time.monotonic()
    return asyncio.run(first()), time.monotonic() - began


@pytest.fixture(autouse=True)
def short_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rempart.orchestration.training.pod_triggers.MINIMUM_SECONDS", 0.4)
    monkeypatch.setattr(
        "rempart.orchestration.training.pod_triggers.LOOK_SECONDS", 0.01
    )  # no cluster tells anything here


def test_a_pause_that_is_over_already_lasts_the_minimum() -> None:
    from rempart.orchestration.training.pod_triggers import PauseTrigger

    event, seconds = fired(PauseTrigger(time.time() - 60, "every pool is full"))
    assert event == {"status": "again"} and seconds >= 0.4


def test_a_pod_that_is_bound_at_once_is_told_after_the_minimum_and_says_whose_it_is() -> None:
    event, seconds = fired(trigger([pod("n1")]))
    assert (event["status"], event["attempt"], event["pool"]) == ("bound", 1, "a")
    assert seconds >= 0.4


def test_a_pod_without_a_node_in_time_is_a_timeout() -> None:
    assert fired(trigger([pod()], wait=0.1))[0]["status"] == "timeout"


def test_a_pod_that_should_be_gone_is_lost_and_never_waited_for() -> None:
    gone_by = datetime.now(UTC) - timedelta(minutes=1)
    event = fired(trigger([pod("n1", deleted=gone_by)]))[0]
    assert event["status"] == "error" and "its node is lost" in event["message"]
    with pytest.raises(Exception, match="its node is lost"):
        asyncio.run(trigger([pod("n1", deleted=gone_by)])._get_pod())


def test_nothing_secret_is_stored_and_the_trigger_is_rebuilt_from_what_is() -> None:
    path, arguments = trigger([pod()]).serialize()
    assert "secret" not in json.dumps(arguments, default=str)
    assert path.endswith("pod_triggers.TrainingPodTrigger")
    assert type(trigger([pod()]))(**arguments).serialize() == (path, arguments)


def test_the_shipped_minimum_is_one_at_which_airflow_fails_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.orchestration.training import pod_triggers

    monkeypatch.undo()
    assert pod_triggers.MINIMUM_SECONDS >= 10


def test_an_answer_that_is_an_error_is_told_without_its_headers_and_without_a_stack() -> None:
    from kubernetes_asyncio.client import ApiException

    made = trigger([pod()])
    answer = SimpleNamespace(
        status=403, reason="Forbidden", data='{"message": "pods is forbidden"}', getheaders=lambda: {"Audit-Id": "f00"}
    )

    async def refuse(name: str, namespace: str) -> Any:
        raise ApiException(http_resp=answer)

    made.__dict__["hook"] = SimpleNamespace(get_pod=refuse)
    event, _ = fired(made)
    assert event["message"] == "the cluster's API answered 403: pods is forbidden"
    assert "f00" not in json.dumps(event) and "stack_trace" not in event


def waiting_for(message: str) -> Any:
    """A pod on its node whose container cannot be made yet."""
    told = pod("n1")
    reason = SimpleNamespace(reason="CreateContainerConfigError", message=message)
    told.metadata.name = "train-x-1"
    told.status.container_statuses = [SimpleNamespace(name="base", state=SimpleNamespace(waiting=reason))]
    return told


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'secret "train-x-1" not found',
            'the job\'s Secret has not reached its node yet (secret "train-x-1" not found)',
        ),
        ('secret "of-the-team" not found', 'CreateContainerConfigError: secret "of-the-team" not found'),
    ],
)
def test_a_pod_that_waits_for_its_own_secret_is_not_told_as_an_error_of_its_configuration(
    message: str, told: str
) -> None:
    made = trigger([waiting_for(message)])
    made.await_node, made.startup_timeout = False, 0
    event, _ = fired(made)
    assert event["status"] != "success" and event["message"].endswith(f"it did not start within 0 s. {told}")
