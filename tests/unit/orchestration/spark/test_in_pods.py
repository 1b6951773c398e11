"""A Spark job in pods: who gets which node and the Secret, what is lost and found again, and what is on record."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException

from rempart.errors import ConnectionMissing, PlacementDenied, PoolUnavailable, SparkError, SparkInterrupted
from tests.clusters import REGION, until
from tests.spark_pods import KEY, NAMESPACE, SparkTrial, spark_trial
from tests.unit.spark.orders import order

pytestmark = pytest.mark.airflow


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SparkTrial]:
    with spark_trial(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns what was logged, to the terminal once Airflow has set up its log."""
    return lambda: caplog.text + capsys.readouterr().out


def meanwhile(work: Callable[[], None]) -> Callable[[], None]:
    """Start work in a thread; what is returned waits for its end and raises its error."""
    errors: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=caught, daemon=True)
    thread.start()

    def end() -> None:
        thread.join(30)
        if errors:
            raise errors[0]

    return end


def test_executors_run_where_the_law_holds_and_the_record_says_where_and_how_long(
    trial: SparkTrial, told: Callable[[], str]
) -> None:
    assert trial.run().order_id == trial.ordered.order_id
    made = {pod.name: pod for pod in trial.double.history}
    name = f"spark-{trial.ordered.order_id}-1"
    assert set(made) == {name, f"{name}-exec-1", f"{name}-exec-2"}
    (placed,) = trial.records("placement")
    assert placed["outcome"] == "succeeded" and placed["ran"]["pool"] == "gpu-a" and placed["ran"]["region"] == "par"
    assert {(pod["role"], pod["node"]) for pod in placed["ran"]["pods"]} == {
        ("driver", "gpu-a-1"),
        ("executor", "gpu-a-1"),
    }
    assert placed["ran"]["pod_seconds"] >= 0 and placed["ran"]["cost"]["price_per_executor_hour"] == 0.36
    log = told()
    assert "running: executors 2" in log  # the driver's own lines
    trial.gone()
    assert KEY not in log + json.dumps(trial.records("placement") + trial.records("decision")) + str(made)


def test_an_executor_gets_no_node_and_no_row_once_the_pool_s_node_left_the_law(trial: SparkTrial) -> None:
    trial.pace()

    def relabel() -> None:
        until(trial.running(1))
        trial.double.relabel("gpu-a-1", REGION, "east")
        trial.say("go")

    end = meanwhile(relabel)
    with pytest.raises(PlacementDenied, match="no pool may run it"):
        trial.run()
    end()
    executors = [pod for pod in trial.double.history if "-exec-" in pod.name]
    assert executors and not any(pod.node for pod in executors)
    (denial,) = trial.records("denial")
    assert "topology.kubernetes.io/region is east, but par is declared" in denial["reasons"][0]
    assert [placed["outcome"] for placed in trial.records("placement")] == ["denied"]
    trial.gone()


def test_a_driver_that_is_bound_outside_the_law_gets_no_secret(trial: SparkTrial) -> None:
    trial.double.remove_node("gpu-a-1")
    trial.monkeypatch.setattr("rempart.sovereignty.pods._hold_in_region", lambda *_: None)  # as if a cluster ignored it
    with pytest.raises(PlacementDenied, match="region is east"):
        trial.run()
    assert [(pod.name[-1], pod.node) for pod in trial.double.history] == [("1", "oregon-1")]
    assert trial.secrets() == [] and not trial.records("placement") and len(trial.records("denial")) == 1


def test_a_node_that_leaves_the_law_under_a_running_executor_ends_the_job(trial: SparkTrial) -> None:
    trial.pace()
    trial.say("go")

    def relabel() -> None:
        until(trial.running(3))
        trial.double.relabel("gpu-a-1", REGION, "east")

    end = meanwhile(relabel)
    with pytest.raises(PlacementDenied):
        trial.run(judge_again=0.2)
    end()
    trial.gone()
    (placed,) = trial.records("placement")
    assert placed["outcome"] == "denied" and len(placed["ran"]["pods"]) == 3


