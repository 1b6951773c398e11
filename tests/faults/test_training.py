"""T1 to T9: shortage, evictions, wrong nodes, broken results and a shaken API server, through the real operator.

The job is a real process that reads the site and logs to MLflow. The clusters are doubles (tests/kubernetes_double);
`make test-k8s` runs the same tests on a real one (docs/how-to/test-on-a-cluster.md), so they use a cluster only as
tests.clusters.Cluster says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup.paths import Stack
from rempart.errors import PlacementDenied, PoolUnavailable, TrainingError
from rempart.flows.shared.platform import Platform
from rempart.models import tracking_users
from rempart.models.tracking import session
from rempart.settings.config import Connection
from tests import clusters as chosen
from tests import pods
from tests.api_cluster import small_pod
from tests.clusters import Cluster, scaled
from tests.faults.held_jobs import hold, stored_step
from tests.faults.two_pools import new_trial, nodes, project_home, real_cluster, runs, two_clusters, until
from tests.unit.training.test_job import result

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


def test_a_job_runs_in_the_first_pool_and_its_evidence_says_where(trial: pods.Trial) -> None:
    ordered = trial.order()
    assert [option["pool"] for option in ordered.plan["options"]] == ["gpu-a", "gpu-b"]
    assert [excluded["pool"] for excluded in ordered.plan["excluded"]] == ["gpu-us"]
    ran = trial.run(ordered)["placement"]
    node = trial.clusters["gpu-a"].node
    assert (ran["pool"], ran["operator"], ran["region"], ran["node"]) == ("gpu-a", "cloud-a", "par", node)
    assert ran["image"].endswith(pods.image().partition("@")[2])
    assert ordered.job_id in ran["pod"]
    assert ran["basis"].startswith("declared") and ran["gpu_type"] == chosen.GPU_TYPE and ran["seconds"] > 0
    result = trial.finish(ordered)
    assert result.placement == ran
    with session(trial.platform.tracking()) as client:
        assert client.get_run(result.run_id).data.tags["rempart.placement.pool"] == "gpu-a"
        assert client.get_model_version(trial.pipeline.name, result.version).tags["rempart.placement.region"] == "par"
        assert client.get_run(result.run_id).data.metrics["gpu_seconds"] == ran["seconds"] * ran["gpus"]
    placed = trial.platform.ledger.find("placement")[0].body
    assert placed["ran"]["node"] == node and placed["outcome"] == "succeeded"
    candidate = trial.platform.ledger.find("candidate")[0].body
    known, cost = candidate["placement"], candidate["cost"]
    assert (known["pool"], known["pod"]) == ("gpu-a", ran["pod"])
    assert cost["complete"] and cost["attempts"] == 1 and cost["gpu_seconds"] == ran["seconds"] * ran["gpus"]
    assert cost["euros"] == pytest.approx(3.6 / 3600 * cost["gpu_seconds"]) and candidate["carbon"] is None
    assert candidate["gpus"]["devices"] == [] and candidate["gpus"]["why"].startswith("none seen")
    assert not trial.pods("gpu-b") and not trial.pods("gpu-us")


FULL = {"gpu-a": 0, "gpu-b": 0}


@pytest.mark.full
def test_t1_no_gpu_anywhere_the_job_waits_in_rounds_without_a_worker_until_one_is_free(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {name: {"max_pending": scaled(2)} for name in chosen.POOLS}, pause="1s")
    with (
        pods.pools(home, FULL) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        pauses: list[str] = []
        offered: list[str] = []
        ordered = trial.order()
        leave = trial.instead(ordered, "gpu-b")

        def deferred(number: int, trigger: Any) -> None:
            if offered:
                leave(number, trigger)
            if type(trigger).__name__ == "PauseTrigger":
                pauses.append(trigger.why)
                if len(pauses) == 2:
                    offered.append(trial.clusters["gpu-b"].offer(1))
                    # from now on the pool with a place waits as long as a pod may take to start
                    pods.project(home, {"gpu-a": {"max_pending": scaled(2)}}, pause="1s")

        ran = trial.run(ordered, deferred=deferred)["placement"]
        assert [ran["node"]] == offered
        assert "Insufficient nvidia.com/gpu" in pauses[0]
        outcomes = trial.attempts(ordered)
        assert outcomes[:4] == [("gpu-a", "capacity"), ("gpu-b", "capacity")] * 2
        assert outcomes[-1] == ("gpu-b", "succeeded")
        assert trial.evidence(ordered) == [("gpu-b", offered[0], "succeeded")]
        # every pod that found no place is gone, and none was ever asked outside the Union
        assert not trial.pods("gpu-us")
        until(lambda: not [pod for pool in ("gpu-a", "gpu-b") for pod in trial.pods(pool) if pod.deleted is None])


@pytest.mark.full
def test_t1_a_full_pool_is_asked_a_few_times_and_then_the_job_waits_for_its_watch(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pods.pools(home, FULL) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        looks: list[str] = []
        ordered = trial.order()
        leave = trial.instead(ordered, "gpu-a")

        def deferred(number: int, trigger: Any) -> None:
            leave(number, trigger)
            pool = trial.clusters["gpu-a"]
            if number == 1:
                name = pool.history[0].name
                looks.extend(
                    request.path for request in pool.requests if request.method == "GET" and request.path.endswith(name)
                )
                pool.offer(1)

        assert trial.run(ordered, deferred=deferred)["placement"]["pool"] == "gpu-a"
        assert 1 < len(looks) <= 8


@pytest.mark.full
def test_t1_at_the_deadline_the_job_fails_and_names_each_pools_answer(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {name: {"max_pending": scaled(1)} for name in chosen.POOLS}, pause="1s", deadline=scaled(20))
    with (
        pods.pools(home, FULL) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        with pytest.raises(
            TrainingError, match=r"(?s)no place was found.*gpu-a: capacity.*gpu-us: not allowed"
        ) as told:
            trial.run(trial.order())
        assert "training.deadline" in told.value.hint


@pytest.mark.parametrize("how", ["ask_eviction", pytest.param("starve", marks=pytest.mark.full)])
def test_t2_evicted_half_way_the_job_resumes_from_its_checkpoint_in_the_next_pool(trial: pods.Trial, how: str) -> None:
    steps, after = 2_000, 400
    ordered = trial.order({"max_iter": steps, "learning_rate": 0.01, "max_leaf_nodes": 3})
    evicted: list[int] = []
    # a kubelet that is short of memory leaves no time for a last checkpoint
    hold(trial, after, every=2 if how == "starve" else 30)

    def evict(number: int, trigger: Any) -> None:
        if evicted or not runs(trigger):
            return
        pool = trial.clusters["gpu-a"]
        until(lambda: (pods.progress(pool, trial) or 0) >= after, 240)
        if how == "starve":
            until(lambda: stored_step(trial, ordered) >= after, 240)
        evicted.append(stored_step(trial, ordered) or pods.progress(pool, trial) or 0)
        getattr(pool, how)(pool.history[0].name)

    ran = trial.run(ordered, deferred=evict)["placement"]
    assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
    assert ran["pool"] == "gpu-b"
    first, second = nodes(trial)
    assert trial.evidence(ordered) == [("gpu-a", first, "interrupted"), ("gpu-b", second, "succeeded")]
    work = trial.job(ordered).result().work
    assert work.resumed_from >= evicted[0] * 0.9 > 0
    assert work.total_over_attempts <= 1.2 * steps


def test_t3_an_image_from_an_undeclared_registry_is_never_asked_of_any_cluster(
    home: Path, platform: Platform, clusters: Mapping[str, Cluster]
) -> None:
    pods.project(home, image=f"docker.io/library/trainer@sha256:{'cd' * 32}")
    with pods.trial(platform, home, clusters) as trial:
        with pytest.raises(PlacementDenied, match=r"registry 'docker\.io' is not declared"):
            trial.order()
        assert trial.platform.ledger.find("denial")
        assert not any(trial.pods(pool) for pool in chosen.POOLS)


@pytest.mark.full
def test_t3_an_image_that_cannot_be_pulled_sends_the_job_to_the_next_pool(
    home: Path, platform: Platform, clusters: Mapping[str, Cluster]
) -> None:
    pods.project(home, {"gpu-a": {"registry": pods.NOWHERE}})
    with pods.trial(platform, home, clusters) as trial:
        ordered = trial.order()
        assert trial.run(ordered, deferred=trial.instead(ordered, "gpu-b"))["placement"]["pool"] == "gpu-b"
        assert "image cannot be pulled" in trial.job(ordered).attempts()[0].cause
        first, second = nodes(trial)
        assert trial.evidence(ordered) == [("gpu-a", first, "capacity"), ("gpu-b", second, "succeeded")]


def test_t4_a_pod_on_a_node_outside_the_policy_is_killed_before_it_has_any_credential(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {"gpu-a": {"max_pending": scaled(20)}})
    with (
        pods.pools(home, {"gpu-a": 0}) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        pool, ordered = trial.clusters["gpu-a"], trial.order()
        leave = trial.instead(ordered, "gpu-b")

        def abroad(number: int, trigger: Any) -> None:
            leave(number, trigger)
            if number > 1:
                return
            node = pool.offer(1)
            until(lambda: pool.history and pool.history[0].node)
            # it turns out to stand elsewhere
            pool.relabel(node, chosen.REGION, "east")

        assert trial.run(ordered, deferred=abroad)["placement"]["pool"] == "gpu-b"
        assert trial.attempts(ordered) == [("gpu-a", "denied"), ("gpu-b", "succeeded")]
        until(lambda: pool.history[0].deleted)
        assert pool.history[0].started is None
        assert not [request for request in pool.requests if request.method == "POST" and "/secrets" in request.path]
        denial = trial.platform.ledger.find("denial")[0]
        assert "east" in str(denial.body)


def test_t5_a_trainer_that_ends_well_without_a_result_is_a_failure(trial: pods.Trial) -> None:
    trial.stub("print('nothing to see')")
    with pytest.raises(TrainingError, match=r"(?s)stored no result.*nothing to see"):
        trial.run(trial.order())
    until(lambda: trial.pods("gpu-a")[0].deleted)


def test_t6_a_result_whose_numbers_are_nan_is_a_failure(trial: pods.Trial) -> None:
    ordered = trial.order()
    trial.stub("pass")
    body = json.dumps(json.loads(result()) | {"job_id": ordered.job_id, "metrics": {"mae": float("nan")}})
    site = trial.platform.active_site("personal")

    def written(number: int, trigger: Any) -> None:
        site.write(ordered.bucket, ordered.key.replace("order.json", "result.json"), body.encode())
        if runs(trigger):
            until(lambda: trial.pods("gpu-a")[0].finished)

    with pytest.raises(TrainingError, match="not finite"):
        trial.run(ordered, deferred=written)


@pytest.mark.full
def test_t7_mlflow_down_at_the_end_of_training_loses_nothing(
    trial: pods.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, away = tracking_users.create, {"mlflow"}

    def broken(*arguments: Any) -> Connection:
        made = create(*arguments)
        return dataclasses.replace(made, port=9) if away else made

    monkeypatch.setattr(tracking_users, "create", broken)
    ordered = trial.order()
    with pytest.raises(PoolUnavailable, match=r"(?s)did not answer.*waiting for MLflow"):
        trial.run(ordered)
    away.clear()
    second: list[str] = []

    def read(number: int, trigger: Any) -> None:
        if second or not runs(trigger):
            return
        until(lambda: '"stage": "done"' in pods.log_of(trial, "gpu-b"), 240)
        second.extend(pods.log_of(trial, "gpu-b").splitlines())

    trial.run(ordered, deferred=read)
    assert trial.finish(ordered).metrics
    assert trial.attempts(ordered)[0][1] == "unreachable"
    assert trial.attempts(ordered)[-1][1] == "succeeded"
    # the second pod logged what the first had stored, and trained nothing
    assert not any('"stage": "training"' in line for line in second)
    assert any('"stage": "trained before"' in line for line in second)


def test_a_failure_of_the_training_code_fails_at_once_with_its_last_lines(trial: pods.Trial) -> None:
    trial.stub("import sys; print('epoch 3 of 9'); sys.exit('no such column: colour')")
    ordered = trial.order()
    with pytest.raises(TrainingError, match=r"(?s)exit status 1.*epoch 3 of 9.*no such column: colour"):
        trial.run(ordered)
    assert trial.attempts(ordered) == [("gpu-a", "failed")]
    assert not trial.pods("gpu-b")


@pytest.mark.full
def test_a_lost_node_is_a_capacity_fault_and_the_job_goes_on_elsewhere(trial: pods.Trial) -> None:
    ordered = trial.order({"max_iter": 1500, "learning_rate": 0.01})
    hold(trial, 300, every=1)
    lost: list[bool] = []

    def lose(number: int, trigger: Any) -> None:
        if runs(trigger) and not lost:
            until(lambda: stored_step(trial, ordered), 240)
            trial.clusters["gpu-a"].lose_node()
            lost.append(True)

    assert trial.run(ordered, deferred=lose)["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
    first, second = nodes(trial)
    assert trial.evidence(ordered) == [("gpu-a", first, "interrupted"), ("gpu-b", second, "succeeded")]


def test_s2_no_credential_stands_in_pod_trigger_or_record(trial: pods.Trial) -> None:
    seen: list[str] = []
    ordered = trial.order()
    pool = trial.clusters["gpu-a"]
    api = pool.client()

    def look(number: int, trigger: Any) -> None:
        seen.append(json.dumps(trigger.serialize()[1], default=str))
        found = api.list_namespaced_pod("training-gpu-a", _preload_content=False)
        seen.append(found.data.decode())

    trial.run(ordered, deferred=look)
    site = trial.platform.active_site("personal")
    prefix = ordered.key.removesuffix("order.json")
    seen += [site.read(ordered.bucket, info.key).decode("latin-1") for info in site.list(ordered.bucket, prefix)]
    secrets = [trial.platform.connections(name).password for name in ("s3_primary", "mlflow")]
    text = "\n".join(seen)
    assert ordered.job_id in text
    assert not [secret for secret in (*secrets, pool.token) if secret in text]
    # the secret goes with its pod
    until(lambda: not [item for item in api.list_namespaced_secret("training-gpu-a").items if item.type == "Opaque"])


@pytest.mark.full
def test_a_pool_known_to_be_full_is_asked_after_the_others(trial: pods.Trial) -> None:
    pool = trial.clusters["gpu-a"]
    pool.client().create_namespaced_pod(
        pool.namespace, small_pod(pods.image(), pool.node, "import time; time.sleep(60)", gpus=2)
    )
    ordered = trial.order()
    assert [option["pool"] for option in ordered.plan["options"]] == ["gpu-b", "gpu-a"]
    assert "0 GPU known to be free, so it is tried after the others" in ordered.plan["options"][1]["reasons"]
    assert trial.run(ordered, deferred=trial.instead(ordered, "gpu-b"))["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered) == [("gpu-b", "succeeded")]
