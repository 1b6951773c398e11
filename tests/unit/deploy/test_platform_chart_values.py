"""deploy/helm: values that the chart accepts, and the objects that it renders from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.deployment.compose import containers
from rempart.deployment.setup import paths
from tests.unit.deploy.platform_files import (
    CHART,
    COMPONENTS,
    OVERLAYS,
    PAGE,
    ROOT,
    TYPES,
    VALUES,
    deployment,
    every,
)


def misfits(values: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for name, value in values.items():
        here, expected = f"{place}{name}", known.get(name)
        if expected is None:
            yield f"{here}: not a value of the chart"
        elif isinstance(expected, dict):
            yield from misfits(value, expected, f"{here}.")
        else:
            kinds = [expected] if isinstance(expected, str) else expected
            if not any(type(value) is TYPES[kind] for kind in kinds):
                yield f"{here}: {type(value).__name__} for {kinds}"


@pytest.mark.parametrize("file", [ROOT / "deploy/helm/values.yaml", *OVERLAYS], ids=lambda file: file.name)
def test_each_value_is_one_of_the_chart_and_of_its_type(file: Path) -> None:
    assert list(misfits(yaml.safe_load(file.read_text("utf-8")), CHART["values"])) == []
    assert list(misfits({"scheduler": {"replica": 1, "args": "x"}}, CHART["values"])) == [
        "scheduler.replica: not a value of the chart",
        "scheduler.args: str for ['array', 'null']",
    ]


@pytest.mark.parametrize(
    "key",
    [
        "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
        "AIRFLOW__CELERY__CELERY_RESULT_BACKEND",
        "AIRFLOW__ELASTICSEARCH__ELASTICSEARCH_HOST",
    ],
)
def test_a_key_that_the_chart_refuses_would_be_seen(key: str) -> None:
    wrong = {"enableBuiltInSecretEnvVars": VALUES["enableBuiltInSecretEnvVars"] | {key: False}}
    assert list(misfits(wrong, CHART["values"])) == [f"enableBuiltInSecretEnvVars.{key}: not a value of the chart"]


def test_no_value_has_a_name_that_the_chart_will_drop() -> None:
    """`helm install` warns of these: settings of workers belong to one kind of them."""
    assert set(CHART["values"]["workers"]) == {"celery", "kubernetes"} and "webserver" not in CHART["values"]
    assert VALUES["enableServiceLinks"] is False and VALUES["dags"]["gitSync"]["recommendedProbeSetting"] is True


def test_each_folder_into_which_a_file_is_mounted_is_a_volume_that_airflow_can_write() -> None:
    """The kubelet makes a folder that holds nothing but a mounted file as root's own, which no other user can write."""
    mounts = {volume_mount["mountPath"]: volume_mount["name"] for volume_mount in VALUES["volumeMounts"]}
    empty = {volume["name"] for volume in VALUES["volumes"] if "emptyDir" in volume}
    # the chart mounts its airflow.cfg into the home of each component
    files = [f"{VALUES['airflowHome']}/airflow.cfg"]
    for component in ("apiServer", "scheduler", "dagProcessor", "triggerer"):
        files += [
            extra_volume_mount["mountPath"]
            for extra_volume_mount in VALUES[component]["extraVolumeMounts"]
            if "subPath" in extra_volume_mount
        ]
    for file in files:
        assert mounts.get(str(Path(file).parent)) in empty, file


def secrets_of_the_chart(named: Mapping[str, Any]) -> list[str]:
    """Secrets that the chart makes, because the values name none in their place."""
    return [secret for secret, key in CHART["secrets"].items() if not named.get(key)]