def test_an_evicted_driver_runs_once_more_and_there_is_one_result(trial: SparkTrial) -> None:
    trial.pace()

    def evict() -> None:
        until(trial.running(1))
        trial.double.evict(f"spark-{trial.ordered.order_id}-1", NAMESPACE, grace=0)
        trial.say("go", "finish")

    end = meanwhile(evict)
    assert trial.run().order_id == trial.ordered.order_id
    end()
    placed = [(each["attempt"], each["outcome"]) for each in trial.records("placement")]
    assert placed == [(1, "interrupted"), (2, "succeeded")]


def test_a_driver_that_is_lost_twice_is_an_error_that_is_worth_a_retry(trial: SparkTrial) -> None:
    trial.pace()

    def runs(name: str) -> bool:
        return name in trial.pods() and trial.pods()[name].status.phase == "Running"

    def evict() -> None:
        for number in (1, 2):
            name = f"spark-{trial.ordered.order_id}-{number}"
            until(partial(runs, name))
            trial.double.evict(name, NAMESPACE, grace=0)

    end = meanwhile(evict)
    with pytest.raises(SparkInterrupted, match="lost twice") as lost:
        trial.run()
    end()
    assert lost.value.transient


def test_a_driver_whose_task_died_is_followed_and_not_made_again(trial: SparkTrial) -> None:
    from rempart.orchestration.spark.attempt import Attempt

    trial.pace()
    over = Attempt._over

    def dies(self: Attempt, driver: dict[str, object], now: object) -> None:
        if driver["status"]["phase"] == "Running":  # type: ignore[index]
            raise ApiException(status=500)

    trial.monkeypatch.setattr(Attempt, "_over", dies)
    with pytest.raises(PoolUnavailable):
        trial.run()
    trial.monkeypatch.setattr(Attempt, "_over", over)
    trial.say("go", "finish")
    assert trial.run().order_id == trial.ordered.order_id
    assert sum("-exec-" not in pod.name for pod in trial.double.history) == 1
    assert [each["attempt"] for each in trial.records("placement")] == [1]


def test_a_job_whose_task_died_after_its_result_is_put_on_record_and_leaves_nothing(trial: SparkTrial) -> None:
    from rempart.flows.distributed.pods import SparkPods

    def dies(*_: object, **__: object) -> None:
        raise OSError("the task's machine is gone")

    with trial.monkeypatch.context() as lost:
        lost.setattr(SparkPods, "ended", dies)
        with pytest.raises(OSError, match="gone"):
            trial.run()
    assert trial.pods() and not trial.records("placement")
    assert trial.run().order_id == trial.ordered.order_id
    assert [placed["outcome"] for placed in trial.records("placement")] == ["succeeded"]
    trial.gone()


def test_a_task_that_comes_late_lets_executors_pass_before_it_says_that_the_pool_has_no_place(
    trial: SparkTrial,
) -> None:
    from rempart.orchestration.spark.attempt import Attempt

    trial.pace()
    trial.say("go", "finish")
    admit = Attempt._admit

    def dies(self: Attempt, driver: dict[str, object], place: dict[str, object]) -> None:
        admit(self, driver, place)
        raise ApiException(status=500)

    with trial.monkeypatch.context() as lost:
        lost.setattr(Attempt, "_admit", dies)
        with pytest.raises(PoolUnavailable):
            trial.run()
    until(lambda: len(trial.pods()) == 3)  # the driver and two executors, for which nobody opens the gate
    began = next(pod.status.start_time for name, pod in trial.pods().items() if "-exec-" not in name)
    real, hour = Attempt._alone, timedelta(hours=1)

    def late(self: Attempt, driver: dict[str, object], found: list[object], now: datetime) -> object:
        aged = {**driver, "status": driver["status"] | {"startTime": (began - hour).isoformat()}}  # type: ignore[operator]
        return real(self, aged, found, now)  # type: ignore[arg-type]

    trial.monkeypatch.setattr(Attempt, "_alone", late)
    assert trial.run().order_id == trial.ordered.order_id
    assert [placed["outcome"] for placed in trial.records("placement")] == ["succeeded"]


