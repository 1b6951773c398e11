"""Jobs on several nodes through Kubeflow Trainer: shortage, evictions and wrong nodes, through the real operator.

The clusters are doubles whose Trainer creates the pods (tests/kubernetes_double/trainer.py). A stub replaces the job,
except in one test.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import TrainingError
from rempart.flows.shared.platform import Platform
from rempart.training.kubernetes import train_job
from tests import pods
from tests.api_cluster import small_pod
from tests.faults.held_jobs import hold
from tests.nodes import (
    SHORT,
    STAYS,
    WITH_RUNTIME,
    api,
    custom,
    jobs,
    leave_result,
    muted,
    on_two_nodes,
    posted,
    progress,
    published,
    rank_of,
    until,
)
from tests.unit.training import stage

pytestmark = [pytest.mark.tracking, pytest.mark.full]


IMPATIENT = dict.fromkeys(pods.POOLS, WITH_RUNTIME) | {"gpu-a": WITH_RUNTIME | {"max_pending": "6s"}}
"""Pools of which a test waits until the first one's `max_pending` is over."""
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


TRAINER = stage.project_file(".venv-trainer/bin/python")


def test_two_nodes_run_and_the_evidence_lists_both(trial: pods.Trial) -> None:
    ordered = trial.order()
    assert [option["nodes"] for option in ordered.plan["options"]] == [2, 2]
    muted(
        trial,
        "import os, time\n"
        "names = ('PET_NNODES', 'PET_NODE_RANK', 'PET_MASTER_ADDR', 'PET_MASTER_PORT', 'AIRFLOW_CONN_MLFLOW')\n"
        "print('seen', *[bool(os.environ[name]) for name in names], os.environ['PET_NODE_RANK'], flush=True)\n"
        "time.sleep(2)",
    )
    double = trial.clusters["gpu-a"]

    def written(number: int, trigger: Any) -> None:
        if number == 1:
            until(lambda: [pod_seen for pod_seen in double.history if pod_seen.started])
            leave_result(trial, ordered)

    ran = trial.run(ordered, deferred=written)["placement"]
    assert ran["node"] == "gpu-a-1, gpu-a-2" and ran["gpus"] == 2 and ran["gpu_type"] == "NVIDIA-L4"
    assert {node["node"] for node in ran["nodes"]} == {"gpu-a-1", "gpu-a-2"}
    assert ran["image"].endswith(pods.IMAGE.partition("@")[2]) and ran["seconds"] > 0
    placed = trial.platform.ledger.find("placement")[0].body
    assert placed["ran"] == ran and placed["outcome"] == "succeeded"
    assert [seen.exit_code for seen in trial.pods("gpu-a")] == [0, 0]
    until(lambda: all(pod_seen.deleted for pod_seen in double.history))
    assert not jobs(double, "gpu-a") and not api(double).list_namespaced_secret("training-gpu-a").items
    assert not trial.pods("gpu-b") and not trial.pods("gpu-us")
    assert posted(double, "trainjobs") == 1 and posted(double, "secrets") == 1


def test_one_node_outside_the_policy_and_neither_gets_credentials(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, dict.fromkeys(pods.POOLS, WITH_RUNTIME | {"max_pending": "20s"}))
    with on_two_nodes(platform, home, monkeypatch, {"gpu-a": 0}) as trial:
        ordered = dataclasses.replace(trial.order(), free={})
        muted(trial, SHORT)
        double = trial.clusters["gpu-a"]

        def abroad(number: int, trigger: Any) -> None:
            if number == 1:
                double.add_node("gpu-a-3", {pods.REGION: "par"}, {pods.GPU: "1"})
                until(lambda: all(pod_seen.node for pod_seen in double.history))
                # it turns out to stand elsewhere
                api(double).patch_node("gpu-a-3", {"metadata": {"labels": {pods.REGION: "east"}}})
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=abroad)["placement"]["pool"] == "gpu-b"
        assert trial.attempts(ordered) == [("gpu-a", "denied"), ("gpu-b", "succeeded")]
        assert [(pod_seen.started, bool(pod_seen.node)) for pod_seen in double.history] == [(None, True)] * 2
        assert not posted(double, "secrets") and not jobs(double, "gpu-a")
        until(lambda: all(pod_seen.deleted for pod_seen in double.history))
        assert "east" in str(trial.platform.ledger.find("denial")[0].body)


