"""A TrainJob that somebody else made or changed is never adopted; one that nobody waits for is deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.training.kubernetes import pod, train_job
from tests import pods
from tests.nodes import STAYS, WITH_RUNTIME, api, custom, jobs, leave_result, muted, on_two_nodes, posted, until

pytestmark = [pytest.mark.tracking, pytest.mark.full]


TRAIN_JOBS = (train_job.GROUP, train_job.VERSION, "training-gpu-a", train_job.PLURAL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home", dict.fromkeys(pods.POOLS, WITH_RUNTIME))
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


@pytest.fixture
def trial(platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pods.Trial]:
    with on_two_nodes(platform, home, monkeypatch) as made:
        yield made


def test_a_second_run_of_the_same_order_adopts_the_train_job(trial: pods.Trial) -> None:
    ordered = trial.order()
    muted(trial, "import time; time.sleep(4)")
    double = trial.clusters["gpu-a"]
    others: list[Any] = []

    def concurrently(number: int, trigger: Any) -> None:
        if number == 1:
            leave_result(trial, ordered)
            others.append(trial.run(ordered))  # from its execute to its end, while the first is deferred

    first = trial.run(ordered, deferred=concurrently)
    assert first["job_id"] == others[0]["job_id"]
    assert posted(double, "trainjobs") == 1 and len(double.history) == 2
    assert not trial.pods("gpu-b")


def foreign(trial: pods.Trial, ordered: Any, labels: dict[str, str]) -> dict[str, Any]:
    """A TrainJob with the name of the first attempt in gpu-a, made by somebody else."""
    with trial.here():
        job = trial.job(ordered)
        manifest = job.train_job(1, next(option for option in job.plan.options if option.pool == "gpu-a"))
    manifest["metadata"]["labels"] = labels
    made: dict[str, Any] = custom(trial.clusters["gpu-a"]).create_namespaced_custom_object(*TRAIN_JOBS, manifest)
    return made


def left_alone(trial: pods.Trial, ordered: Any, made: dict[str, Any]) -> None:
    double = trial.clusters["gpu-a"]
    first = trial.job(ordered).attempts()[0]
    assert first.outcome == "unreachable" and "was not made for this attempt" in first.cause
    found = custom(double).get_namespaced_custom_object(*TRAIN_JOBS, pod.name(ordered.job_id, 1))
    assert found["metadata"]["uid"] == made["metadata"]["uid"] and not found["metadata"].get("deletionTimestamp")
    assert not posted(double, "secrets")


@pytest.mark.parametrize("labels", [{}, {pod.JOB: "0123456789abcdef", pod.ATTEMPT: "1"}], ids=["none", "of another"])
def test_a_train_job_of_the_attempts_name_that_somebody_else_made_is_never_adopted(
    trial: pods.Trial, labels: dict[str, str]
) -> None:
    ordered = trial.order()
    muted(trial, "import time; time.sleep(2)")
    made = foreign(trial, ordered, labels)

    def written(number: int, trigger: Any) -> None:
        if trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
    left_alone(trial, ordered, made)


def test_a_train_job_that_somebody_puts_in_the_place_of_the_attempts_own_is_not_adopted_either(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, dict.fromkeys(pods.POOLS, WITH_RUNTIME | {"max_pending": "60s"}))
    with on_two_nodes(platform, home, monkeypatch, {"gpu-a": 0}) as trial:
        ordered = dataclasses.replace(trial.order(), free={})
        muted(trial, "import time; time.sleep(2)")
        double, made = trial.clusters["gpu-a"], {}

        def replaced(number: int, trigger: Any) -> None:
            if number == 1:
                custom(double).delete_namespaced_custom_object(*TRAIN_JOBS, pod.name(ordered.job_id, 1))
                until(lambda: not jobs(double, "gpu-a"))
                made.update(foreign(trial, ordered, {}))
                for machine in ("gpu-a-3", "gpu-a-4"):
                    labels = {pods.REGION: "par", "nvidia.com/gpu.product": "NVIDIA-L4"}
                    double.add_node(machine, labels, {pods.GPU: "1"}, provider_id=f"cloud-a://par/{machine}")
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=replaced)["placement"]["pool"] == "gpu-b"
        left_alone(trial, ordered, made)


def test_an_answer_that_is_lost_makes_no_second_train_job(trial: pods.Trial) -> None:
    double = trial.clusters["gpu-a"]
    double.fail(500, method="POST", path_contains="/trainjobs", done=True)
    ordered = trial.order()
    muted(trial, "import time; time.sleep(2)")

    def written(number: int, trigger: Any) -> None:
        until(lambda: [pod_seen for pod_seen in double.history if pod_seen.started])
        leave_result(trial, ordered)

    assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-a"
    assert len(double.history) == 2


@pytest.mark.stack  # Airflow answers that it has no such task
def test_the_janitor_deletes_a_train_job_that_nobody_waits_for(
    trial: pods.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    from rempart.orchestration.training.pool_janitor import clean_up

    ordered = trial.order()
    muted(trial, STAYS)
    double = trial.clusters["gpu-a"]
    monkeypatch.setattr("rempart.training.kubernetes.orphans.YOUNG", timedelta())
    monkeypatch.setattr("rempart.flows.training.clean_up_pods.named", lambda name: trial.pipeline)
    with trial.here():
        with pytest.raises(TaskDeferred):
            trial.operator(ordered).execute(pods.context())
        until(lambda: len([pod_seen for pod_seen in double.history if pod_seen.started]) == 2)
        (job,) = jobs(double, "gpu-a")
        # its two pods are not judged by themselves
        assert clean_up(dry_run=True) == {"pods": 1, "orphans": [job["metadata"]["name"]], "deleted": 0}
        assert clean_up(dry_run=False)["deleted"] == 1
    until(lambda: all(pod_seen.deleted for pod_seen in double.history))
    assert not jobs(double, "gpu-a") and not api(double).list_namespaced_secret("training-gpu-a").items
    assert trial.attempts(ordered) == [("gpu-a", "ended")]
