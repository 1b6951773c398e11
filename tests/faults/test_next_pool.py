"""T1, T2, T4: a job that had a pod in one pool continues in the next, with the rights that each pool's page grants.

Its task keeps state between tries, as Airflow's tasks do (tests.pods.TaskState), and no pool's identity reaches another
namespace unless a test says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.training.kubernetes import pod
from tests import clusters, pods
from tests.api_cluster import small_pod
from tests.clusters import ByApi, DoubleCluster, until
from tests.faults.held_jobs import hold, stored_step
from tests.kubernetes_double import PodRecord, Request
from tests.queues import refused, runs

pytestmark = [pytest.mark.tracking, pytest.mark.full]
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
"""A job that does not end when it is asked to."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home")
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


class Part(ByApi):
    """One pool of a cluster that several pools share."""

    def __init__(self, double: DoubleCluster, pool: str, token: str) -> None:
        self.namespace, self.node = f"training-{pool}", f"{pool}-1"
        self.token, self._double = token, double

    def client(self) -> Any:
        return self._double.client()

    def kubeconfig(self) -> dict[str, Any]:
        return self._double.kubeconfig(self.token, self.namespace)

    @property
    def history(self) -> list[PodRecord]:
        return [pod_seen for pod_seen in self._double.history if pod_seen.namespace == self.namespace]

    @property
    def requests(self) -> Sequence[Request]:
        return self._double.requests

    def lose_node(self) -> None:
        self._double.node_lost(self.node)


@contextmanager
def shared(home: Path, *, one_identity: bool) -> Iterator[dict[str, Part]]:
    """Both pools of the Union in one cluster, in a namespace each; with `one_identity` one account may use both."""
    with DoubleCluster("gpu-a", "training-gpu-a") as double:
        double.add_namespace("training-gpu-b", clusters.RESTRICTED)
        second = clusters.grant(double.client().api_client, "training-gpu-b")
        if one_identity:
            second = double.token
            allow(double, "training-gpu-b", "training-gpu-a")
        for name in ("gpu-a", "gpu-b"):
            labels = {clusters.REGION: clusters.POOLS[name][1], clusters.PRODUCT: clusters.GPU_TYPE}
            taint = {"key": clusters.GPU, "effect": "NoSchedule"}
            double.add_node(f"{name}-1", labels, {clusters.GPU: "1"}, taints=[taint])
        double.add_image(pods.IMAGE, digest=pods.IMAGE.partition("@")[2], env={"REMPART_HOME": str(home)})
        yield {"gpu-a": Part(double, "gpu-a", double.token), "gpu-b": Part(double, "gpu-b", second)}


def allow(double: DoubleCluster, namespace: str, other: str) -> None:
    """Bind the Role of a namespace to the account of another one, too."""
    from kubernetes import client

    rbac = client.RbacAuthorizationV1Api(double.client().api_client)
    body = {
        "metadata": {"name": "shared"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rempart-pool"},
        "subjects": [{"kind": "ServiceAccount", "name": clusters.ACCOUNT, "namespace": other}],
    }
    rbac.create_namespaced_role_binding(namespace, body)


@contextmanager
def on_trial(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, made: Mapping[str, Any]
) -> Iterator[pods.Trial]:
    with pods.connected(monkeypatch, made), pods.trial(platform, home, made) as trial:
        yield trial


@pytest.mark.parametrize("one_identity", [True, False])
def test_t2_a_node_is_lost_the_pod_that_stays_terminating_in_the_other_namespace_is_not_adopted(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, one_identity: bool
) -> None:
    with (
        shared(home, one_identity=one_identity) as made,
        on_trial(platform, home, monkeypatch, made) as trial,
    ):
        ordered = trial.order({"max_iter": 1500, "learning_rate": 0.01})
        hold(trial, 300, every=1)
        lost: list[bool] = []

        def lose(number: int, trigger: Any) -> None:
            if runs(trigger) and not lost:
                until(lambda: stored_step(trial, ordered), 240)
                made["gpu-a"].lose_node()
                lost.append(True)

        ran = trial.run(ordered, deferred=lose)["placement"]
        assert (ran["pool"], ran["node"]) == ("gpu-b", "gpu-b-1")
        assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
        assert [seen.name for seen in trial.pods("gpu-b")] == [pod.name(ordered.job_id, 2)]
        assert not refused(made)


@pytest.mark.parametrize("how", ["no place", "no image", "no node"])
def test_t1_two_clusters_that_call_their_namespaces_the_same(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    declared: dict[str, dict[str, Any]] = {name: {"namespace": "training"} for name in pods.POOLS}
    if how == "no place":
        declared["gpu-a"]["max_pending"] = "3s"
    if how == "no image":
        declared["gpu-a"]["registry"] = pods.NOWHERE
    pods.project(home, declared)
    with (
        pods.clusters(home, {"gpu-a": 0} if how == "no place" else {}) as made,
        on_trial(platform, home, monkeypatch, made) as trial,
    ):
        ordered = trial.order()
        lost: list[bool] = []
        if how == "no node":
            hold(trial, 10, every=1)

        def lose(number: int, trigger: Any) -> None:
            if how == "no node" and runs(trigger) and not lost:
                until(lambda: stored_step(trial, ordered), 240)
                made["gpu-a"].lose_node()
                lost.append(True)

        assert trial.run(ordered, deferred=lose)["placement"]["pool"] == "gpu-b"
        assert [seen.namespace for name in ("gpu-a", "gpu-b") for seen in trial.pods(name)] == ["training"] * 2
        assert not refused(made)


def test_t2_a_terminating_pod_of_the_attempts_own_name_is_not_adopted_and_the_next_number_is_taken(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that lags behind after a failover gives an attempt's number a second time."""
    with pods.clusters(home) as made, on_trial(platform, home, monkeypatch, made) as trial:
        ordered = trial.order()
        job = trial.job(ordered)
        option = job.plan.options[0]
        api, namespace = made["gpu-a"].client(), made["gpu-a"].namespace
        old = job.template(1, option)
        old["spec"]["containers"][0] |= {"command": ["python", "-c", STUBBORN], "envFrom": []}
        old["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        old["spec"]["containers"][0]["securityContext"] |= {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        api.create_namespaced_pod(namespace, old)
        until(lambda: trial.pods("gpu-a")[0].started)
        api.delete_namespaced_pod(pod.name(ordered.job_id, 1), namespace, grace_period_seconds=600)
        assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
        attempts = job.attempts()
        assert [(attempt.number, attempt.pool, attempt.outcome) for attempt in attempts] == [
            (1, "gpu-a", "capacity"),
            (2, "gpu-b", "succeeded"),
        ]
        assert "is being deleted" in attempts[0].cause
        assert not [
            request for request in made["gpu-a"].requests if request.method == "POST" and "/secrets" in request.path
        ]
        assert not refused(made)


def test_x2_a_pod_of_the_attempts_name_that_somebody_else_made_is_left_alone(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pods.clusters(home) as made, on_trial(platform, home, monkeypatch, made) as trial:
        ordered = trial.order()
        other = small_pod(pods.IMAGE, "gpu-a-1", "import time; time.sleep(60)")
        other["metadata"] = {"name": pod.name(ordered.job_id, 1)}
        made["gpu-a"].client().create_namespaced_pod(made["gpu-a"].namespace, other)
        assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert first.outcome == "unreachable" and "was not made for this attempt" in first.cause
        assert trial.pods("gpu-a")[0].deleted is None