def test_pods_that_somebody_changed_the_runtime_of_get_no_credentials(trial: pods.Trial) -> None:
    double = trial.clusters["gpu-a"]
    settings = trial.platform.config
    runtime = train_job.runtime(settings, "gpu-a")
    spec = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    stranger = spec["containers"][0] | {"name": "concurrently", "image": f"docker.io/library/x@sha256:{'cd' * 32}"}
    where = (train_job.GROUP, train_job.VERSION, "training-gpu-a", train_job.RUNTIMES)
    body = [
        {
            "op": "add",
            "path": "/spec/template/spec/replicatedJobs/0/template/spec/template/spec/containers/-",
            "value": stranger,
        }
    ]
    custom(double).patch_namespaced_custom_object(*where, "rempart", body, _content_type="application/json-patch+json")
    ordered = trial.order()
    muted(trial, SHORT)

    def written(number: int, trigger: Any) -> None:
        if trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
    first = trial.job(ordered).attempts()[0]
    assert first.outcome == "denied" and "docker.io" in first.cause
    assert not posted(double, "secrets") and not any(pod_seen.exit_code is not None for pod_seen in double.history)


def test_a_pool_with_room_for_one_node_only_runs_none_of_them(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, IMPATIENT)
    with on_two_nodes(platform, home, monkeypatch, {"gpu-a": 0}) as trial:
        ordered = dataclasses.replace(trial.order(), free={})  # as if the cluster had not told
        muted(trial, SHORT)
        double = trial.clusters["gpu-a"]

        def written(number: int, trigger: Any) -> None:
            if trial.attempts(ordered)[-1] == ("gpu-b", None):
                leave_result(trial, ordered)

        assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
        first = trial.job(ordered).attempts()[0]
        assert (first.outcome, "Insufficient nvidia.com/gpu" in first.cause) == ("capacity", True)
        until(lambda: all(pod_seen.deleted for pod_seen in double.history))
        assert len(double.history) == 2 and not any(pod_seen.started for pod_seen in double.history)
        assert not posted(double, "secrets") and not jobs(double, "gpu-a")


def test_a_quota_that_refuses_a_pod_of_it_sends_the_job_to_the_next_pool(trial: pods.Trial, home: Path) -> None:
    pods.project(home, IMPATIENT)
    quota = {"metadata": {"name": "gpu"}, "spec": {"hard": {f"requests.{pods.GPU}": "2"}}}
    api(trial.clusters["gpu-a"]).create_namespaced_resource_quota("training-gpu-a", quota)
    somebody = small_pod(pods.IMAGE, "gpu-a-1", "import time; time.sleep(600)", gpus=1)
    api(trial.clusters["gpu-a"]).create_namespaced_pod("training-gpu-a", somebody)
    ordered = dataclasses.replace(trial.order(), free={})
    muted(trial, SHORT)

    def written(number: int, trigger: Any) -> None:
        if trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
    first = trial.job(ordered).attempts()[0]
    assert first.outcome == "capacity" and "exceeded quota" in first.cause and "1 of 2 pods exist" in first.cause


def test_an_eviction_of_one_node_interrupts_the_attempt_and_the_next_goes_on(trial: pods.Trial) -> None:
    ordered = trial.order()
    muted(trial, STAYS)
    double = trial.clusters["gpu-a"]

    def evict(number: int, trigger: Any) -> None:
        if number == 1:
            until(lambda: len([pod_seen for pod_seen in double.history if pod_seen.started]) == 2)
            muted(trial, SHORT)
            double.evict(double.history[1].name, "training-gpu-a")
        elif trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    assert trial.run(ordered, deferred=evict)["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
    assert "low on resource" in trial.job(ordered).attempts()[0].cause
    until(lambda: all(pod_seen.deleted for pod_seen in double.history))
    assert not jobs(double, "gpu-a")


def test_a_lost_machine_interrupts_the_attempt(trial: pods.Trial) -> None:
    ordered = trial.order()
    muted(trial, STAYS)
    double = trial.clusters["gpu-a"]

    def lose(number: int, trigger: Any) -> None:
        if number == 1:
            until(lambda: len([pod_seen for pod_seen in double.history if pod_seen.started]) == 2)
            muted(trial, SHORT)
            double.node_lost("gpu-a-2")
        elif trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)

    assert trial.run(ordered, deferred=lose)["placement"]["pool"] == "gpu-b"
    assert trial.attempts(ordered)[0] == ("gpu-a", "interrupted")


def test_a_failure_of_the_code_on_one_node_fails_at_once_with_its_last_lines(trial: pods.Trial) -> None:
    muted(
        trial,
        "import os, sys, time\n"
        "if os.environ['PET_NODE_RANK'] == '1': sys.exit('no such column: colour')\n"
        "time.sleep(600)",
    )
    ordered = trial.order()
    with pytest.raises(TrainingError, match=r"(?s)-node-0-1-.*exit status 1.*no such column: colour"):
        trial.run(ordered)
    assert trial.attempts(ordered) == [("gpu-a", "failed")]
    assert not trial.pods("gpu-b") and not jobs(trial.clusters["gpu-a"], "gpu-a")


