"""An API server that answers wrongly, refuses or is away, while a job runs in its pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup.paths import Stack
from rempart.flows.shared.platform import Platform
from rempart.training.attempts.record import Record
from tests import clusters as chosen
from tests import pods
from tests.clusters import Cluster
from tests.faults.two_pools import new_trial, nodes, project_home, real_cluster, two_clusters, until

pytestmark = pytest.mark.tracking


@pytest.fixture(scope="module", autouse=True)
def cluster(stack: Stack) -> Iterator[None]:
    yield from real_cluster(stack)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return project_home(tmp_path, monkeypatch)


@pytest.fixture
def clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, Cluster]]:
    yield from two_clusters(home, monkeypatch)


@pytest.fixture
def trial(platform: Platform, home: Path, clusters: Mapping[str, Cluster]) -> Iterator[pods.Trial]:
    yield from new_trial(platform, home, clusters)


@pytest.mark.full
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_t8_an_api_server_that_answers_409_429_and_500_in_turn(trial: pods.Trial, method: str) -> None:
    pool = trial.clusters["gpu-a"]
    for status in (409, 429, 500):
        pool.fail(status, method=method, path_contains="/pods", retry_after=1 if status == 429 else None)
    ordered = trial.order()
    assert trial.run(ordered, deferred=trial.instead(ordered))["placement"]["pool"] == "gpu-a"
    assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
    assert len(pool.history) == 1


@pytest.mark.full
def test_t8_an_answer_that_is_lost_makes_no_second_pod(trial: pods.Trial) -> None:
    trial.clusters["gpu-a"].fail(0, method="POST", path_contains="/pods", done=True)
    ordered = trial.order()
    trial.run(ordered, deferred=trial.instead(ordered))
    ran = [pod for pool in ("gpu-a", "gpu-b") for pod in trial.pods(pool) if pod.started]
    assert len(ran) == 1
    assert trial.attempts(ordered)[-1][1] == "succeeded"


@pytest.mark.full
def test_t8_a_pool_whose_api_is_away_is_passed_over(trial: pods.Trial) -> None:
    trial.clusters["gpu-a"].stop()
    ordered = trial.order()
    assert trial.run(ordered, deferred=trial.instead(ordered, "gpu-b"))["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered)[0] == ("gpu-a", "unreachable")


def test_t9_a_quota_that_refuses_the_pod_sends_the_job_to_the_next_pool(trial: pods.Trial) -> None:
    ordered = trial.order()
    # known when a job is ordered, it would put the pool last: this one came later
    quota = {"metadata": {"name": "gpu"}, "spec": {"hard": {f"requests.{chosen.GPU}": "0"}}}
    api = trial.clusters["gpu-a"].client()
    api.create_namespaced_resource_quota("training-gpu-a", quota)
    until(lambda: api.read_namespaced_resource_quota("gpu", "training-gpu-a").status.hard)
    assert trial.run(ordered, deferred=trial.instead(ordered, "gpu-b"))["placement"]["pool"] == "gpu-b"
    first = trial.job(ordered).attempts()[0]
    assert (first.outcome, "exceeded quota" in first.cause) == ("capacity", True)
    assert not trial.pods("gpu-a")
    # no node of the first pool had it: the ledger says where it ran, the record of attempts why it did not before
    assert trial.evidence(ordered) == [("gpu-b", nodes(trial)[1], "succeeded")]


@pytest.mark.full
def test_x2_a_second_run_of_the_same_order_adopts_the_pod_and_runs_nothing_twice(trial: pods.Trial) -> None:
    ordered = trial.order({"max_iter": 400})
    others: list[Any] = []

    def concurrently(number: int, trigger: Any) -> None:
        if number == 1:
            others.append(trial.run(ordered))  # from its execute to its end, while the first is deferred

    first = trial.run(ordered, deferred=concurrently)
    assert first == others[0]
    assert [len(trial.pods(pool)) for pool in ("gpu-a", "gpu-b")] == [1, 0]
    assert trial.attempts(ordered) == [("gpu-a", "succeeded")]


@pytest.mark.full
@pytest.mark.parametrize("reached", ["the result", "the evidence"])
def test_x1_a_task_that_fails_after_its_job_leaves_no_attempt_without_evidence(
    trial: pods.Trial, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    from rempart.orchestration.training.training_operator import TrainingOperatorBase

    ordered = trial.order()
    end = Record.end if reached == "the evidence" else TrainingOperatorBase._conclude
    owner: Any = Record if reached == "the evidence" else TrainingOperatorBase
    with monkeypatch.context() as failing:

        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        failing.setattr(owner, end.__name__, full)
        with pytest.raises(OSError, match="No space left"):
            trial.run(ordered)
    assert trial.run(ordered)["placement"]["pool"] == "gpu-a"
    assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
    assert trial.evidence(ordered) == [("gpu-a", nodes(trial)[0], "succeeded")]
    assert trial.finish(ordered).placement["pool"] == "gpu-a"
