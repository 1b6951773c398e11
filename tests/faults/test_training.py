"""T1 to T9: shortage, evictions, wrong nodes, broken results and a shaken API server, through the real operator.

The job is a real process that reads the site and logs to MLflow; the clusters are doubles (tests/kubernetes_double).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rempart.config import Connection
from rempart.errors import PlacementDenied, PoolUnavailable, TrainingError
from rempart.flows.platform import Platform
from rempart.models.tracking import session
from tests import pods
from tests.kubernetes_double import KubernetesDouble
from tests.unit.training.test_job import result

pytestmark = pytest.mark.stack


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home")
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


@pytest.fixture
def clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, KubernetesDouble]]:
    with pods.clusters(home) as made, pods.connected(monkeypatch, made):
        yield made


@pytest.fixture
def trial(platform: Platform, home: Path, clusters: dict[str, KubernetesDouble]) -> Iterator[pods.Trial]:
    with pods.trial(platform, home, clusters) as made:
        yield made


def test_a_job_runs_in_the_first_pool_and_its_evidence_says_where(trial: pods.Trial) -> None:
    ordered = trial.order()
    assert [one["pool"] for one in ordered.plan["options"]] == ["gpu-a", "gpu-b"]
    assert [one["pool"] for one in ordered.plan["excluded"]] == ["gpu-us"]
    ran = trial.run(ordered)["placement"]
    assert (ran["pool"], ran["operator"], ran["region"], ran["node"]) == ("gpu-a", "cloud-a", "par", "gpu-a-1")
    assert ran["image"].endswith(pods.IMAGE.partition("@")[2])
    assert ran["basis"].startswith("declared") and ran["gpu_type"] == "NVIDIA-L4" and ran["seconds"] > 0
    result = trial.finish(ordered)
    assert result.placement == ran
    with session(trial.platform.tracking()) as client:
        assert client.get_run(result.run_id).data.tags["rempart.placement.pool"] == "gpu-a"
        assert client.get_model_version(trial.pipeline.name, result.version).tags["rempart.placement.region"] == "par"
    placed = trial.platform.ledger.find("placement")[0].body
    assert placed["ran"]["node"] == "gpu-a-1" and placed["outcome"] == "succeeded"
    assert trial.platform.ledger.find("candidate")[0].body["placement"]["pool"] == "gpu-a"
    assert not trial.pods("gpu-b") and not trial.pods("gpu-us")


def silenced(trial: pods.Trial, code: str) -> None:
    """From now on the image's `python` runs this code instead of the job."""
    folder = trial.home / "stub"
    folder.mkdir(exist_ok=True)
    (folder / "code.py").write_text(code, encoding="utf-8")
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "code.py"} "$@"\n', encoding="utf-8")
    (folder / "python").chmod(0o755)
    env = {"REMPART_HOME": str(trial.home), "PATH": f"{folder}:{os.environ['PATH']}"}
    for double in trial.clusters.values():
        double.add_image(pods.IMAGE, digest=pods.IMAGE.partition("@")[2], env=env)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def api(double: KubernetesDouble) -> Any:
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config_dict(double.kubeconfig()))


FULL = {"gpu-a": 0, "gpu-b": 0}


