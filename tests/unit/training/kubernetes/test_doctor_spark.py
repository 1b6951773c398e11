"""The doctor of a pool to which Spark jobs are sent: account, rights, image and the way to the API."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rempart.settings.pipeline_sections import SparkJobs
from rempart.sovereignty.pods import REGION
from rempart.spark.kubernetes.pods import ACCOUNT, BLOCK_PORT, DRIVER_PORT
from rempart.training.kubernetes import doctor_spark
from rempart.training.kubernetes.facts import ENTRY_POINT, KUBERNETES_API, Probe, Reached, SparkFacts, Unknown
from rempart.training.kubernetes.rights import Right
from tests.unit.training.kubernetes.healthy_pool import CONFIG, HEALTHY, fails, findings

SPARK = SparkJobs(backend="kubernetes", image=f"good.example.eu/spark@sha256:{'b' * 64}")
ON_SPARK = CONFIG.model_copy(update={"spark": SPARK})
WELL = SparkFacts(
    True, dict.fromkeys(doctor_spark.needed(), True), ("10.0.0.1/32 port 6443",), doctor_spark.PORTS | {1}
)


def test_a_pool_without_spark_is_not_asked_for_it() -> None:
    found = findings(HEALTHY)
    assert found["spark account"].outcome == found["spark api"].outcome == "ok" and "spark image" not in found
    assert doctor_spark.ACCOUNT == ACCOUNT and REGION


def test_a_pool_that_has_what_a_driver_needs_passes_with_its_own_image_alone() -> None:
    found = findings(replace(HEALTHY, spark=WELL), ON_SPARK)
    assert not fails(replace(HEALTHY, spark=WELL), ON_SPARK)
    assert found["spark image"].outcome == "ok" and "image" not in found  # no training job is sent there


@pytest.mark.parametrize(
    ("spark", "why"),
    [
        (replace(WELL, account=False), "does not exist"),
        (replace(WELL, account=Unknown("500: down", 500)), "could not be read: 500"),
        (replace(WELL, may=dict(WELL.may) | {Right("watch", "pods"): False}), "lacks these rights: watch pods"),  # type: ignore[arg-type]
        (replace(WELL, may=dict(WELL.may) | {Right("patch", "pods"): True}), "may do too much: patch pods"),  # type: ignore[arg-type]
        (replace(WELL, may=Unknown("403: forbidden", 403)), "403"),
    ],
)
def test_an_account_that_is_not_as_granted_fails(spark: SparkFacts, why: str) -> None:
    found = findings(replace(HEALTHY, spark=spark), ON_SPARK)["spark account"]
    assert found.outcome == "FAIL" and why in found.found


@pytest.mark.parametrize("api", [(), (f"{doctor_spark.NOWHERE} port 6443",)])
def test_a_driver_that_may_not_reach_the_api_is_a_warning(api: tuple[str, ...]) -> None:
    found = findings(replace(HEALTHY, spark=replace(WELL, api=api)), ON_SPARK)["spark api"]
    assert found.outcome == "warn" and "kubectl get endpoints" in found.remedy


def test_the_port_of_the_api_is_told_and_the_ports_between_pods_are_checked() -> None:
    found = findings(replace(HEALTHY, spark=WELL), ON_SPARK)
    assert "10.0.0.1/32 port 6443" in found["spark api"].found and found["spark ports"].outcome == "ok"
    assert {DRIVER_PORT, BLOCK_PORT} == doctor_spark.PORTS
    closed = findings(replace(HEALTHY, spark=replace(WELL, ports=frozenset({7078}))), ON_SPARK)["spark ports"]
    assert closed.outcome == "warn" and "TCP 7079" in closed.found


def test_an_api_that_the_probe_does_not_reach_is_a_failure_with_its_own_remedy() -> None:
    reached = (Reached(ENTRY_POINT, True, "ready"), Reached(f"{KUBERNETES_API} at 10.96.0.1:443", False, "timed out"))
    probe = Probe("doctor-1", True, "exit status 1", "gpu-1", reached)
    found = findings(replace(HEALTHY, spark=WELL, probe=probe), ON_SPARK)["reach"]
    assert found.outcome == "FAIL" and "kubectl get endpoints" in found.remedy
    old = replace(probe, reached=(Reached(ENTRY_POINT, False, "the image has code 1"),))
    assert "--target spark" in findings(replace(HEALTHY, spark=WELL, probe=old), ON_SPARK)[ENTRY_POINT].remedy


def test_a_cluster_that_refuses_access_says_nothing_of_spark() -> None:
    found = findings(replace(HEALTHY, version=Unknown("401: no", 401)), ON_SPARK)
    assert {found[check].outcome for check in doctor_spark.CHECKS} == {"not run"}
