"""A restore in a cluster: its Secrets, its job, and that nothing else works meanwhile."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.kubernetes import cluster
from rempart.errors import StackError
from rempart.flows.restore import restore_command
from rempart.settings.config import parse_connection, read_env_file
from tests.reachable import Pod, reaches
from tests.unit.deploy.platform_files import (
    PODS,
    RESTORE,
    ROOT,
    every,
    given,
    project,
    stack,
    unknown,
)
from tests.unit.deploy.test_kubernetes import documents, model, violations


def test_the_secrets_of_a_restore_point_become_those_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another Fernet key, nobody could read the connections in the restored database."""
    inside = cluster.in_cluster(stack(tmp_path))
    before = cluster.plan(inside, {}, given())
    kept = (
        "REMPART_AIRFLOW_FERNET_KEY",
        "AIRFLOW_CONN_LEDGER_KEY",
        "AIRFLOW_CONN_BACKUP_KEY",
        "AIRFLOW_CONN_PG_MLFLOW",
    )
    point = {name: before[name] for name in kept} | {"AIRFLOW_CONN_S3_PRIMARY": "aws://lost:key@"}
    cluster.initialise(stack(tmp_path), given(), restored=point)
    after = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert parse_connection("s3_primary", after["AIRFLOW_CONN_S3_PRIMARY"]).login == "s3_primary", "the new store's key"
    cluster.initialise(stack(tmp_path), {}, restored=point)
    assert read_env_file(tmp_path / cluster.FOLDER / cluster.KEY) == after
    with pytest.raises(StackError, match="other secrets than the restore point: REMPART_AIRFLOW_FERNET_KEY"):
        cluster.initialise(stack(tmp_path), {}, restored={"REMPART_AIRFLOW_FERNET_KEY": "another"})
    assert read_env_file(tmp_path / cluster.FOLDER / cluster.KEY) == after


def test_init_hands_the_secrets_of_the_point_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(restore_command, "secrets_of", lambda *_: {"REMPART_AIRFLOW_FERNET_KEY": "of the point"})
    done = CliRunner().invoke(app, ["stack", "init", "--kubernetes", "--from-point"])
    assert done.exit_code == 0, done.output
    made = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)
    assert made["REMPART_AIRFLOW_FERNET_KEY"] == "of the point"


@pytest.mark.parametrize("other", ["--kubernetes", "--from-point"])
def test_what_a_build_reads_is_made_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    for name, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(restore_command, "secrets_of", lambda *_: {})
    done = CliRunner().invoke(app, ["stack", "init", "--images", other])
    assert isinstance(done.exception, StackError) and other in done.exception.what
    assert not (tmp_path / cluster.FOLDER).exists()


def test_the_restoring_job_is_confined_and_has_what_the_command_needs(made: dict[str, str]) -> None:
    job, *policies = documents(RESTORE)
    for document in (job, *policies):
        assert list(unknown(document, model(document), document["kind"])) == []
        assert document["metadata"]["labels"] == {"rempart.eu/restore": "true"}
    assert job["spec"]["backoffLimit"] == 0, "with --force in its arguments, a second pod drops what the first filled"
    spec = job["spec"]["template"]["spec"]
    assert violations(spec) == [] and spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True and container["resources"]["limits"]["memory"]
    assert container["args"][:2] == ["rempart", "restore"]
    options = [part.partition("=")[0] for part in container["args"][2:]]
    told = CliRunner().invoke(app, ["restore", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in options) and "--yes" in options
    (mounted,) = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
    for name in ("AIRFLOW_CONN_PG_ADMIN=", "AIRFLOW_CONN_BACKUP_KEY=", "AIRFLOW_CONN_S3_HAVEN="):
        assert name in made[f"{mounted.removeprefix('rempart-')}.env"]
    assert spec["serviceAccountName"] in {
        service_account["metadata"]["name"] for service_account in every("ServiceAccount")
    }
    restore_pod, together = Pod(job["spec"]["template"]["metadata"]["labels"]), [*every("NetworkPolicy"), *policies]
    ours = {name: pod for name, pod in PODS.items() if pod.namespace == cluster.NAMESPACE}
    found = {
        (name, port)
        for name, pod in ours.items()
        for port in (18080, 15000)
        if reaches(together, restore_pod, pod, port)
    }
    assert found == {("mlflow", 15000), ("api-server", 18080)}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_while_a_point_is_restored_nothing_else_works_on_the_databases(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "examples" / "managed"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../restore]\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True)
    built = list(yaml.safe_load_all(done.stdout))
    assert [resource["metadata"]["name"] for resource in built if resource["kind"] == "Job"] == ["rempart-restore"]
    assert [resource["spec"]["replicas"] for resource in built if resource["kind"] == "Deployment"] == [0, 0]
    images = re.findall(r"image: (.+)", done.stdout)
    assert len(images) == 3 and all("@sha256:" in image for image in images)
