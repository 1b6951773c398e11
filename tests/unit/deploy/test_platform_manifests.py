"""The platform's manifests: known kinds and fields, restricted pods, least rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.deployment.compose import containers
from rempart.deployment.kubernetes import cluster
from tests.unit.deploy.platform_files import (
    COMPONENTS,
    FILES,
    MANAGED,
    VALUES,
    deployment,
    every,
    given,
    pod_specs,
    stack,
    unknown,
)
from tests.unit.deploy.test_kubernetes import documents, model, violations


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_manifest_is_of_a_known_kind_and_has_no_unknown_field_however_deep(file: Path) -> None:
    for document in documents(file):
        if document["kind"] == "Kustomization":
            assert set(document["resources"]) == {manifest.name for manifest in FILES} - {file.name}
            continue
        assert list(unknown(document, model(document), document["kind"])) == []
        assert document["metadata"].get("namespace", cluster.NAMESPACE) == cluster.NAMESPACE


def test_a_misspelt_field_would_be_seen() -> None:
    pod = {"spec": {"containers": [{"name": "a", "securityContext": {"readOnlyRootFileSystem": True}}]}}
    assert list(unknown(pod, "V1Pod", "Pod")) == ["Pod.spec.containers.0.securityContext.readOnlyRootFileSystem"]


@pytest.mark.parametrize("name", ["rempart-prepare", "mlflow", "landing-watch", "task", *COMPONENTS])
def test_every_pod_is_restricted_and_writes_what_is_its_own_alone(name: str) -> None:
    spec = pod_specs()[name]
    assert violations(spec) == []
    assert list(unknown(spec, "V1PodSpec", name)) == []
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (50000, 0)
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    writable = [volume_mount["name"] for volume_mount in container["volumeMounts"] if not volume_mount.get("readOnly")]
    assert all("sizeLimit" in volumes[volume]["emptyDir"] for volume in writable), (
        "what is written has a bound, and ends"
    )
    assert {volume_mount["mountPath"] for volume_mount in container["volumeMounts"]} == {
        str(containers.VAR),
        "/tmp",
        f"{containers.VAR}/{cluster.KEY}",
        *([VALUES["airflowHome"]] if name in COMPONENTS else []),
    }
    if name not in COMPONENTS:
        assert spec["automountServiceAccountToken"] is False
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
        assert container["image"].startswith("registry.example.eu/rempart/")


def test_the_namespace_refuses_pods_that_are_not_restricted_and_no_account_has_a_token() -> None:
    (namespace,) = every("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    accounts = {
        service_account["metadata"]["name"]: service_account["automountServiceAccountToken"]
        for service_account in every("ServiceAccount")
    }
    used = {spec.get("serviceAccountName", "default") for name, spec in pod_specs().items() if name not in COMPONENTS}
    assert accounts == dict.fromkeys(used, False)


def test_airflows_rights_are_these_and_nobody_else_has_one() -> None:
    """No command is run in a pod, and no Secret is read, through the cluster's API."""
    rights = {
        role["metadata"]["name"]: {
            (kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]
        }
        for role in every("Role")
    }
    assert rights == {
        "airflow-scheduler": {("pods", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")},
        "airflow-api-server": {("pods", "list"), ("pods/log", "get")},
    }
    bound = {
        (subject["kind"], subject["name"], role_binding["roleRef"]["name"])
        for role_binding in every("RoleBinding")
        for subject in role_binding["subjects"]
    }
    assert bound == {("ServiceAccount", name, name) for name in rights}
    assert not (every("ClusterRole") or every("ClusterRoleBinding"))
    assert VALUES["rbac"] == {"create": False}, "the chart's rights are wider"
    assert VALUES["workers"]["kubernetes"]["serviceAccount"]["create"] is False


@pytest.mark.airflow  # to find a module of a package imports the package
def test_the_rights_are_those_that_the_executor_of_the_lock_uses() -> None:
    """Read off its source: a call that a new version adds would be answered 403 on a cluster, and nowhere before."""
    (place,) = list(find_spec("airflow.providers.cncf.kubernetes.executors").submodule_search_locations)
    text = "".join(file.read_text("utf-8") for file in sorted(Path(place).glob("kubernetes_executor*.py")))
    verbs = {"read": "get", "create": "create", "list": "list", "patch": "patch", "delete": "delete"}
    kinds = {"pod": "pods", "pod_log": "pods/log"}
    called = set(re.findall(r"client\.([a-z]+)_namespaced_([a-z_]+)", text))
    used = {(kinds.get(kind, kind), verbs.get(verb, verb)) for verb, kind in called}
    used |= {("pods", "watch")} if "watch.Watch()" in text else set()
    granted = {
        (kind, verb)
        for role in every("Role")
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used == granted


def test_the_overlay_names_images_by_digest_and_changes_what_is_there() -> None:
    (overlay,) = documents(MANAGED / "kustomization.yaml")
    assert overlay["resources"] == ["../../platform"]
    used = {
        pod_spec["containers"][0]["image"]
        for name, pod_spec in pod_specs().items()
        if name in ("rempart-prepare", "mlflow", "landing-watch")
    }
    assert {image["name"] for image in overlay["images"]} == used
    assert all(image["digest"].startswith("sha256:") for image in overlay["images"])
    (patch,) = overlay["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    mlflow = deployment("mlflow")
    args = mlflow["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[int(change["path"].rpartition("/")[2])].startswith("--allowed-hosts=")
    assert change["value"].startswith("--allowed-hosts=mlflow:15000,")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_builds_the_overlay_and_the_secrets(tmp_path: Path) -> None:
    def build(folder: Path) -> list[dict[str, Any]]:
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
        return list(yaml.safe_load_all(done.stdout))

    images = re.findall(r"image: (.+)", yaml.safe_dump_all(build(MANAGED)))
    assert len(set(images)) == 2 and all("@sha256:" in image for image in images)
    cluster.initialise(stack(tmp_path), given())
    secrets = build(tmp_path / cluster.FOLDER)
    assert {secret["metadata"]["name"] for secret in secrets} == {
        *(f"rempart-{name}" for name in cluster.SECRETS),
        "rempart-broker",
    }
    assert all(secret["kind"] == "Secret" and len(secret["data"]) == 1 for secret in secrets)
