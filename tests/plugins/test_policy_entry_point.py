"""The entry point as Airflow loads it, and pods as Airflow creates them: real operators, real Kubernetes objects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.platform_files import image, task_pod
from tests.unit.deploy.test_kubernetes import violations

ROOT = Path(__file__).resolve().parents[2]

MAKE_PODS = """
import json, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow import settings
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk import DAG
from airflow.sdk.definitions._internal import contextmanager
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import models as k8s

from rempart.settings import config
from rempart.errors import PlacementDenied
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.orchestration import runtime
from rempart.sovereignty.pods import LABEL

told = {"plugins": [name for name, _ in settings.get_policy_plugin_manager().list_name_plugin()]}
personal = {LABEL: "personal"}

def build(name, **arguments):
    operator = KubernetesPodOperator(task_id=name, **{"kubernetes_conn_id": "k8s_a", "namespace": "training",
                                                      "image": "python:3.12", "labels": personal} | arguments)
    try:
        told[name] = PodGenerator.serialize_pod(operator.build_pod_request_obj(dry_run=True))
    except PlacementDenied as denial:
        told[name] = str(denial)
    return operator

build("plain")
build("full", do_xcom_push=True, init_containers=[k8s.V1Container(name="init", image="busybox")],
      container_security_context=k8s.V1SecurityContext(run_as_user=1000),
      volumes=[k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource())],
      container_resources=k8s.V1ResourceRequirements(limits={"memory": "1Gi"}),
      full_pod_spec=k8s.V1Pod(metadata=k8s.V1ObjectMeta(creation_timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
                              spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")],
                                                 tolerations=[k8s.V1Toleration(key="gpu", operator="Exists")])))
build("unclassified", labels={})
build("elsewhere", namespace="kube-system")
build("root", security_context=k8s.V1PodSecurityContext(run_as_user=0))
build("node", volumes=[k8s.V1Volume(name="root", host_path=k8s.V1HostPathVolumeSource(path="/"))])
build("denied", image="gcr.io/a/b:1")

# in a task: the DAG's tag counts, the connection is that of the operator, and the decision is evidence
ledger = MemoryLedger()
runtime.platform = lambda: Platform(config.load(), config.environment_connections, ledger_=ledger)
with DAG("mine", tags=["classification:personal"]) as dag:
    pass
for name, connection in (("in_task", "k8s_a"), ("wrong_cluster", "kubernetes_default")):
    operator = KubernetesPodOperator(task_id=name, kubernetes_conn_id=connection, image="python:3.12")
    contextmanager._CURRENT_CONTEXT.append({"dag": dag, "task": operator})
    build(name, kubernetes_conn_id=connection, labels={LABEL: "public"})
    contextmanager._CURRENT_CONTEXT.clear()
told["evidence"] = [[e.kind, e.subject, e.body["classification"], e.body["allowed"]]
                    for kind in ("decision", "denial") for e in ledger.find(kind, limit=9)]

