"""T1, T2 with Kueue: a job that waits in its pool's queue, that is never admitted, that is preempted half way.

Kueue is the double's (tests/kubernetes_double/kueue.py); the operator, its triggers and, but for TrainJobs, the job are
real. No pool's identity has a right that its documented Role does not grant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.platform import Platform
from rempart.training.kubernetes import pod
from tests import pods
from tests.api_cluster import small_pod
from tests.clusters import GPU, DoubleCluster, until
from tests.nodes import SHORT, STAYS, WITH_RUNTIME, api, custom, jobs, leave_result, on_two_nodes, posted, silenced

pytestmark = pytest.mark.stack
QUEUE = "gpus"
SLEEPS = "import time; time.sleep(600)"
BEGIN = "couldn't assign flavors to pod set"
FULL = "insufficient unused quota for nvidia.com/gpu in flavor gpus"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home")
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


def quota(gpus: int) -> dict[str, str]:
    return {GPU: str(gpus), "cpu": "64", "memory": "64Gi"}


@contextmanager
def queued(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, *, gpus: int = 1, **pool: Any
) -> Iterator[pods.Trial]:
    """A trial whose first pool has a queue, with quota for so many GPUs."""
    declared = {"gpu-a": {"queue": QUEUE, "max_pending": "60s"} | pool.pop("of_pool", {})}
    pods.project(home, declared, **pool)
    with pods.clusters(home) as made, pods.connected(monkeypatch, made):
        made["gpu-a"].add_kueue()
        made["gpu-a"].add_queue("training-gpu-a", QUEUE, quota(gpus), preempts=True)
        with pods.trial(platform, home, made) as trial:
            yield trial


def other(double: DoubleCluster, name: str, priority: str = "") -> None:
    """A pod of somebody else, in the same queue."""
    body = small_pod(pods.IMAGE, "", SLEEPS, 1)
    body["metadata"] = {"name": name, "labels": {pod.QUEUE: QUEUE}}
    del body["spec"]["nodeName"]
    if priority:
        body["spec"]["priorityClassName"] = priority
    double.client().create_namespaced_pod(double.namespace, body)


def urgent(double: DoubleCluster) -> None:
    from kubernetes import client

    classes = client.SchedulingV1Api(double.client().api_client)
    classes.create_priority_class({"metadata": {"name": "urgent"}, "value": 100})


def runs_pod(double: DoubleCluster, name: str) -> bool:
    found = double.client().read_namespaced_pod(name, double.namespace)
    return bool(found.status.phase == "Running")


def workloads(double: DoubleCluster) -> list[dict[str, Any]]:
    where = ("kueue.x-k8s.io", "v1beta2", double.namespace, "workloads")
    found: list[dict[str, Any]] = custom(double).list_namespaced_custom_object(*where)["items"]
    return found


def refused(made: Mapping[str, Any]) -> list[str]:
    """Requests that a cluster refused for want of a right."""
    return [f"{one.method} {one.path}" for each in made.values() for one in each.requests if one.status == 403]


def runs(trigger: Any) -> bool:
    return getattr(trigger, "await_node", None) is False


def test_t1_a_job_waits_in_its_queue_says_why_and_runs_once_it_is_admitted(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with queued(platform, home, monkeypatch) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        ordered = trial.order()

        def admit(number: int, trigger: Any) -> None:
            if number == 1:
                assert not runs(trigger)
                until(lambda: len(workloads(double)) == 2)
                double.freed_in(4, "before-us", double.namespace)

        assert trial.run(ordered, deferred=admit)["placement"]["pool"] == "gpu-a"
        assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
        assert f"LocalQueue gpus has not admitted it: Pending: {BEGIN} main: {FULL}" in capsys.readouterr().out
        assert not refused(trial.clusters)


def test_t1_after_the_pools_patience_the_next_pool_is_asked_and_no_gated_pod_is_left(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queued(platform, home, monkeypatch, of_pool={"max_pending": "3s"}) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        ordered = trial.order()
        assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity"
        assert "LocalQueue gpus" in first.cause and FULL in first.cause
        until(lambda: [one.name for one in double.history if one.deleted is None] == ["before-us"])
        until(lambda: len(workloads(double)) == 1)
        assert double.history[-1].node is None
        assert not [one for one in double.requests if one.method == "POST" and "/secrets" in one.path]
        assert not refused(trial.clusters)


def test_t1_quota_that_can_never_fit_is_told_in_kueues_words(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queued(platform, home, monkeypatch, gpus=0, of_pool={"max_pending": "3s"}) as trial:
        ordered = trial.order()
        assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity" and "maximum capacity (0)" in first.cause
        assert not refused(trial.clusters)


@pytest.mark.parametrize("how", ["no queue", "no kueue"])
def test_t1_a_queue_that_is_not_there_is_told_at_once_and_no_pod_is_made(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    declared = {"gpu-a": {"queue": "typo", "max_pending": "20s"}}
    pods.project(home, declared)
    with pods.clusters(home) as made, pods.connected(monkeypatch, made):
        if how == "no queue":
            made["gpu-a"].add_kueue()
        with pods.trial(platform, home, made) as trial:
            ordered = trial.order()
            assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
            first = trial.job(ordered).attempts()[0]
            assert first.outcome == "unreachable"
            assert "LocalQueue typo" in first.cause and "training-gpu-a" in first.cause
            assert "pools.gpu-a.queue" in first.cause
            assert not trial.pods("gpu-a")
            assert not refused(trial.clusters)


@pytest.mark.parametrize("where", ["the next pool", "the same pool"])
def test_t2_preempted_half_way_the_job_resumes_from_its_checkpoint(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    steps = 16_000
    only = {"pools": ["gpu-a"], "pause": "1s"} if where == "the same pool" else {}
    with queued(platform, home, monkeypatch, **only) as trial:
        double = trial.clusters["gpu-a"]
        urgent(double)
        ordered = trial.order({"max_iter": steps, "learning_rate": 0.01, "max_leaf_nodes": 3})
        reached: list[int] = []

        def preempt(number: int, trigger: Any) -> None:
            if type(trigger).__name__ == "PauseTrigger":
                double.client().delete_namespaced_pod("urgent", double.namespace)
            elif not reached and runs(trigger):
                until(lambda: (pods.progress(double, trial) or 0) >= steps * 0.1, 240)
                reached.append(pods.progress(double, trial) or 0)
                other(double, "urgent", "urgent")

        ran = trial.run(ordered, deferred=preempt)["placement"]
        last = "gpu-a" if where == "the same pool" else "gpu-b"
        assert ran["pool"] == last
        assert trial.attempts(ordered) == [("gpu-a", "interrupted"), (last, "succeeded")]
        first = trial.job(ordered).attempts()[0]
        assert "Preempted to accommodate a workload" in first.cause
        work = trial.job(ordered).result().work
        assert work.resumed_from >= reached[0] * 0.9 > 0
        placed = {one.body["attempt"]: one.body for one in trial.platform.ledger.find("placement")}
        assert [placed[number]["ran"]["pool"] for number in (1, 2)] == ["gpu-a", last]
        assert "Preempted to accommodate a workload" in placed[1]["cause"]
        assert not refused(trial.clusters)


# TrainJobs


@contextmanager
def on_nodes(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, gpus: int = 2, **of_pool: Any
) -> Iterator[pods.Trial]:
    pools: dict[str, Any] = dict.fromkeys(pods.POOLS, WITH_RUNTIME)
    pools["gpu-a"] = WITH_RUNTIME | {"queue": QUEUE, "max_pending": "60s"} | of_pool
    pods.project(home, pools)
    with on_two_nodes(platform, home, monkeypatch) as trial:
        trial.clusters["gpu-a"].add_kueue()
        trial.clusters["gpu-a"].add_queue("training-gpu-a", QUEUE, quota(gpus), preempts=True)
        yield trial


def test_t1_a_train_job_that_kueue_suspends_waits_and_runs_once_it_is_admitted(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with on_nodes(platform, home, monkeypatch) as trial:
        double = trial.clusters["gpu-a"]
        other(double, "before-us")
        until(lambda: runs_pod(double, "before-us"))
        ordered = trial.order()
        silenced(trial, SHORT)

        def admit(number: int, trigger: Any) -> None:
            if number == 1:
                (job,) = jobs(double, "gpu-a")
                assert job["spec"]["suspend"] is True
                double.freed_in(4, "before-us", double.namespace)
            else:
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=admit)["placement"]["pool"] == "gpu-a"
        assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
        assert f"LocalQueue gpus has not admitted it: Pending: {BEGIN} node: {FULL}" in capsys.readouterr().out
        assert not refused(trial.clusters)


def test_t1_a_train_job_that_is_not_admitted_in_time_leaves_nothing_and_says_why(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_nodes(platform, home, monkeypatch, gpus=1, max_pending="3s") as trial:
        ordered = trial.order()
        silenced(trial, SHORT)

        def written(number: int, trigger: Any) -> None:
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "capacity"
        assert "LocalQueue gpus" in first.cause and "maximum capacity (1)" in first.cause
        double = trial.clusters["gpu-a"]
        assert not jobs(double, "gpu-a") and not double.history and not posted(double, "secrets")
        until(lambda: not workloads(double))
        assert not refused(trial.clusters)


def test_t2_a_train_job_that_is_preempted_gets_no_second_set_of_pods_with_its_credentials(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kueue would admit the same TrainJob again, on machines that nobody judged, while its Secret is there."""
    with on_nodes(platform, home, monkeypatch) as trial:
        double = trial.clusters["gpu-a"]
        urgent(double)
        ordered = trial.order()
        silenced(trial, STAYS)

        def preempt(number: int, trigger: Any) -> None:
            if number == 1:
                until(lambda: len([one for one in double.history if one.started]) == 2)
                silenced(trial, SHORT)
                other(double, "urgent", "urgent")
                until(lambda: runs_pod(double, "urgent"))
                until(lambda: jobs(double, "gpu-a")[0]["spec"]["suspend"] is True)
            elif trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=preempt)["placement"]["pool"] == "gpu-b"
        assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
        first = trial.job(ordered).attempts()[0]
        assert "Preempted to accommodate a workload" in first.cause
        placed = {one.body["attempt"]: one.body for one in trial.platform.ledger.find("placement")}
        assert [placed[number]["ran"]["pool"] for number in (1, 2)] == ["gpu-a", "gpu-b"]
        double.client().delete_namespaced_pod("urgent", double.namespace)
        until(lambda: not jobs(double, "gpu-a") and not workloads(double))
        ours = [one for one in double.history if one.name != "urgent"]
        assert len(ours) == 2 and all(one.deleted for one in ours)
        assert not api(double).list_namespaced_secret("training-gpu-a").items
        assert not refused(trial.clusters)
