"""A TrainJob and its runtime: no credentials, only fields that every version has, and pods that the policy allows."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty import pods, pool_pods
from rempart.training.kubernetes import pod, train_job
from rempart.training.placement import Option, Request, plan
from tests.unit.training.kubernetes.test_pod import POOL, TODAY
from tests.unit.training.test_job import spec
from tests.unit.training.test_placement import IMAGE, config

SETTINGS = config(a=POOL | {"runtime": "rempart"})


def option(nodes: int = 2, gpus: int = 1) -> Option:
    asked = Request("personal", gpus, timedelta(hours=1), ("a",), nodes)
    return plan(SETTINGS, asked, on=TODAY).options[0]


def made(nodes: int = 2, gpus: int = 1) -> dict[str, Any]:
    return train_job.manifest(SETTINGS, spec(), option(nodes, gpus), 3, seconds=1800)


def test_the_train_job_names_the_runtime_the_nodes_and_what_each_needs() -> None:
    found = made(4, 2)
    assert found["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": "rempart",
    }
    trainer = found["spec"]["trainer"]
    assert trainer["numNodes"] == 4 and trainer["image"] == IMAGE
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "2"
    assert trainer["command"][:3] == ["timeout", "--kill-after=25", "1800"]
    assert tuple(trainer["command"][3:]) == pod.COMMAND
    # fields that the API has in each version from 2.0 on
    assert set(found["spec"]) == {"runtimeRef", "trainer"}
    assert set(trainer) == {"image", "command", "env", "numNodes", "numProcPerNode", "resourcesPerNode"}


def test_one_attempt_has_one_name_that_kubeflow_takes_and_the_jobs_identity() -> None:
    metadata = made()["metadata"]
    assert metadata["name"] == f"train-{spec().job_id}-3" and len(f"{metadata['name']}-node-0-999") <= 63
    assert metadata["labels"][pod.JOB] == spec().job_id and metadata["labels"][pool_pods.QUEUE] == "gpu"
    assert metadata["labels"][pods.LABEL] == "personal" and metadata["namespace"] == "a"


def test_every_credential_is_awaited_from_a_secret_and_none_is_in_it() -> None:
    found = made()
    env = {variable["name"]: variable for variable in found["spec"]["trainer"]["env"]}
    awaited = [variable for name, variable in env.items() if name.startswith("AIRFLOW_CONN_")]
    assert awaited and all(
        variable["valueFrom"]["secretKeyRef"] == {"name": found["metadata"]["name"], "key": variable["name"]}
        for variable in awaited
    )
    assert not any(name.startswith("PET_") for name in env)
    assert json.loads(env[pod.SPEC_VARIABLE]["value"])["job_id"] == spec().job_id
    assert all(env[name]["value"] == value for name, value in TELEMETRY_OFF.items())


def test_its_secret_goes_when_the_train_job_goes() -> None:
    there = made()
    there["metadata"]["uid"] = "u-1"
    (owner,) = pod.secret(there, {})["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["uid"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob", "u-1")


def test_the_runtimes_pods_are_those_that_the_policy_makes_of_a_pod() -> None:
    found = train_job.runtime(SETTINGS, "a")
    assert found["metadata"] == {"name": "rempart", "namespace": "a"}
    assert found["spec"]["mlPolicy"]["torch"] == {}
    (job,) = found["spec"]["template"]["spec"]["replicatedJobs"]
    assert found["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 0}
    assert job["template"]["spec"]["backoffLimit"] == 0
    template = job["template"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert (job["name"], container["name"]) == ("node", "node")
    assert job["template"]["metadata"]["labels"] == {train_job.STEP: "trainer"}
    # with the job's own part it is the pod that runs alone, as the policy settles it
    planned = pods.plan(SETTINGS, pod.template(SETTINGS, spec(), option(), 1, seconds=1), on=TODAY).pod
    assert planned is not None
    alone = planned["spec"]["containers"][0]
    assert {key: alone[key] for key in ("image", "securityContext", "volumeMounts")} == {
        key: container[key] for key in ("image", "securityContext", "volumeMounts")
    }
    shared = {key: value for key, value in template["spec"].items() if key != "containers"}
    assert {key: value for key, value in planned["spec"].items() if key in shared} == shared


def test_what_a_server_adds_is_no_difference_and_what_somebody_changed_is() -> None:
    wanted = train_job.runtime(SETTINGS, "a")["spec"]
    found = deepcopy(wanted)
    found["template"]["spec"]["network"] = {"enableDNSHostnames": True}
    assert not [*train_job.differences(wanted, found)]
    spec_ = found["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    del spec_["nodeSelector"]
    spec_["containers"][0]["securityContext"]["runAsNonRoot"] = False
    told = "\n".join(train_job.differences(wanted, found))
    assert "nodeSelector is not set" in told and "runAsNonRoot is False, not True" in told


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _has_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(_has_mapping(inner) for inner in value))


@given(JSON, JSON)
def test_nothing_differs_from_itself_and_a_change_is_seen(value: Any, other: Any) -> None:
    assert not [*train_job.differences(value, value)]
    if not _has_mapping(value) and value != other:  # keys that a server adds to a mapping are no difference
        assert [*train_job.differences(value, other)]


@pytest.mark.parametrize("nodes", [2, 3, 16])
def test_each_pool_counts_the_gpus_of_all_nodes(nodes: int) -> None:
    asked = Request("personal", 1, timedelta(hours=1), ("a",), nodes)
    found = plan(config(a=POOL | {"runtime": "rempart", "max_gpus": 3}), asked, on=TODAY)
    assert bool(found.options) == (nodes <= 3)
