"""Pods of a Spark job: restricted, bounded, without a credential in them, and executors that wait to be judged."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.pipeline_sections import SparkResources
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty import pods as policy
from rempart.sovereignty.pool_pods import QUEUE
from rempart.spark.kubernetes import labels, pods
from rempart.spark.order import OrderedAt, SparkOrder, parse_place
from rempart.training.kubernetes import pod as training
from tests.kubernetes_double.pod_security import violations
from tests.unit.spark.orders import PERMISSION, PLACE, order
from tests.unit.training.kubernetes.test_pod import POOL
from tests.unit.training.test_placement import IMAGE, config

TODAY = date(2026, 11, 1)
CONFIG = config(a=POOL)
AT = OrderedAt(site=PLACE, classification="personal", bucket="lake", key="o", sha256="e" * 64, permission=PERMISSION)
RESOURCES = SparkResources(executors=3, cores=2, memory=1500, driver_memory=900)


def executor(ordered: SparkOrder | None = None) -> dict[str, Any]:
    return pods.executor_template(ordered or order(resources=RESOURCES), 2, CONFIG.gpu_pools["a"], IMAGE, seconds=600)


def driver() -> dict[str, Any]:
    return pods.driver(order(resources=RESOURCES), 2, CONFIG.gpu_pools["a"], IMAGE, AT, executor(), seconds=600)


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") or each["valueFrom"] for each in pod["spec"]["containers"][0]["env"]}


def test_the_driver_passes_the_policy_and_the_restricted_profile() -> None:
    planned = policy.plan(CONFIG, driver(), connection="k8s_a", on=TODAY)
    assert planned.pod is not None, planned.decision.explain()
    assert violations(planned.pod["spec"], "restricted") == []
    assert planned.pod["spec"]["automountServiceAccountToken"] is False
    assert planned.pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_an_executor_is_restricted_by_itself_since_spark_makes_it() -> None:
    spec = executor()["spec"]
    assert violations(spec, "restricted") == [] and spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert spec["automountServiceAccountToken"] is False and "serviceAccountName" not in spec
    assert not any("projected" in volume for volume in spec["volumes"])
    planned = policy.plan(CONFIG, executor(), connection="k8s_a", on=TODAY)
    assert planned.pod is not None, planned.decision.explain()


def test_an_executor_waits_at_its_gate_and_a_driver_for_its_secret() -> None:
    assert executor()["spec"]["schedulingGates"] == [{"name": labels.GATE}]
    assert "schedulingGates" not in driver()["spec"]
    for pod in (driver(), executor()):
        (volume,) = [each for each in pod["spec"]["volumes"] if "secret" in each]
        assert volume["secret"]["secretName"] == labels.name(order().order_id, 2)
        assert not volume["secret"].get("optional")


def test_what_a_pod_may_use_is_bounded_and_the_same_as_it_asks_for() -> None:
    for pod, cpu, memory, disk in ((driver(), "1", "1924Mi", "13Gi"), (executor(), "2", "2908Mi", "23Gi")):
        resources = pod["spec"]["containers"][0]["resources"]
        wanted = {"cpu": cpu, "memory": memory, "ephemeral-storage": disk}
        assert resources == {"requests": wanted, "limits": wanted}
        assert all(volume["emptyDir"].get("sizeLimit") for volume in pod["spec"]["volumes"] if "emptyDir" in volume)
        assert pod["spec"]["activeDeadlineSeconds"] == 600


def test_labels_are_those_by_which_the_platform_finds_pods_of_jobs() -> None:
    assert (labels.JOB, labels.ATTEMPT, labels.PIPELINE) == (training.JOB, training.ATTEMPT, training.PIPELINE)
    for pod, role in ((driver(), labels.DRIVER), (executor(), labels.EXECUTOR)):
        found = pod["metadata"]["labels"]
        assert found[QUEUE] == "gpu" and found[policy.LABEL] == "personal" and found[labels.ROLE] == role
        chosen = dict(part.split("=") for part in labels.selector(order().order_id, 2, role).split(","))
        assert chosen.items() <= found.items()
    assert driver()["metadata"]["name"] == f"spark-{order().order_id}-2"


def test_the_driver_is_told_where_its_order_is_and_what_its_executors_look_like() -> None:
    told = variables(driver())
    assert parse_place(told[pods.ORDER]) == AT
    assert json.loads(told[pods.TEMPLATE]) == executor()
    assert told[pods.ADDRESS]["fieldRef"]["fieldPath"] == "status.podIP"
    assert TELEMETRY_OFF.items() <= told.items() and TELEMETRY_OFF.items() <= variables(executor()).items()


@given(st.text(min_size=8, max_size=64), st.text(max_size=40))
def test_the_secret_goes_with_the_driver_and_has_the_files_that_pods_read(proven: str, held: str) -> None:
    made = driver()
    made["metadata"]["uid"] = "u-1"
    found = pods.secret(made, proven, held)
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", made["metadata"]["name"], "u-1")
    assert found["immutable"] and sorted(found["stringData"].values()) == sorted((proven, held))
    for pod in (driver(), executor()):
        container = pod["spec"]["containers"][0]
        (mount,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "credentials"]
        files = {value for value in variables(pod).values() if isinstance(value, str) and value.startswith(mount)}
        assert files == {f"{mount}/{name}" for name in found["stringData"]}