# the KubernetesExecutor: parsed here, stored by the dag-processor, made into a pod by the scheduler
bag = DagBag(dag_folder=sys.argv[1])
told["errors"] = bag.import_errors
stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(bag.dags["workers"]))))
for task_id in ("plain_task", "higher", "mapped"):
    override = PodGenerator.from_obj(stored.get_task(task_id).executor_config)
    made = PodGenerator.construct_pod(
        dag_id="workers", task_id=task_id, pod_id="w", try_number=1, kube_image="registry.example.eu/r:1", date=None,
        args=["run"], pod_override_object=override, namespace="training", scheduler_job_id="1", with_mutation_hook=True,
        base_worker_pod=k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")])))
    told[f"worker_{task_id}"] = PodGenerator.serialize_pod(made)
made = PodGenerator.construct_pod(
    dag_id="workers", task_id="t", pod_id="w", try_number=1, kube_image=None, date=None, args=["python", "-m", "x"],
    pod_override_object=override, namespace="training", scheduler_job_id="1", with_mutation_hook=True,
    base_worker_pod=PodGenerator.deserialize_model_file(sys.argv[2]))
told["from_template"] = PodGenerator.serialize_pod(made)
print(json.dumps(told))
"""

WORKERS = """
from datetime import timedelta
from airflow.sdk import DAG, task
from kubernetes.client import models as k8s
args = {"owner": "sales", "execution_timeout": timedelta(minutes=5)}
higher = k8s.V1Pod(metadata=k8s.V1ObjectMeta(labels={"rempart.eu/classification": "personal", "team": "x"}))
with DAG("workers", tags=["classification:internal"], default_args=args):
    @task
    def plain_task(): ...
    @task(executor_config={"pod_override": higher})
    def higher(): ...
    @task
    def mapped(x): ...
    plain_task(); higher(); mapped.expand(x=[1, 2])
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Pods that Airflow made in a process of its own, after our entry point; refusals as their text."""
    project = tmp_path_factory.mktemp("project")
    plain = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    place = {"operator": "acme", "region": "par"}
    plain["operators"]["acme"] = {
        "jurisdiction": "FR",
        "owner_jurisdiction": "FR",
        "regions": {"par": {"country": "FR"}},
        "services": {name: {"runs_on": "acme"} for name in ("container-registry", "managed-kubernetes")},
    }
    plain["registries"] = {"registry.example.eu": place | {"mirror_of": ["docker.io"]}}
    plain["gpu_pools"] = {"a": place | {"kubernetes_connection": "k8s_a", "namespace": "training"}}
    (project / "rempart.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    (project / "dags").mkdir()
    (project / "dags" / "workers.py").write_text(WORKERS, encoding="utf-8")
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW_CONN_K8S_A": "kubernetes://",
        "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "REMPART_HOME": str(project),
    }
    (project / "template.yaml").write_text(yaml.safe_dump(task_pod()), encoding="utf-8")
    command = [sys.executable, "-c", MAKE_PODS, str(project / "dags"), str(project / "template.yaml")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_airflow_loads_the_policies_from_the_installed_package(told: dict) -> None:
    assert "rempart" in told["plugins"]
    assert told["errors"] == {}


def is_restricted(pod: dict) -> bool:
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
    return pod["spec"]["securityContext"]["runAsNonRoot"] and all(
        container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        and container["securityContext"]["allowPrivilegeEscalation"] is False
        and container["image"].startswith("registry.example.eu/")
        for container in containers
    )


def in_region(pod: dict) -> bool:
    node = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = {"key": "topology.kubernetes.io/region", "operator": "In", "values": ["par"]}
    return all(wanted in term["matchExpressions"] for term in node["nodeSelectorTerms"])


def test_the_operators_pod_is_held_in_the_region_and_restricted(told: dict) -> None:
    pod = told["plain"]
    assert is_restricted(pod) and in_region(pod)
    assert pod["spec"]["containers"][0]["image"] == "registry.example.eu/docker.io/library/python:3.12"
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_what_the_operator_asked_for_besides_is_kept(told: dict) -> None:
    pod = told["full"]
    assert is_restricted(pod) and in_region(pod)
    assert [c["name"] for c in pod["spec"]["containers"]] == ["base", "airflow-xcom-sidecar"]
    base = pod["spec"]["containers"][0]
    assert base["resources"]["limits"] == {"memory": "1Gi"} and base["securityContext"]["runAsUser"] == 1000
    assert pod["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"tmp", "xcom"}
    assert pod["metadata"]["creationTimestamp"].startswith("2026-01-01")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unclassified", "neither the DAG nor the pod states the classification of its data"),
        ("elsewhere", "namespace 'kube-system' belongs to no declared pool"),
        ("root", "requests to run as root"),
        ("node", "volume root is of kind hostPath"),
        ("denied", "registry 'gcr.io' is not declared"),
        ("wrong_cluster", "of connection k8s_a, not of 'kubernetes_default'"),
    ],
)
def test_a_refused_pod_is_told_with_the_remedy(told: dict, name: str, message: str) -> None:
    assert message in told[name] and "What to do: " in told[name]


def test_in_a_task_the_dags_tag_counts_and_the_decision_is_evidence(told: dict) -> None:
    assert told["in_task"]["metadata"]["labels"]["rempart.eu/classification"] == "personal"
    permission, denial = told["evidence"]
    assert permission == ["decision", "pool 'a'", "personal", True]
    assert denial == ["denial", "namespace 'training'", "personal", False]


@pytest.mark.parametrize(
    ("task", "stated"), [("plain_task", "internal"), ("higher", "personal"), ("mapped", "internal")]
)
def test_the_kubernetes_executors_pods_carry_the_dags_classification(told: dict, task: str, stated: str) -> None:
    pod = told[f"worker_{task}"]
    assert pod["metadata"]["labels"]["rempart.eu/classification"] == stated
    assert is_restricted(pod) and in_region(pod)


def test_a_task_of_the_platform_on_kubernetes_keeps_the_templates_image_and_becomes_its_workload(told: dict) -> None:
    pod = told["from_template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == image(), "by digest"
    assert [*container["command"], *container["args"]][-6:] == ["rempart", "run", "workload", "python", "-m", "x"]
    assert in_region(pod) and violations(pod["spec"]) == []
    assert pod["metadata"]["labels"].items() >= {"tier": "airflow", "component": "worker"}.items()
