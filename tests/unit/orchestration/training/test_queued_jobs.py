"""T1, T2 with Kueue: a job waits in its pool's queue, is never admitted, or is displaced, by the real operator.

The clusters are doubles with Kueue (tests/kubernetes_double/kueue.py), site and ledger are in memory, and a stub
replaces the job. No pool's identity has a right that its documented Role does not grant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials
from rempart.flows.training.job_credentials import Granted
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.training.job import JobSpec
from rempart.training.kubernetes import train_job
from rempart.training.placement import Attempt
from tests import pods
from tests.clusters import until
from tests.nodes import SHORT, WITH_RUNTIME, api, install_trainer, jobs, leave_result, muted, posted, second
from tests.queues import FULL, QUEUE, freed_once_told, install_kueue, other, refused, runs, runs_pod, urgent, workloads
from tests.unit.training import stage

pytestmark = pytest.mark.airflow
SLEEPS = "import time; time.sleep(600)"
PATIENT = "600s"
BEGIN = "couldn't assign flavors to pod set"


@pytest.fixture(autouse=True)
def no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def grant(config: Any, connections: Any, record: Any, spec: JobSpec, *_: Any) -> Granted:
        return Granted(dict.fromkeys(train_job.credential_variables(spec), "x"), "none")

    monkeypatch.setattr(job_credentials, "grant", grant)
    monkeypatch.setattr(job_credentials, "release", lambda *_: None)


@contextmanager
def on_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_pool: dict[str, Any],
    *,
    kueue: int | None = 1,
    manages: bool = True,
    nodes: int = 1,
) -> Iterator[pods.Trial]:
    """A trial whose first pool has a queue, with quota for so many GPUs; None: without Kueue."""
    shared: dict[str, Any] = WITH_RUNTIME if nodes > 1 else {}
    declared = {name: shared | (of_pool if name == "gpu-a" else {}) for name in pods.POOLS}
    home = pods.project(tmp_path / "home", declared)
    monkeypatch.setenv("REMPART_HOME", str(home))
    with pods.clusters(home, dict.fromkeys(pods.POOLS, 3 - nodes)) as made, pods.connected(monkeypatch, made):
        if kueue is not None:
            install_kueue(made["gpu-a"], kueue, manages=manages)
        settings = config.load(home / "rempart.yaml")
        sites: dict[str, Any] = {"primary": stage.memory_site()}
        memory: dict[str, Any] = {"sites": sites, "ledger_": MemoryLedger(), "continuity_": MemoryContinuity()}
        platform = Platform(settings, config.environment_connections, **memory)
        for bucket in (settings.buckets.lake, settings.buckets.artifacts):
            sites["primary"].ensure_bucket(bucket, versioned=True)
        trial = pods.Trial(platform, stage.pipeline(), made, home)
        if nodes > 1:
            for name, (operator, region) in pods.POOLS.items():
                second(made[name], name, operator, region)
            install_trainer(made, home)
            changes = {"nodes": nodes, "gpus": 1, "use": "tabular_network", "params": {"epochs": 3}}
            trainer = trial.pipeline.trainer.model_copy(update=changes)
            trial.pipeline = trial.pipeline.model_copy(update={"trainer": trainer})
        yield trial


def left_when_it_runs(trial: pods.Trial, ordered: Any) -> Any:
    """Leaves the job's result once a pod has its credentials."""

    def deferred(number: int, trigger: Any) -> None:
        if runs(trigger) or trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    return deferred


def at_once(ended: Attempt) -> bool:
    """Whether an attempt ended without waiting for `PATIENT`."""
    assert ended.ended
    return (ended.ended - ended.started).total_seconds() < 240


def test_t1_a_job_waits_in_its_queue_says_why_and_runs_once_it_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": PATIENT}) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        freed_once_told(monkeypatch, double, "before-us")
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        trial.stub(SHORT)

        def admit(number: int, trigger: Any) -> None:
            if number == 1:
                assert not runs(trigger)
                until(lambda: len(workloads(double)) == 2)
            if runs(trigger):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=admit)["placement"]["pool"] == "gpu-a"
        assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
        assert f"LocalQueue gpus has not admitted it: Pending: {BEGIN} main: {FULL}" in capsys.readouterr().out
        assert not refused(trial.clusters)