def test_a_pod_that_takes_the_secret_under_no_label_ends_the_attempt_and_is_deleted(trial: SparkTrial) -> None:
    trial.pace()
    name = f"spark-{trial.ordered.order_id}-1"

    def steal() -> None:
        until(trial.running(1))
        driver = trial.pods()[name]
        plain = trial.double.client().api_client.sanitize_for_serialization(driver)
        template = json.loads(
            next(each["value"] for each in plain["spec"]["containers"][0]["env"] if each["name"].endswith("TEMPLATE"))
        )
        template["metadata"] = {"name": "stranger", "namespace": NAMESPACE}
        del template["spec"]["schedulingGates"]
        trial.double.client().create_namespaced_pod(NAMESPACE, template)

    end = meanwhile(steal)
    with pytest.raises(PlacementDenied, match=r"stranger: .*does not belong"):
        trial.run()
    end()
    trial.gone()


def test_a_driver_that_somebody_else_made_is_not_adopted_and_gets_no_secret(trial: SparkTrial) -> None:
    from rempart.orchestration import runtime

    job = runtime.spark_pods(trial.platform, trial.site, trial.pipeline).job(trial.ordered)
    fake = job.driver(job.places()[0], 4, job.store())
    fake["spec"]["containers"][0]["command"] = ["python", "-c", "print('its own code')"]
    trial.double.client().create_namespaced_pod(NAMESPACE, fake)
    assert trial.run().order_id == trial.ordered.order_id
    assert [(placed["attempt"], placed["outcome"]) for placed in trial.records("placement")] == [(5, "succeeded")]
    trial.gone()


def test_a_quota_that_refuses_executors_costs_time_and_not_the_job(trial: SparkTrial, told: Callable[[], str]) -> None:
    body = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}
    trial.double.client().create_namespaced_resource_quota(NAMESPACE, body)
    trial.run()
    (placed,) = trial.records("placement")
    assert [pod["role"] for pod in placed["ran"]["pods"]] == ["driver", "executor"]
    assert "refused: status 403" in told()


def test_a_pool_without_a_place_for_one_executor_is_left_before_the_job_s_time_is_over(trial: SparkTrial) -> None:
    body = {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}}
    trial.double.client().create_namespaced_resource_quota(NAMESPACE, body)
    trial.pace()
    trial.say("go")
    trial.shorten("2s")
    with pytest.raises(PoolUnavailable, match="no executor was made"):
        trial.run()
    assert [placed["outcome"] for placed in trial.records("placement")] == ["capacity"]
    trial.gone()


