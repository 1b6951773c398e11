"""The session of a driver in a pod: the same rules as on one machine, no secret in it, and rights to pods alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import SparkError
from rempart.spark import session
from rempart.spark.kubernetes import pods, settings
from tests.unit.spark.kubernetes.test_pods import IMAGE, RESOURCES, driver, executor

VARIABLES = {
    pods.POD: "spark-a-1",
    pods.NAMESPACE: "training",
    pods.ADDRESS: "10.1.2.3",
    pods.SECRET_FILE: "/run/secrets/rempart/secret",
    pods.TEMPLATE: json.dumps(executor()),
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
}


def configuration(folder: Path, **changes: str) -> dict[str, str]:
    pod = settings.DriverPod.of(VARIABLES | changes)
    assert pod is not None
    return settings.configuration(RESOURCES, folder, pod, name="job")


def test_what_holds_on_one_machine_holds_in_pods(tmp_path: Path) -> None:
    found, here = configuration(tmp_path), session.fixed(tmp_path)
    assert {name for name in here if found[name] != here[name]} == {"spark.executor.extraJavaOptions"}


def test_no_secret_is_in_it_and_executors_read_it_from_a_file(tmp_path: Path) -> None:
    found = configuration(tmp_path)
    assert "spark.authenticate.secret" not in found
    assert found["spark.authenticate.secret.file"] == VARIABLES[pods.SECRET_FILE]


def test_executors_are_the_platforms_pods_and_as_large_as_their_template(tmp_path: Path) -> None:
    found = configuration(tmp_path)
    (container,) = executor()["spec"]["containers"]
    memory = sum(int(found[name].rstrip("m")) for name in ("spark.executor.memory", "spark.executor.memoryOverhead"))
    assert f"{memory}Mi" == container["resources"]["limits"]["memory"]
    assert found["spark.kubernetes.executor.request.cores"] == container["resources"]["limits"]["cpu"]
    assert found["spark.kubernetes.executor.container.image"] == IMAGE
    settings.write_template(tmp_path / "new", settings.DriverPod.of(VARIABLES))  # type: ignore[arg-type]  # it is one
    written = Path(configuration(tmp_path / "new")["spark.kubernetes.executor.podTemplateFile"])
    assert json.loads(written.read_text()) == executor()


def test_executors_go_with_their_driver_and_at_most_as_many_as_ordered(tmp_path: Path) -> None:
    found = configuration(tmp_path)
    assert found["spark.kubernetes.driver.pod.name"] == found["spark.kubernetes.executor.podNamePrefix"] == "spark-a-1"
    assert (found["spark.dynamicAllocation.minExecutors"], found["spark.dynamicAllocation.maxExecutors"]) == ("1", "3")
    assert found["spark.driver.host"] == found["spark.driver.bindAddress"] == "10.1.2.3"


@pytest.mark.parametrize("held", ["shuffleTracking.timeout", "cachedExecutorIdleTimeout"])
def test_no_executor_without_work_is_held_for_ever(tmp_path: Path, held: str) -> None:
    assert configuration(tmp_path)[f"spark.dynamicAllocation.{held}"] == "30m"  # Spark's own default is for ever


def test_the_api_is_that_of_the_cluster_in_which_the_driver_runs(tmp_path: Path) -> None:
    assert configuration(tmp_path)["spark.master"] == "k8s://https://10.0.0.1:443"
    other = configuration(tmp_path, KUBERNETES_MASTER="http://127.0.0.1:1")
    assert other["spark.master"] == "k8s://http://127.0.0.1:1"


def test_a_process_without_a_template_is_in_no_pod_and_one_variable_too_few_is_said() -> None:
    assert settings.DriverPod.of({}) is None
    with pytest.raises(SparkError, match=f"{pods.ADDRESS} is missing"):
        settings.DriverPod.of({name: value for name, value in VARIABLES.items() if name != pods.ADDRESS})
    with pytest.raises(SparkError, match="is not JSON"):
        settings.DriverPod.of(VARIABLES | {pods.TEMPLATE: "{"})


def test_a_driver_has_all_these_variables() -> None:
    told: list[dict[str, Any]] = driver()["spec"]["containers"][0]["env"]
    given = {each["name"] for each in told} | {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}  # by the kubelet
    assert set(VARIABLES) <= given