def test_nodes_that_end_well_without_a_result_are_a_failure(trial: pods.Trial) -> None:
    muted(trial, "print('nothing to see')")
    with pytest.raises(TrainingError, match=r"(?s)stored no result.*nothing to see"):
        trial.run(trial.order())


def test_a_job_that_runs_longer_than_it_may_is_ended(trial: pods.Trial) -> None:
    trainer = trial.pipeline.trainer.model_copy(update={"timeout": trial.pipeline.trainer.timeout / 6})
    trial.pipeline = trial.pipeline.model_copy(update={"trainer": trainer})
    ordered = trial.order()
    muted(trial, STAYS)
    with pytest.raises(TrainingError, match=r"(?s)trainer\.timeout.*rank [01]"):
        trial.run(ordered)
    assert trial.attempts(ordered) == [("gpu-a", "failed")]


def test_an_image_that_cannot_be_pulled_sends_the_job_to_the_next_pool(trial: pods.Trial) -> None:
    trial.clusters["gpu-a"].remove_image(pods.IMAGE)
    ordered = trial.order()

    def written(number: int, trigger: Any) -> None:
        if trial.attempts(ordered)[-1] == ("gpu-b", None):
            leave_result(trial, ordered)
            api(trial.clusters["gpu-b"]).delete_namespaced_pod(trial.pods("gpu-b")[0].name, "training-gpu-b")

    assert trial.run(ordered, deferred=written)["placement"]["pool"] == "gpu-b"
    assert "image cannot be pulled" in trial.job(ordered).attempts()[0].cause


def test_a_pool_without_a_runtime_is_never_asked_for_several_nodes(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.project(home, {"gpu-b": WITH_RUNTIME, "gpu-a": {"max_gpus": 4}})
    with on_two_nodes(platform, home, monkeypatch) as trial:
        ordered = trial.order()
        assert [option["pool"] for option in ordered.plan["options"]] == ["gpu-b"]
        (out,) = [excluded for excluded in ordered.plan["excluded"] if excluded["pool"] == "gpu-a"]
        assert "gpu_pools.gpu-a.runtime: not set, but the job needs 2 nodes" in out["reasons"][0]


def test_no_credential_stands_in_train_job_pods_trigger_or_record(trial: pods.Trial) -> None:
    seen: list[str] = []
    ordered = trial.order()
    muted(trial, "import time; time.sleep(2)")
    double = trial.clusters["gpu-a"]

    def look(number: int, trigger: Any) -> None:
        seen.append(json.dumps(trigger.serialize()[1], default=str))
        seen.append(json.dumps(jobs(double, "gpu-a")))
        found = api(double).list_namespaced_pod("training-gpu-a", _preload_content=False)
        seen.append(found.data.decode())
        leave_result(trial, ordered)

    trial.run(ordered, deferred=look)
    site = trial.platform.active_site("personal")
    prefix = ordered.key.removesuffix("order.json")
    seen += [site.read(ordered.bucket, info.key).decode("latin-1") for info in site.list(ordered.bucket, prefix)]
    secrets = [trial.platform.connections(name).password for name in ("s3_primary", "mlflow")]
    text = "\n".join(seen)
    assert ordered.job_id in text and "secretKeyRef" in text
    assert not [secret for secret in (*secrets, double.token) if secret in text]


def test_a_network_trains_on_two_nodes_through_an_eviction_and_registers(
    trial: pods.Trial,
) -> None:
    if not TRAINER.is_file():
        pytest.skip("there is no .venv-trainer: `make setup-trainer` creates it")
    published(trial, TRAINER.parent)
    hold(trial, 300)
    ordered = trial.order({"epochs": 400, "batch_size": 64, "hidden": "16"})
    double = trial.clusters["gpu-a"]
    evicted: list[int] = []

    def evict(number: int, trigger: Any) -> None:
        if not evicted:
            until(lambda: (progress(trial, "gpu-a") or 0) >= 300, 240)
            evicted.append(progress(trial, "gpu-a") or 0)
            double.evict(rank_of(trial, "gpu-a", 1), "training-gpu-a")

    ran = trial.run(ordered, deferred=evict)["placement"]
    assert trial.attempts(ordered) == [("gpu-a", "interrupted"), ("gpu-b", "succeeded")]
    assert ran["node"] == "gpu-b-1, gpu-b-2" and ran["gpus"] == 2
    registered = trial.finish(ordered)
    assert registered.metrics and registered.placement == ran
    work = trial.job(ordered).result().work
    assert work.resumed_from > 0
    # one model, one result, and the evidence of the candidate names both machines
    candidate = trial.platform.ledger.find("candidate")[0].body
    assert candidate["placement"]["node"] == "gpu-b-1, gpu-b-2" and "nodes" not in candidate["placement"]
    print(f"{work.steps} steps, evicted at {evicted[0]}, resumed from {work.resumed_from}")
