"""A job's pod: restricted, by digest, without any credential in it; the pod owns its secret."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty import pods, pool_pods
from rempart.training.kubernetes import pod
from rempart.training.placement import Option, Request, plan
from tests.unit.training.test_job import spec
from tests.unit.training.test_placement import IMAGE, config

TODAY = date(2026, 11, 1)
POOL: dict[str, Any] = {
    "node_selector": {"topology.kubernetes.io/region": "par"},
    "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    "priority_class": "training",
    "queue": "gpu",
    "max_gpus": 8,
}


def option(gpus: int = 1) -> Option:
    return plan(config(a=POOL), Request("personal", gpus, timedelta(hours=1), ("a",)), on=TODAY).options[0]


def made(gpus: int = 1) -> dict[str, Any]:
    return pod.template(config(a=POOL), spec(), option(gpus), 3, seconds=1800)


def test_the_pod_passes_the_policy_and_the_restricted_profile() -> None:
    planned = pods.plan(config(a=POOL), made(), connection="k8s_a", on=TODAY)
    assert planned.pod is not None, planned.decision.explain()
    container = planned.pod["spec"]["containers"][0]
    assert container["image"] == IMAGE
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and security["runAsNonRoot"] and not security["allowPrivilegeEscalation"]
    assert planned.pod["spec"]["automountServiceAccountToken"] is False
    assert len(planned.pod["spec"]["containers"]) == 1


def test_requests_are_limits_and_name_the_pools_gpu() -> None:
    resources = made(2)["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"] == {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in made(0)["spec"]["containers"][0]["resources"]["limits"]


def test_processes_of_one_pod_have_shared_memory_and_a_pool_of_single_gpus_has_none() -> None:
    spec = made(2)["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "shared-memory"]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]
    alone = pool_pods.bare(config(a=POOL | {"max_gpus": 1}).gpu_pools["a"], "c")
    assert [volume["name"] for volume in alone["volumes"]] == ["scratch"]


def test_a_pod_stays_on_a_lost_node_no_longer_than_the_pool_says() -> None:
    found = made()["spec"]["tolerations"]
    assert found[0] == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    lost = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    assert found[1:] == [{"key": f"node.kubernetes.io/{why}"} | lost for why in ("not-ready", "unreachable")]


def test_a_declared_toleration_of_a_lost_node_is_the_only_one_for_it() -> None:
    mine = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "tolerationSeconds": 900}
    found = pool_pods.bare(config(a=POOL | {"tolerations": [mine], "node_lost_after": "5m"}).gpu_pools["a"], "c")[
        "tolerations"
    ]
    assert [(toleration["key"].partition("/")[2], toleration["tolerationSeconds"]) for toleration in found] == [
        ("unreachable", 900),
        ("not-ready", 300),
    ]


def test_no_library_phones_home_and_names_are_asked_of_the_cluster_alone() -> None:
    spec = made()["spec"]
    variables = {variable["name"]: variable["value"] for variable in spec["containers"][0]["env"]}
    assert TELEMETRY_OFF.items() <= variables.items()
    assert spec["dnsPolicy"] == "ClusterFirst" and "dnsConfig" not in spec


def test_one_attempt_has_one_name_and_the_jobs_identity() -> None:
    metadata = made()["metadata"]
    assert metadata["name"] == f"train-{spec().job_id}-3"
    assert metadata["labels"][pod.JOB] == spec().job_id
    assert metadata["labels"][pool_pods.QUEUE] == "gpu"
    assert metadata["labels"][pods.LABEL] == "personal"


def test_the_pod_waits_for_its_secret_and_holds_no_credential_itself() -> None:
    template = made()
    container = template["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": template["metadata"]["name"]}}]
    assert json.loads(
        next(variable["value"] for variable in container["env"] if variable["name"] == pod.SPEC_VARIABLE)
    )["job_id"]
    assert "AIRFLOW_CONN" not in json.dumps(template)


@given(st.dictionaries(st.sampled_from(["AIRFLOW_CONN_A", "AIRFLOW_CONN_B"]), st.text(max_size=20)))
def test_the_secret_goes_when_its_pod_goes(credentials: dict[str, str]) -> None:
    there = made()
    there["metadata"]["uid"] = "u-1"
    found = pod.secret(there, credentials)
    owner = found["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", there["metadata"]["name"], "u-1")
    assert found["stringData"] == credentials and found["immutable"]