def test_t1_no_gpu_anywhere_the_job_waits_in_rounds_without_a_worker_until_one_is_free(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {name: {"max_pending": "2s"} for name in pods.POOLS}, pause="1s")
    with (
        pods.clusters(home, FULL) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        pauses: list[str] = []

        def deferred(number: int, trigger: Any) -> None:
            if type(trigger).__name__ == "PauseTrigger":
                pauses.append(trigger.why)
                if len(pauses) == 2:
                    trial.clusters["gpu-b"].add_node("gpu-b-2", {pods.REGION: "fra"}, {pods.GPU: "1"})

        ordered = trial.order()
        ran = trial.run(ordered, deferred=deferred)["placement"]
        assert ran["node"] == "gpu-b-2"
        assert "Insufficient nvidia.com/gpu" in pauses[0]
        outcomes = trial.attempts(ordered)
        assert outcomes[:4] == [("gpu-a", "capacity"), ("gpu-b", "capacity")] * 2
        assert outcomes[-1] == ("gpu-b", "succeeded")
        # every pod that found no place is gone, and none was ever asked outside the Union
        assert not trial.pods("gpu-us")
        assert [one for pool in ("gpu-a", "gpu-b") for one in trial.pods(pool) if one.deleted is None] == []


def test_t1_at_the_deadline_the_job_fails_and_names_each_pools_answer(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {name: {"max_pending": "1s"} for name in pods.POOLS}, pause="1s", deadline="6s")
    with (
        pods.clusters(home, FULL) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        with pytest.raises(
            TrainingError, match=r"(?s)no place was found.*gpu-a: capacity.*gpu-us: not allowed"
        ) as told:
            trial.run(trial.order())
        assert "training.deadline" in told.value.hint


def test_t2_evicted_half_way_the_job_resumes_from_its_checkpoint_in_the_next_pool(trial: pods.Trial) -> None:
    steps = 4000
    ordered = trial.order({"max_iter": steps, "learning_rate": 0.01, "max_leaf_nodes": 3})
    evicted: list[int] = []

    def evict(number: int, trigger: Any) -> None:
        if evicted:
            return
        double = trial.clusters["gpu-a"]
        until(lambda: (pods.progress(double, trial) or 0) >= steps * 0.4, 120)
        evicted.append(pods.progress(double, trial) or 0)
        double.evict(double.history[0].name, "training-gpu-a")

    ran = trial.run(ordered, deferred=evict)["placement"]
    assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
    assert ran["pool"] == "gpu-b"
    work = trial.job(ordered).result().work
    assert work.resumed_from >= evicted[0] * 0.9 > 0
    assert work.total_over_attempts <= 1.2 * steps


def test_t3_an_image_from_an_undeclared_registry_is_never_asked_of_any_cluster(
    home: Path, platform: Platform, clusters: dict[str, KubernetesDouble]
) -> None:
    pods.project(home, image=f"docker.io/library/trainer@sha256:{'cd' * 32}")
    with pods.trial(platform, home, clusters) as trial:
        with pytest.raises(PlacementDenied, match=r"registry 'docker\.io' is not declared"):
            trial.order()
        assert trial.platform.ledger.find("denial")
        assert not any(trial.pods(pool) for pool in pods.POOLS)


def test_t3_an_image_that_cannot_be_pulled_sends_the_job_to_the_next_pool(trial: pods.Trial) -> None:
    trial.clusters["gpu-a"].remove_image(pods.IMAGE)
    ordered = trial.order()
    assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
    assert "image cannot be pulled" in trial.job(ordered).attempts()[0].cause


def test_t4_a_pod_on_a_node_outside_the_policy_is_killed_before_it_has_any_credential(
    home: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {"gpu-a": {"max_pending": "20s"}})
    with (
        pods.clusters(home, {"gpu-a": 0}) as clusters,
        pods.connected(monkeypatch, clusters),
        pods.trial(platform, home, clusters) as trial,
    ):
        double = trial.clusters["gpu-a"]

        def abroad(number: int, trigger: Any) -> None:
            if number > 1:
                return
            double.add_node("gpu-a-2", {pods.REGION: "par"}, {pods.GPU: "1"})
            until(lambda: double.history[0].node)
            # it turns out to stand elsewhere
            api(double).patch_node("gpu-a-2", {"metadata": {"labels": {pods.REGION: "east"}}})

        ordered = trial.order()
        assert trial.run(ordered, deferred=abroad)["placement"]["pool"] == "gpu-b"
        assert trial.attempts(ordered) == [("gpu-a", "denied"), ("gpu-b", "succeeded")]
        killed = double.history[0]
        assert killed.started is None and killed.deleted is not None
        assert not [one for one in double.requests if one.method == "POST" and "/secrets" in one.path]
        denial = trial.platform.ledger.find("denial")[0]
        assert "east" in str(denial.body)


def test_t5_a_trainer_that_ends_well_without_a_result_is_a_failure(trial: pods.Trial) -> None:
    silenced(trial, "print('nothing to see')")
    with pytest.raises(TrainingError, match=r"(?s)left no result.*nothing to see"):
        trial.run(trial.order())
    assert trial.clusters["gpu-a"].history[0].deleted is not None


def test_t6_a_result_whose_numbers_are_nan_is_a_failure(trial: pods.Trial) -> None:
    ordered = trial.order()
    silenced(trial, "pass")
    body = json.dumps(json.loads(result()) | {"job_id": ordered.job_id, "metrics": {"mae": float("nan")}})
    site = trial.platform.active_site("personal")
    double = trial.clusters["gpu-a"]

    def written(number: int, trigger: Any) -> None:
        site.write(ordered.bucket, ordered.key.replace("order.json", "result.json"), body.encode())
        until(lambda: double.history[0].finished)

    with pytest.raises(TrainingError, match="not finite"):
        trial.run(ordered, deferred=written)


def test_t7_mlflow_down_at_the_end_of_training_loses_nothing(trial: pods.Trial) -> None:
    connections, away = trial.platform.connections, {"mlflow": "127.0.0.1"}

    def broken(name: str) -> Connection:
        found = connections(name)
        return dataclasses.replace(found, host=away[name], port=9) if name in away else found

    trial.platform = dataclasses.replace(trial.platform, connections=broken)
    ordered = trial.order()
    with pytest.raises(PoolUnavailable, match=r"(?s)did not answer.*waiting for MLflow"):
        trial.run(ordered)
    away.clear()
    second: list[str] = []

    def read(number: int, trigger: Any) -> None:
        until(lambda: '"stage": "done"' in pods.log_of(trial, "gpu-b"), 60)
        second.extend(pods.log_of(trial, "gpu-b").splitlines())

    trial.run(ordered, deferred=read)
    assert trial.finish(ordered).metrics
    assert trial.attempts(ordered)[0][1] == "unreachable"
    assert trial.attempts(ordered)[-1][1] == "succeeded"
    # the second pod logged what the first had stored, and trained nothing
    assert not any('"stage": "training"' in line for line in second)
    assert any('"stage": "trained before"' in line for line in second)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_t8_an_api_server_that_answers_409_429_and_500_in_turn(trial: pods.Trial, method: str) -> None:
    double = trial.clusters["gpu-a"]
    for status in (409, 429, 500):
        double.fail(status, method=method, path_contains="/pods", retry_after=1 if status == 429 else None)
    ordered = trial.order()
    assert trial.run(ordered)["placement"]["pool"] == "gpu-a"
    assert trial.attempts(ordered) == [("gpu-a", "succeeded")]
    assert len(double.history) == 1


def test_t8_an_answer_that_is_lost_makes_no_second_pod(trial: pods.Trial) -> None:
    double = trial.clusters["gpu-a"]
    double.fail(0, method="POST", path_contains="/pods", done=True)
    ordered = trial.order()
    trial.run(ordered)
    ran = [one for pool in ("gpu-a", "gpu-b") for one in trial.pods(pool) if one.started]
    assert len(ran) == 1
    assert trial.attempts(ordered)[-1][1] == "succeeded"


def test_t8_a_pool_whose_api_is_away_is_passed_over(trial: pods.Trial) -> None:
    trial.clusters["gpu-a"].stop()
    ordered = trial.order()
    assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered)[0] == ("gpu-a", "unreachable")


def test_t9_a_quota_that_refuses_the_pod_sends_the_job_to_the_next_pool(trial: pods.Trial) -> None:
    quota = {"metadata": {"name": "gpu"}, "spec": {"hard": {f"requests.{pods.GPU}": "0"}}}
    api(trial.clusters["gpu-a"]).create_namespaced_resource_quota("training-gpu-a", quota)
    ordered = trial.order()
    assert trial.run(ordered)["placement"]["pool"] == "gpu-b"
    first = trial.job(ordered).attempts()[0]
    assert (first.outcome, "exceeded quota" in first.cause) == ("capacity", True)
    assert not trial.pods("gpu-a")


def test_a_failure_of_the_training_code_fails_at_once_with_its_last_lines(trial: pods.Trial) -> None:
    silenced(trial, "import sys; print('epoch 3 of 9'); sys.exit('no such column: colour')")
    ordered = trial.order()
    with pytest.raises(TrainingError, match=r"(?s)exit status 1.*epoch 3 of 9.*no such column: colour"):
        trial.run(ordered)
    assert trial.attempts(ordered) == [("gpu-a", "failed")]
    assert not trial.pods("gpu-b")


def test_x2_a_second_run_of_the_same_order_adopts_the_pod_and_runs_nothing_twice(trial: pods.Trial) -> None:
    ordered = trial.order({"max_iter": 400})
    others: list[Any] = []

    def beside(number: int, trigger: Any) -> None:
        if number == 1:
            others.append(trial.run(ordered))  # from its execute to its end, while the first is deferred

    first = trial.run(ordered, deferred=beside)
    assert first == others[0]
    assert [len(trial.pods(pool)) for pool in ("gpu-a", "gpu-b")] == [1, 0]
    assert trial.attempts(ordered) == [("gpu-a", "succeeded")]


def test_a_lost_node_is_a_capacity_fault_and_the_job_goes_on_elsewhere(trial: pods.Trial) -> None:
    ordered = trial.order({"max_iter": 1500, "learning_rate": 0.01})
    double = trial.clusters["gpu-a"]

    def lose(number: int, trigger: Any) -> None:
        if number == 1:
            until(lambda: double.history[0].started)
            double.node_lost("gpu-a-1")

    assert trial.run(ordered, deferred=lose)["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered)[0] == ("gpu-a", "interrupted")


def test_s2_no_credential_stands_in_pod_trigger_or_record(trial: pods.Trial) -> None:
    seen: list[str] = []
    ordered = trial.order()
    double = trial.clusters["gpu-a"]

    def look(number: int, trigger: Any) -> None:
        seen.append(json.dumps(trigger.serialize()[1], default=str))
        found = api(double).list_namespaced_pod("training-gpu-a", _preload_content=False)
        seen.append(found.data.decode())

    trial.run(ordered, deferred=look)
    site = trial.platform.active_site("personal")
    prefix = ordered.key.removesuffix("order.json")
    seen += [site.read(ordered.bucket, one.key).decode("latin-1") for one in site.list(ordered.bucket, prefix)]
    secrets = [trial.platform.connections(name).password for name in ("s3_primary", "mlflow")]
    text = "\n".join(seen)
    assert ordered.job_id in text
    assert not [one for one in (*secrets, double.admin_token) if one in text]
    assert not api(double).list_namespaced_secret("training-gpu-a").items, "the secret went with its pod"