def test_the_chart_makes_no_secret_and_brings_no_server_or_image_of_others() -> None:
    assert not any(VALUES["enableBuiltInSecretEnvVars"].values())
    named = VALUES | {f"data.{key}": value for key, value in VALUES["data"].items()}
    assert secrets_of_the_chart(named) == []
    for secret, key in CHART["secrets"].items():
        assert secrets_of_the_chart(named | {key: None}) == [secret], "without the name it would be seen"
    assert {named[key] for key in CHART["secrets"].values()} == {"rempart-scheduler"}
    for part in ("postgresql", "redis", "statsd", "pgbouncer", "flower"):
        assert VALUES[part] == {"enabled": False}, part
    for part in ("migrateDatabaseJob", "createUserJob"):  # their accounts would be made without them
        assert VALUES[part] == {"enabled": False, "serviceAccount": {"create": False}}, part
    assert (
        "dags" in VALUES and not VALUES["dags"]["gitSync"]["enabled"] and not VALUES["logs"]["persistence"]["enabled"]
    )
    assert VALUES["networkPolicies"]["enabled"] is True
    for name in COMPONENTS:  # their init container and sidecar would run scripts of the official image
        assert VALUES[name]["waitForMigrations"] == {"enabled": False}
        assert VALUES[name].get("logGroomerSidecar", {"enabled": False}) == {"enabled": False}


def test_components_are_started_by_the_command_that_composes_their_settings() -> None:
    started = {f"airflow-{VALUES[name]['args'][3]}" for name in COMPONENTS}
    assert started == set(paths.AIRFLOW_COMPONENTS)
    for name in COMPONENTS:
        assert VALUES[name]["args"][:3] == ["rempart", "run", "airflow"]
        assert VALUES[name]["resources"]["limits"]["memory"]
        if VALUES[name]["replicas"] > 1:
            assert VALUES[name]["podDisruptionBudget"]["enabled"]
        for topology_spread_constraint in VALUES[name].get("topologySpreadConstraints", ()):
            component = topology_spread_constraint["labelSelector"]["matchLabels"]["component"]
            assert component == VALUES[name]["args"][3]
    assert not every("PodDisruptionBudget"), "with two budgets for a pod, it cannot be evicted"
    assert Path(VALUES["airflowHome"]) == containers.VAR / "airflow"
    for name in ("dagProcessor", "triggerer"):
        assert VALUES[name]["serviceAccount"]["automountServiceAccountToken"] is False


def test_a_drained_node_takes_neither_every_scheduler_nor_every_api_server() -> None:
    budgets = {name: VALUES[name]["podDisruptionBudget"]["config"] for name in ("apiServer", "scheduler", "triggerer")}
    assert {name for name in COMPONENTS if VALUES[name]["replicas"] > 1} == set(budgets)
    for name, budget in budgets.items():
        assert budget["maxUnavailable"] < VALUES[name]["replicas"] == 2
        (spread,) = VALUES[name]["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway", "a cluster of one node has both"


def test_a_process_that_hangs_is_started_anew_and_one_that_starts_or_waits_is_not() -> None:
    mlflow = deployment("mlflow")
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {health["httpGet"]["path"] for health in probes.values()} == {"/health"}
    patience = {name: health["periodSeconds"] * health.get("failureThreshold", 3) for name, health in probes.items()}
    assert patience["startup"] >= 300 and patience["liveness"] >= 600 and patience["readiness"] <= 60
    checks = {"scheduler": "SchedulerJob", "dagProcessor": "DagProcessorJob", "triggerer": "TriggererJob"}
    for name, job in checks.items():
        probe = VALUES[name]["livenessProbe"]
        assert probe["command"][-6:] == ["airflow", "jobs", "check", "--local", "--job-type", job]
        assert probe["timeoutSeconds"] >= 30, "Airflow's own command takes seconds to import"
        every_one, failures = (
            CHART["defaults"][f"{name}.livenessProbe.{key}"] for key in ("periodSeconds", "failureThreshold")
        )
        assert probe["timeoutSeconds"] <= every_one and 60 <= every_one * failures <= 600, "minutes, as the page says"


def test_the_release_is_that_of_the_lock_and_the_page_names_one_version_of_the_chart() -> None:
    lock = (ROOT / "requirements.txt").read_text("utf-8")
    assert f"apache-airflow=={VALUES['airflowVersion']} " in lock
    pages = PAGE + (ROOT / "deploy/helm/values.yaml").read_text("utf-8")
    assert set(re.findall(r"--version ([\d.]+)", pages)) == {CHART["version"]}
