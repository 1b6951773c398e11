"""Where a Spark job may run, what its pods get, and what is on record of it: without a cluster."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rempart.errors import ConfigError, PlacementDenied, SparkError
from rempart.flows.distributed import orders, pod_credentials
from rempart.flows.distributed.pods import PoolPlace, SparkPods, allowed_places, ending, where
from rempart.flows.training import check_pipeline
from rempart.ledger.attributed import AttributedLedger, Writer
from rempart.settings.config import Config, Connection, load
from rempart.spark.credentials import order_of
from rempart.spark.kubernetes import labels, usage
from rempart.spark.kubernetes import pods as shape
from rempart.spark.order import InputObject, parse_order
from tests import pods
from tests.clusters import REGION
from tests.unit.spark.orders import PERMISSION, order
from tests.unit.training import stage

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PIPELINE: Any = SimpleNamespace(name="stays_test", spark=SimpleNamespace(timeout=timedelta(hours=1)))
LOCAL: Any = "runs on this machine"
PODS: Any = "runs in pods"
HELD = Connection("s3_primary", "aws", login="x", password="SECRET-1", extra={"endpoint_url": "http://127.0.0.1:1"})


def configured(home: Path, **spark: Any) -> Config:
    """The pools of tests of pods, with Spark in pods of them."""
    file = pods.project(home) / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["spark"] = {"backend": "kubernetes", "image": pods.IMAGE, **spark}
    data["sites"]["primary"]["job_credentials"] = {"kind": "platform"}
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load(file)


@pytest.fixture
def job(tmp_path: Path) -> SparkPods:
    platform = stage.platform_in_memory(configured(tmp_path), lambda name: HELD)
    site = platform.sites["primary"]
    site.ensure_bucket("lake", versioned=True)
    known = (platform.config, platform.connections, platform.ledger, platform.clock, platform.record)
    return SparkPods(*known, PIPELINE, site, order(), json.dumps({"dag": "d", "run": "r", "task": "t"}))


def node(region: str = "par") -> dict[str, Any]:
    return {"metadata": {"name": "n1", "labels": {REGION: region}}, "spec": {"providerID": "cloud-a://par/n1"}}


def test_pools_are_tried_in_the_declared_order_and_those_outside_the_law_never(tmp_path: Path) -> None:
    config = configured(tmp_path, gpu_pools=["gpu-us", "gpu-b", "gpu-a"])
    places, reasons = allowed_places(config, "personal", "primary", NOON.date())
    assert [place.pool for place in places] == ["gpu-b", "gpu-a"]
    assert reasons and all(reason.startswith("pool gpu-us") for reason in reasons)


def test_a_pool_without_credentials_for_jobs_is_none_and_that_is_evidence(job: SparkPods) -> None:
    job.config.sites["primary"].__dict__["job_credentials"] = None
    with pytest.raises(PlacementDenied, match="job_credentials is not declared"):
        job.places()
    (denial,) = job.ledger.find("denial")
    assert denial.body["reasons"] == ["sites.primary.job_credentials is not declared"]


def test_the_order_is_stored_whole_and_its_permission_travels_beside_it(job: SparkPods) -> None:
    at = job.store()
    stored = parse_order(job.site.read(at.bucket, at.key, sha256=at.sha256))
    assert stored.permission is None and at.permission == PERMISSION and stored.order_id == job.order.order_id
    assert at.key.startswith(job.order.key("")) and job.store() == at  # the same again, by a task that is repeated


def test_a_driver_names_its_place_and_its_task_and_holds_no_secret(job: SparkPods) -> None:
    place, at = job.places()[0], job.store()
    made = job.driver(place, 3, at)
    text = json.dumps(made)
    assert "SECRET-1" not in text and made["metadata"]["name"] == labels.name(job.order.order_id, 3)
    assert json.loads(made["metadata"]["annotations"][labels.STARTED_BY])["task"] == "t"
    secret, shown = job.secret({**made, "metadata": made["metadata"] | {"uid": "u"}}, 3, at)
    assert "SECRET-1" in secret["stringData"][shape.CREDENTIALS_KEY] and "SECRET-1" not in shown
    assert len(secret["stringData"][shape.SECRET_KEY]) == 64


def test_the_record_of_an_attempt_has_nodes_seconds_and_cost_and_is_written_once(job: SparkPods) -> None:
    place = job.places()[0]
    ran = job.note(place, node())
    times = [
        usage.Ran("driver", "driver", "n1", NOON, NOON + timedelta(seconds=60)),
        usage.Ran("exec-1", "executor", "n1", NOON, NOON + timedelta(seconds=30)),
    ]
    for _ in range(2):
        job.ended(1, "succeeded", "exit status 0", ran, times)
    (record,) = job.ledger.find("placement")
    assert record.body["ran"]["pod_seconds"] == 90.0 and record.body["ran"]["region"] == "par"
    assert "no price declared" in record.body["ran"]["cost"]["why"]
    assert job.recorded() == [1]
    (attempt,) = where("kubernetes", job.ledger, job.order, None)["attempts"]
    assert attempt["pool"] == "gpu-a" and attempt["pods"][1] == {
        "pod": "exec-1",
        "role": "executor",
        "node": "n1",
        "seconds": 30.0,
    }


def test_a_run_pays_for_its_own_attempts_and_names_the_pools_that_it_left(job: SparkPods) -> None:
    pool = job.config.gpu_pools["gpu-a"]
    object.__setattr__(pool, "price_per_executor_hour", 0.36)
    place, first, second = job.places()[0], Writer("d", "monday", "t"), Writer("d", "tuesday", "t")
    for number, by in ((1, first), (2, second), (3, second)):
        of_run = dataclasses.replace(job, ledger=AttributedLedger(job.ledger, by))
        of_run.left(place, f"Airflow has no connection on {by.run}")
        times = [usage.Ran("driver", "driver", "n1", NOON, NOON + timedelta(seconds=100 * number))]
        of_run.ended(number, "interrupted", "its node is gone", job.note(place, node()), times)
    assert job.recorded() == [3, 2, 1]
    told = where("kubernetes", job.ledger, job.order, second)
    assert [each["attempt"] for each in told["attempts"]] == [2, 3]
    assert (told["pod_seconds"], told["euros"]) == (500.0, 0.05)
    assert told["left"][0] == {"pool": "gpu-a", "cause": "Airflow has no connection on tuesday"}


def test_a_driver_is_known_by_its_order_and_a_stranger_by_the_secret_that_it_asks_for(job: SparkPods) -> None:
    place, at = job.places()[0], job.store()
    ours = job.driver(place, 1, at)
    ours["metadata"]["uid"] = "d"
    stranger = {"metadata": {"name": "x", "namespace": place.namespace, "uid": "x"}, "spec": {"volumes": []}}
    stranger["spec"]["volumes"] = [{"name": "v", "secret": {"secretName": labels.name(job.order.order_id, 1)}}]
    unrelated = {"metadata": {"name": "y", "uid": "y"}, "spec": {}}
    of_next = {"metadata": {"name": "z", "labels": ours["metadata"]["labels"] | {labels.ATTEMPT: "2"}}, "spec": {}}
    found = job.own(1, [ours, stranger, unrelated, of_next])
    assert found == [ours, stranger]
    driver, other = job.seen(place, 1, at, found, ())
    assert driver.refusal == "" and driver.role == "driver"
    assert "to which it does not belong" in other.refusal
    tomorrow = at.model_copy(update={"permission": at.permission.model_copy(update={"decision": "e" * 64})})
    assert job.unlike(place, 1, tomorrow, ours) == ""  # a task that is repeated on another day goes on with it
    foreign = at.model_copy(update={"key": "spark/other/order.json"})
    assert job.unlike(place, 1, foreign, ours) == "it names another order"


def test_a_node_is_judged_by_what_its_label_says(job: SparkPods) -> None:
    (allowed,), (denied,) = (job.judged(job.places()[0], [node(region)]) for region in ("par", "east"))
    assert allowed.allowed and not denied.allowed and "region is east, but par is declared" in denied.why


def test_a_session_reads_folders_of_inputs_and_writes_only_its_own_place() -> None:
    made = order(
        inputs=tuple(
            InputObject(role="delivery", bucket="landing", key=key, sha256="a" * 64)
            for key in ("stays/a.csv", "stays/2026/b.csv", "stays/2026/c.csv")
        )
    )
    first, second, third = pod_credentials.policy(made)["Statement"]
    own = f"arn:aws:s3:::lake/spark/stays_test/{made.order_id}/*"
    assert first["Resource"] == ["arn:aws:s3:::landing/stays/*", own] and second["Resource"] == [own]
    assert third["Condition"] == {"StringLike": {"s3:prefix": [f"spark/stays_test/{made.order_id}/*"]}}
    assert "Delete" not in json.dumps([first, second, third])


def test_a_session_for_many_folders_has_the_one_that_holds_them_and_stays_short() -> None:
    inputs = tuple(
        InputObject(role="delivery", bucket="landing", key=f"stays/{number:04}/a.csv", sha256="a" * 64)
        for number in range(2000)
    )
    assert pod_credentials.policy(order(inputs=inputs))["Statement"][0]["Resource"][0] == "arn:aws:s3:::landing/stays/*"
    odd = InputObject(role="delivery", bucket="landing", key="a.csv", sha256="a" * 64)  # its folder is the whole bucket
    with pytest.raises(SparkError, match="cannot be limited"):
        pod_credentials.policy(order(inputs=(odd,)))


def test_the_end_of_a_driver_is_told_in_the_words_of_spark() -> None:
    def pod(state: dict[str, Any], **status: Any) -> dict[str, Any]:
        named = [{"name": shape.CONTAINER, "state": state}]
        return {"metadata": {}, "status": {"phase": "Failed", "containerStatuses": named, **status}}

    assert ending(pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))[0] == "failed"
    assert "spark.driver_memory" in ending(pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))[1]
    late = ending(pod({"terminated": {"exitCode": 143}}, reason="DeadlineExceeded"))
    assert late == ("failed", "it ran longer than `spark.timeout` (DeadlineExceeded)")
    assert ending(pod({"terminated": {"exitCode": 143}}, reason="Evicted", message="disk"))[0] == "interrupted"
    assert ending(pod({"terminated": {"exitCode": 75}}))[0] == "unreachable" and ending(None)[0] == "interrupted"
    assert ending(pod({"terminated": {"exitCode": 1, "reason": "Error"}}))[0] == "failed"


def test_only_a_task_of_airflow_makes_pods(job: SparkPods) -> None:
    with pytest.raises(SparkError, match="only tasks of Airflow make pods"):
        orders.declared_backend(job.config, LOCAL, None)
    assert orders.declared_backend(job.config, LOCAL, lambda: PODS) is PODS


def test_a_pipeline_is_checked_against_the_pools_and_needs_no_environment_of_spark(tmp_path: Path) -> None:
    pipeline = stage.pipeline(engine="spark")
    check_pipeline._has_place_for_spark(pipeline, configured(tmp_path))
    with pytest.raises(SparkError, match="no pool may run its jobs: pool gpu-us"):
        check_pipeline._has_place_for_spark(pipeline, configured(tmp_path, gpu_pools=["gpu-us"]))


@pytest.mark.parametrize(
    ("spark", "why"),
    [
        ({"gpu_pools": ["nowhere"]}, r"spark\.gpu_pools, entry 1: 'nowhere' is not one of gpu_pools"),
        ({"image": None}, r"spark\.image: give the image of its pods with its digest"),
        ({"image": "spark:latest"}, "spark.image"),
    ],
)
def test_a_section_that_no_job_could_run_by_is_refused(tmp_path: Path, spark: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        configured(tmp_path, **spark)


def test_the_driver_finds_its_order_by_what_its_pod_says(job: SparkPods, monkeypatch: pytest.MonkeyPatch) -> None:
    at = job.store()
    monkeypatch.setattr("rempart.spark.credentials.opened", lambda *_: job.site)
    assert order_of(at) == job.order
    place = PoolPlace("gpu-a", "k8s_gpu_a", "training-gpu-a", pods.IMAGE, timedelta(minutes=1))
    variables = {each["name"]: each.get("value") for each in job.driver(place, 1, at)["spec"]["containers"][0]["env"]}
    assert json.loads(str(variables[shape.ORDER]))["sha256"] == at.sha256