def test_of_two_drivers_that_leave_no_quota_for_executors_the_later_one_goes(trial: SparkTrial) -> None:
    body = {"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}}
    trial.double.client().create_namespaced_resource_quota(NAMESPACE, body)
    from rempart.orchestration import runtime

    first = order(output=trial.ordered.output, resources=trial.ordered.resources, parameters={"n": 1})
    job = runtime.spark_pods(trial.platform, trial.site, trial.pipeline).job(first)
    other = job.driver(job.places()[0], 1, job.store())
    trial.double.client().create_namespaced_pod(NAMESPACE, other)
    until(lambda: bool(trial.pods()[other["metadata"]["name"]].spec.node_name))
    time.sleep(1)  # the API's moments are whole seconds
    trial.pace()
    trial.say("go")
    trial.shorten("4s")
    with pytest.raises(PoolUnavailable, match=rf"in 0:00:02.*driver {other['metadata']['name']}, which came before"):
        trial.run()
    until(lambda: list(trial.pods()) == [other["metadata"]["name"]])


def test_a_driver_whose_executors_were_lost_for_good_does_not_hold_the_pool(trial: SparkTrial) -> None:
    from rempart.orchestration.spark.attempt import Attempt

    trial.pace()
    trial.say("go")
    trial.shorten("2s")
    seen, real = threading.Event(), Attempt._alone

    def look(self: Attempt, driver: dict[str, object], found: list[Any], now: datetime) -> object:
        if sum("startTime" in pod["status"] for pod in found) == 3:
            seen.set()
        over = real(self, driver, found, now)  # type: ignore[arg-type]
        return over if seen.is_set() else None  # however long the executors take to come

    trial.monkeypatch.setattr(Attempt, "_alone", look)

    def lose() -> None:
        assert seen.wait(120)
        for name in trial.pods():
            if "-exec-" in name:
                trial.double.client().delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)

    end = meanwhile(lose)
    with pytest.raises(PoolUnavailable, match="no executor was made in 0:00:02 after the last one was lost"):
        trial.run()
    end()
    trial.gone()


def test_a_pool_whose_connection_is_missing_is_left_for_the_next_one_and_that_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spark_trial(tmp_path, monkeypatch, gpu_pools=["gpu-b", "gpu-a"]) as trial:
        assert trial.run().order_id == trial.ordered.order_id
        left, placed = trial.records("placement")
    assert (left["ran"], left["outcome"]) == ({"pool": "gpu-b"}, "unreachable")
    assert "Airflow has no connection 'k8s_gpu_b'" in left["cause"]
    assert (placed["attempt"], placed["ran"]["pool"], placed["outcome"]) == (1, "gpu-a", "succeeded")


def test_a_connection_without_a_cluster_is_said_without_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.orchestration.clusters.connections import cluster_of

    held = {"conn_type": "kubernetes", "extra": {"kube_config": '{"clusters": "SECRET-7"}'}}
    monkeypatch.setenv("AIRFLOW_CONN_K8S_ODD", json.dumps(held))
    with pytest.raises(ConnectionMissing, match="'k8s_odd' names no cluster") as missing:
        cluster_of("k8s_odd")
    assert "SECRET-7" not in f"{missing.value} {missing.value.__cause__}"


def test_a_quota_that_refuses_the_driver_is_a_pool_without_a_place(trial: SparkTrial) -> None:
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    trial.double.client().create_namespaced_resource_quota(NAMESPACE, body)
    with pytest.raises(PoolUnavailable, match="quota"):
        trial.run()


def test_a_task_that_a_person_ends_takes_its_pods_along(trial: SparkTrial) -> None:
    trial.pace()
    trial.say("go")

    def ask() -> None:
        until(trial.running(3))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    end = meanwhile(ask)
    with pytest.raises(SparkInterrupted, match="the task was ended"):
        trial.run()
    end()
    trial.gone()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_that_fails_says_so_with_its_last_lines_and_does_not_run_again(trial: SparkTrial) -> None:
    trial.say("fail")
    with pytest.raises(SparkError, match="the rows are odd"):
        trial.run()
    assert len(trial.double.history) == 1


def test_executors_of_another_image_are_no_executors(trial: SparkTrial) -> None:
    from rempart.spark.kubernetes import pods as shape

    make = shape.executor_template

    def foreign(*given: object, **named: object) -> dict[str, object]:
        made = make(*given, **named)  # type: ignore[arg-type]
        made["spec"]["containers"][0]["image"] = "docker.io/library/elsewhere:1"
        return made

    trial.monkeypatch.setattr(shape, "executor_template", foreign)
    with pytest.raises(PlacementDenied, match=r"docker\.io/library/elsewhere:1"):
        trial.run()
    assert not any(pod.node for pod in trial.double.history if "-exec-" in pod.name)
