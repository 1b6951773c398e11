"""The component with Celery: the broker is confined, and no account has rights."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.reachable import Pod, reaches
from tests.unit.deploy.platform_files import (
    CELERY,
    OVERLAYS,
    PODS,
    ROOT,
    VALUES,
    every,
    read,
    unknown,
)
from tests.unit.deploy.test_kubernetes import documents, model, violations


def test_the_broker_knows_the_password_that_airflow_has_by_its_hash_alone(made: dict[str, str]) -> None:
    password = read(made["tasks.env"])["REMPART_AIRFLOW_BROKER_PASSWORD"]
    assert hashlib.sha256(password.encode()).hexdigest() in made["broker.conf"] and password not in made["broker.conf"]
    assert "AIRFLOW_CONN_MONITORING" not in made["tasks.env"]
    (mounted,) = [
        volume for volume in documents(CELERY)[0]["spec"]["template"]["spec"]["volumes"] if "secret" in volume
    ]
    assert mounted["secret"]["secretName"] == "rempart-broker"


def test_the_broker_is_restricted_keeps_nothing_and_is_reached_by_who_gives_and_takes_tasks() -> None:
    deployment, service, *policies = documents(CELERY)
    for document in (deployment, service, *policies):
        assert list(unknown(document, model(document), document["kind"])) == []
    spec = deployment["spec"]["template"]["spec"]
    assert violations(spec) == [] and spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert [volume["emptyDir"]["medium"] for volume in spec["volumes"] if "emptyDir" in volume] == ["Memory"]
    broker = Pod(deployment["spec"]["template"]["metadata"]["labels"])
    together = [*every("NetworkPolicy"), *policies]
    found = {name for name, pod in PODS.items() if reaches(together, pod, broker, service["spec"]["ports"][0]["port"])}
    assert found == {"scheduler", "task"}


def test_with_workers_that_stay_nobody_has_a_token_and_their_command_is_ours() -> None:
    (file,) = (overlay for overlay in OVERLAYS if overlay.stem == "values-celery")
    values = yaml.safe_load(file.read_text("utf-8"))
    assert values["executor"] == "CeleryExecutor" and values["podTemplate"] is None
    celery = values["workers"]["celery"]
    assert celery["args"] == ["rempart", "run", "airflow", "worker"] and not celery["persistence"]["enabled"]
    assert celery["podDisruptionBudget"]["config"]["maxUnavailable"] < celery["replicas"]
    tokens = [values[name]["serviceAccount"] for name in ("scheduler", "apiServer")] + [celery["serviceAccount"]]
    tokens += [VALUES[name]["serviceAccount"] for name in ("dagProcessor", "triggerer")]
    assert tokens == [{"automountServiceAccountToken": False}] * 5


def test_with_workers_that_stay_nobody_has_a_right() -> None:
    (component,) = documents(CELERY.with_name("kustomization.yaml"))
    for patch in component["patches"]:
        assert yaml.safe_load(patch["patch"])["$patch"] == "delete"
        made = {resource["metadata"]["name"] for resource in every(patch["target"]["kind"])}
        assert made == {name for name in made if re.fullmatch(patch["target"]["name"], name)} != set()
    assert {patch["target"]["kind"] for patch in component["patches"]} == {"Role", "RoleBinding"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_takes_the_rights_away(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "examples" / "managed"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../celery]\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True)
    made = {document["kind"] for document in yaml.safe_load_all(done.stdout)}
    assert not made & {"Role", "RoleBinding"} and {"Deployment", "ServiceAccount"} <= made
