"""The commands and settings of the platform's pods."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.kubernetes import cluster
from rempart.settings.config import parse_connection, read_env_file
from rempart.sovereignty import pods
from tests.unit.deploy.platform_files import (
    PAGE,
    VALUES,
    deployment,
    every,
    given,
    project,
    read,
    settings,
    stack,
    task_pod,
)
from tests.unit.deploy.test_kubernetes import violations


def test_a_tasks_pod_passes_the_policy_of_the_how_tos_configuration() -> None:
    pod = task_pod() | {"metadata": {**task_pod()["metadata"], "namespace": cluster.NAMESPACE}}
    pod["spec"]["containers"][0]["image"] = "rg.fr-par.scw.cloud/acme/rempart/airflow@sha256:" + "0" * 64
    found = pods.plan(settings(), pod, ["personal"], on=date(2026, 11, 24))
    assert found.pod is not None and found.pool == "platform", found.decision.reasons
    assert violations(found.pod["spec"]) == []
    elsewhere = settings().model_copy(update={"gpu_pools": {}})
    assert pods.plan(elsewhere, pod, ["personal"], on=date(2026, 11, 24)).pod is None, (
        "the page says why it is declared"
    )


def run(var: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a pod runs it: its variables are those of the manifest, its secrets a file."""
    pod = {variable["name"]: variable["value"] for variable in task_pod()["spec"]["containers"][0]["env"]}
    place = {"REMPART_HOME": str(project()), "REMPART_VAR": str(var), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-m", "rempart.cli", *command],
        env=place | pod | more,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_an_executor_starts_has_the_platforms_settings_and_none_of_the_charts(
    tmp_path: Path, made: dict[str, str]
) -> None:
    (tmp_path / "secrets.env").write_text(made["tasks.env"])
    command = task_pod()["spec"]["containers"][0]["command"]
    assert command[:3] == ["/usr/bin/tini", "--", "rempart"]
    chart = {"AIRFLOW__CORE__FERNET_KEY": "the chart's", "AIRFLOW_IS_K8S_EXECUTOR_POD": "True"}
    done = run(tmp_path, *command[3:], "env", **chart)
    assert done.returncode == 0, done.stderr
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    secrets = read_env_file(tmp_path / "secrets.env")
    assert variables["AIRFLOW__CORE__EXECUTOR"] == "KubernetesExecutor"
    assert variables["AIRFLOW__CORE__FERNET_KEY"] == secrets["REMPART_AIRFLOW_FERNET_KEY"]
    assert "@db.acme.example:5432/airflow" in variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://api-server:18080/execution/"
    assert variables["AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS"] == "rempart.orchestration.task_logs.LOGGING_CONFIG"
    assert variables["AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY"] == "", "the template's, by digest"
    assert (variables["PGSSLMODE"], variables["AIRFLOW_IS_K8S_EXECUTOR_POD"]) == ("require", "True")
    assert variables["SCARF_ANALYTICS"] == variables["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "false"
    refused = run(tmp_path, "run", "workload", "no-such-program")
    assert refused.returncode == 1 and "Could not run no-such-program" in refused.stderr


@pytest.mark.parametrize("name", ["scheduler", "dagProcessor", "triggerer"])
def test_probes_and_typed_commands_work_with_the_secrets_of_their_pod(
    tmp_path: Path, made: dict[str, str], name: str
) -> None:
    """A probe that always fails has its pod killed for ever."""
    (tmp_path / "secrets.env").write_text(made[f"{VALUES[name]['args'][3]}.env"])
    wrappers = set()
    for probe in ("startupProbe", "livenessProbe"):
        command = VALUES[name].get(probe, VALUES[name]["livenessProbe"])["command"]
        program, wrapper = command[0], command[1 : command.index("airflow")]
        assert program == "rempart" and command[command.index("airflow") :][:3] == ["airflow", "jobs", "check"]
        wrappers.add(tuple(wrapper))
    for wrapper in wrappers:
        done = run(tmp_path, *wrapper, "env", AIRFLOW__CORE__FERNET_KEY="the chart's")
        assert done.returncode == 0, done.stderr
        variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert "@db.acme.example:5432/airflow" in variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        secrets = read_env_file(tmp_path / "secrets.env")
        assert variables["AIRFLOW__CORE__FERNET_KEY"] == secrets["REMPART_AIRFLOW_FERNET_KEY"]


def test_what_the_page_has_typed_in_a_pod_works_with_the_secrets_of_that_pod(
    tmp_path: Path, made: dict[str, str]
) -> None:
    text = PAGE.replace("\\\n", " ")
    typed_there = re.findall(r"deployment/airflow-([a-z-]+) -c [a-z-]+ -- rempart (run workload .*?) airflow", text)
    assert typed_there
    for pod, wrapper in set(typed_there):
        var = tmp_path / pod
        var.mkdir(exist_ok=True)
        (var / "secrets.env").write_text(made[f"{pod}.env"])
        done = run(var, *wrapper.split(), "env")
        assert done.returncode == 0 and "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=" in done.stdout, done.stderr


def test_the_admins_password_is_told_where_the_secrets_are_kept(tmp_path: Path) -> None:
    cluster.initialise(stack(tmp_path), given())
    assert "REMPART_VAR=var/kubernetes rempart stack password airflow" in PAGE
    env = {"REMPART_HOME": str(project()), "PATH": os.environ["PATH"], "REMPART_VAR": str(tmp_path / cluster.FOLDER)}
    command = [sys.executable, "-m", "rempart.cli", "stack", "password", "airflow"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    kept = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)["AIRFLOW_CONN_AIRFLOW_API"]
    assert done.stdout.strip() == parse_connection("airflow_api", kept).password, done.stderr


def test_services_of_our_manifests_have_the_names_that_the_settings_use(made: dict[str, str]) -> None:
    ports = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in every("Service")}
    inside = cluster.in_cluster(stack(Path("var")))
    names = {name: inside.host(name) for name in ("mlflow", "airflow")}
    assert ports == {names[name].removesuffix(f".{cluster.NAMESPACE}.svc"): inside.ports[name] for name in names}
    assert ports["api-server"] == VALUES["ports"]["apiServer"]
    mlflow = deployment("mlflow")
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    told = CliRunner().invoke(app, ["run", "mlflow", "--help"]).output
    for option in (part.partition("=")[0] for part in container["args"] if part.startswith("--")):
        assert option in told
    (allowed,) = [part for part in container["args"] if part.startswith("--allowed-hosts=")]
    connection = parse_connection("mlflow", read(made["mlflow.env"])["AIRFLOW_CONN_MLFLOW"])
    assert f"{connection.host}:{connection.port}" in allowed.partition("=")[2].split(",")