@pytest.mark.full
def test_t1_after_the_pools_patience_the_next_pool_is_asked_and_no_gated_pod_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": "3s"}) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        trial.stub(SHORT)
        assert trial.run(ordered, deferred=left_when_it_runs(trial, ordered))["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity"
        assert "LocalQueue gpus" in first.cause and FULL in first.cause
        until(lambda: [pod.name for pod in double.history if pod.deleted is None] == ["before-us"])
        until(lambda: len(workloads(double)) == 1)
        assert double.history[-1].node is None
        assert not [request for request in double.requests if request.method == "POST" and "/secrets" in request.path]
        assert not refused(trial.clusters)


@pytest.mark.full
def test_t1_quota_that_can_never_fit_is_told_at_once_in_kueues_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": PATIENT}, kueue=0) as trial:
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        trial.stub(SHORT)
        assert trial.run(ordered, deferred=left_when_it_runs(trial, ordered))["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity" and "maximum capacity (0)" in first.cause
        assert at_once(first)
        assert not refused(trial.clusters)


@pytest.mark.parametrize("how", ["no queue", "no kueue"])
def test_t1_a_queue_that_is_not_there_is_told_at_once_and_no_pod_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    kueue = 1 if how == "no queue" else None
    with on_trial(tmp_path, monkeypatch, {"queue": "typo", "max_pending": "20s"}, kueue=kueue) as trial:
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        trial.stub(SHORT)
        assert trial.run(ordered, deferred=left_when_it_runs(trial, ordered))["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "unreachable"
        assert "LocalQueue typo" in first.cause and "training-gpu-a" in first.cause
        assert "gpu_pools.gpu-a.queue" in first.cause
        assert not trial.pods("gpu-a")
        assert not refused(trial.clusters)


@pytest.mark.parametrize("nodes", [1, 2])
def test_t1_a_job_that_kueue_does_not_manage_says_that_it_runs_beside_its_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nodes: int
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE}, kueue=0, manages=False, nodes=nodes) as trial:
        ordered = dataclasses.replace(trial.order(), free={})
        trial.stub(SHORT)
        muted(trial, SHORT)
        assert trial.run(ordered, deferred=lambda *_: leave_result(trial, ordered))["placement"]["pool"] == "gpu-a"
        assert "runs outside LocalQueue gpus" in capsys.readouterr().out


# TrainJobs


@pytest.mark.full
def test_t1_a_train_job_that_kueue_suspends_waits_and_runs_once_it_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": PATIENT}, kueue=2, nodes=2) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        freed_once_told(monkeypatch, double, "before-us")
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        muted(trial, SHORT)

        def admit(number: int, trigger: Any) -> None:
            if number == 1:
                (job,) = jobs(double, "gpu-a")
                assert job["spec"]["suspend"] is True
            else:
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=admit)["placement"]["pool"] == "gpu-a"
        assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
        assert f"LocalQueue gpus has not admitted it: Pending: {BEGIN} node: {FULL}" in capsys.readouterr().out
        assert not refused(trial.clusters)


@pytest.mark.full
def test_t1_a_train_job_that_its_queue_can_never_admit_leaves_nothing_and_says_why_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": PATIENT}, kueue=1, nodes=2) as trial:
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        muted(trial, SHORT)

        def written(number: int, trigger: Any) -> None:
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity"
        assert "LocalQueue gpus" in first.cause and "maximum capacity (1)" in first.cause
        assert at_once(first)
        double = trial.clusters["gpu-a"]
        assert not jobs(double, "gpu-a") and not double.history and not posted(double, "secrets")
        until(lambda: not workloads(double))
        assert not refused(trial.clusters)


@pytest.mark.full
def test_t2_a_train_job_that_is_preempted_gets_no_second_set_of_pods_with_its_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kueue would admit the same TrainJob again, on machines that nobody judged, while its Secret is there."""
    with on_trial(tmp_path, monkeypatch, {"queue": QUEUE, "max_pending": PATIENT}, kueue=2, nodes=2) as trial:
        double = trial.clusters["gpu-a"]
        urgent(double)
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        muted(trial, SLEEPS)

        def preempt(number: int, trigger: Any) -> None:
            if number == 1:
                until(lambda: len([pod for pod in double.history if pod.started]) == 2)
                other(double, "urgent", "urgent")
                until(lambda: runs_pod(double, "urgent"))
                assert jobs(double, "gpu-a")[0]["spec"]["suspend"] is True
                muted(trial, SHORT)
            elif trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=preempt)["placement"]["pool"] == "gpu-b"
        assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
        first = trial.job(ordered).attempts()[0]
        assert "Preempted to accommodate a workload" in first.cause
        placed = {record.body["attempt"]: record.body for record in trial.platform.ledger.find("placement")}
        assert [placed[number]["ran"]["pool"] for number in (1, 2)] == ["gpu-a", "gpu-b"]
        double.client().delete_namespaced_pod("urgent", double.namespace)
        until(lambda: not jobs(double, "gpu-a") and not workloads(double))
        ours = [pod for pod in double.history if pod.name != "urgent"]
        assert len(ours) == 2 and all(pod.deleted for pod in ours)
        assert not api(double).list_namespaced_secret("training-gpu-a").items
        assert not refused(trial.clusters)
