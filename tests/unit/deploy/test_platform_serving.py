"""The components with the scorer, also for KServe: confined pods, who reaches them, a log that outlives them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.deployment.compose import containers
from rempart.deployment.kubernetes import cluster
from tests.reachable import Pod, reaches
from tests.unit.deploy.platform_files import PODS, ROOT, VALUES, every, read, unknown
from tests.unit.deploy.test_kubernetes import documents, model, violations

SERVING = ROOT / "deploy" / "kubernetes" / "serving"
KSERVE = ROOT / "deploy" / "kubernetes" / "kserve" / "inference-service.yaml"
FILES = sorted(file for file in SERVING.glob("*.yaml") if file.name != "kustomization.yaml")
OURS = {document["kind"]: document for file in FILES for document in documents(file)}
LOG = "/var/lib/rempart-predictions"
PREDICTOR = {"labels", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
"""Fields of a predictor in KServe's API (v1beta1, ComponentExtensionSpec) beside those of a pod."""


def scorer_pod() -> dict[str, Any]:
    found: dict[str, Any] = OURS["Deployment"]["spec"]["template"]["spec"]
    return found


def predictor() -> dict[str, Any]:
    (service,) = documents(KSERVE)
    found: dict[str, Any] = service["spec"]["predictor"]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_manifest_is_of_a_known_kind_and_has_no_unknown_field(file: Path) -> None:
    for document in documents(file):
        assert list(unknown(document, model(document), document["kind"])) == []
        assert document["metadata"]["namespace"] == cluster.NAMESPACE
    (component,) = documents(SERVING / "kustomization.yaml")
    assert set(component["resources"]) == {manifest.name for manifest in FILES}


@pytest.mark.parametrize("name", ["serving", "kserve"])
def test_the_pod_is_restricted_holds_a_secret_of_its_own_and_writes_the_log_on_a_volume_that_outlives_it(
    name: str, made: dict[str, str]
) -> None:
    spec = scorer_pod() if name == "serving" else {k: v for k, v in predictor().items() if k not in PREDICTOR}
    assert violations(spec) == [] and list(unknown(spec, "V1PodSpec", name)) == []
    assert spec["automountServiceAccountToken"] is False
    assert OURS["ServiceAccount"]["metadata"]["name"] == spec["serviceAccountName"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True and container["resources"]["limits"]["memory"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    writable = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"state": str(containers.VAR), "prediction-log": LOG, "tmp": "/tmp"}
    assert all("sizeLimit" in volumes[each]["emptyDir"] for each in writable if each != "prediction-log")
    claim = OURS["PersistentVolumeClaim"]
    assert volumes["prediction-log"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "several scorers write, and a task ships"
    assert volumes["secrets"]["secret"]["secretName"] == "rempart-scorer"
    held = read(made["scorer.env"])
    assert "AIRFLOW_CONN_PG_SCORER" in held and not {"AIRFLOW_CONN_LEDGER_KEY", "AIRFLOW_CONN_BACKUP_KEY"} & set(held)


def test_kserve_runs_the_same_container_as_the_deployment() -> None:
    (service,) = documents(KSERVE)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(service["spec"]) == {"predictor"}
    ours, theirs = scorer_pod(), predictor()
    (container,), (other,) = ours["containers"], theirs["containers"]
    assert other["name"] == "kserve-container", "KServe's own name for a container that serves"
    ports = [port | {"protocol": "TCP"} for port in container["ports"]]
    assert other == container | {"name": other["name"], "ports": ports}
    assert theirs["volumes"] == ours["volumes"] and theirs["securityContext"] == ours["securityContext"]
    assert theirs["labels"] == OURS["Deployment"]["spec"]["template"]["metadata"]["labels"]


def test_scorers_are_added_by_cpu_and_one_at_most_is_taken_away() -> None:
    scaler, budget, deployment = (
        OURS["HorizontalPodAutoscaler"]["spec"],
        OURS["PodDisruptionBudget"]["spec"],
        OURS["Deployment"],
    )
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"] and "replicas" not in deployment["spec"]
    assert scaler["minReplicas"] >= 2 > budget["maxUnavailable"]
    assert [metric["resource"]["name"] for metric in scaler["metrics"]] == ["cpu"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (budget["selector"]["matchLabels"], OURS["Service"]["spec"]["selector"]):
        assert selector == labels == deployment["spec"]["selector"]["matchLabels"]
    assert scorer_pod()["containers"][0]["resources"]["requests"]["cpu"], "utilization is a share of this"


def test_programs_reach_the_scorer_and_it_reaches_no_pod_of_the_platform() -> None:
    policies = [*every("NetworkPolicy"), OURS["NetworkPolicy"]]
    scorer = Pod(OURS["Deployment"]["spec"]["template"]["metadata"]["labels"])
    program = Pod({}, "shop", {"rempart.eu/predicts": "true"})
    port = OURS["Service"]["spec"]["ports"][0]["port"]
    asking = {"program": program, **PODS}
    assert {name for name, pod in asking.items() if reaches(policies, pod, scorer, port)} == {"program", "front"}
    assert not [name for name, pod in PODS.items() if reaches(policies, scorer, pod, 15000)]
    assert not [name for name, pod in PODS.items() if reaches(policies, scorer, pod, 18080)]


def test_a_task_sees_the_log_where_the_scorers_write_it() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "values-serving.yaml").read_text("utf-8"))
    assert set(values) == {"podTemplate"}
    base, with_log = (text.splitlines() for text in (VALUES["podTemplate"], values["podTemplate"]))
    added = [line.strip() for line in with_log if line not in base]
    assert [line for line in with_log if line in base] == base, "nothing else of the pod differs"
    assert added == [
        f"- {{name: REMPART_PREDICTION_LOG, value: {LOG}}}",
        f"- {{name: prediction-log, mountPath: {LOG}}}",
        "- name: prediction-log",
        "persistentVolumeClaim: {claimName: prediction-log}",
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize(
    ("component", "kinds"),
    [("serving", {"HorizontalPodAutoscaler", "PersistentVolumeClaim"}), ("kserve", {"InferenceService"})],
)
def test_kustomize_adds_the_component_to_the_overlay(tmp_path: Path, component: str, kinds: set[str]) -> None:
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "examples" / "managed"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write(f"components: [../../{component}]\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    assert kinds <= {document["kind"] for document in made}
    images = [line.split()[-1] for line in done.stdout.splitlines() if "image: registry.example.eu" in line]
    assert images and all("@sha256:" in image for image in images)
