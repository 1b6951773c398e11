"""deploy/helm and deploy/kubernetes/platform: confined, without a secret, and open only where they are meant to be."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import typer
import yaml
from kubernetes import client
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.access import managed_databases
from rempart.deployment.compose import containers
from rempart.deployment.kubernetes import cluster
from rempart.deployment.setup import credentials, layout
from rempart.errors import ConnectionMissing, StackError
from rempart.flows.restore import restore_command
from rempart.flows.shared import platform
from rempart.settings import config, pipelines
from rempart.settings.config import Config, parse_connection, read_env_file
from rempart.sovereignty import pods
from rempart.sovereignty.egress import endpoints, is_allowed, rules
from rempart.sovereignty.render import Cluster, kubernetes
from tests.reachable import Pod, reaches
from tests.unit.deploy.test_kubernetes import documents, model, violations

ROOT = Path(__file__).resolve().parents[3]
PLATFORM = ROOT / "deploy" / "kubernetes" / "platform"
CELERY = ROOT / "deploy" / "kubernetes" / "celery" / "broker.yaml"
RESTORE = ROOT / "deploy" / "kubernetes" / "restore" / "restore.yaml"
MANAGED = ROOT / "deploy" / "kubernetes" / "examples" / "managed"
FILES = sorted(PLATFORM.glob("*.yaml"))
PAGE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "helm" / "values.yaml").read_text("utf-8"))
OVERLAYS = sorted((ROOT / "deploy" / "helm").glob("values-*.yaml"))
CHART: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("airflow_chart.yaml").read_text("utf-8"))
COMPONENTS = ("apiServer", "scheduler", "dagProcessor", "triggerer")
TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict, "null": type(None)}
GIVEN = ("S3_PRIMARY", "S3_HAVEN", "S3_WITNESS_HAVEN", "S3_WATCH_HAVEN")


def every(kind: str) -> list[dict[str, Any]]:
    return [one for file in FILES for one in documents(file) if one["kind"] == kind]


@functools.cache
def project() -> Path:
    """A project whose rempart.yaml is the shipped one, with what the how-to tells to write in it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    block, *_ = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)  # of step 1
    shipped = yaml.safe_load((ROOT / "rempart.yaml").read_text("utf-8"))
    (folder / "rempart.yaml").write_text(yaml.safe_dump(shipped | yaml.safe_load(block), sort_keys=False))
    (folder / "include").symlink_to(ROOT / "include")
    return folder


def settings() -> Config:
    return config.load(project() / "rempart.yaml")


def stack(var: Path) -> layout.Stack:
    return layout.Stack(ROOT, var, settings(), python="/usr/bin/python3")


def given() -> dict[str, str]:
    """What a person exports before `rempart init --kubernetes`; secrets can be told apart."""
    sites = {
        f"AIRFLOW_CONN_{name}": json.dumps(
            {
                "conn_type": "aws",
                "login": name.lower(),
                "password": f"secret-{name}",
                "extra": {"endpoint_url": "https://s3.fr-par.scw.cloud"},
            },
            indent=1,
        )
        for name in GIVEN
    }
    return sites | {"AIRFLOW_CONN_PG_ADMIN": "postgresql://owner:secret-admin@db.acme.example:5432/postgres"}


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """What the Secrets are made of, by file."""
    inside = cluster.in_cluster(stack(tmp_path))
    return cluster.files(inside, cluster.plan(inside, {}, given()))


# --- manifests --------------------------------------------------------------------------------------------------------


def unknown(value: Any, kind: str, place: str) -> Iterator[str]:
    """Fields that the API's model of this kind does not have, all the way down."""
    if found := re.fullmatch(r"(?:list\[|dict\(str, |dict\[str, )(.+?)[\])]", kind):
        inner = value if isinstance(value, list) else value.values()
        for number, one in enumerate(inner):
            yield from unknown(one, found[1], f"{place}.{number}")
    elif hasattr(client, kind):
        known = getattr(client, kind)
        types = {known.attribute_map[name]: of for name, of in known.openapi_types.items()}
        for name, inner in value.items():
            if name not in types:
                yield f"{place}.{name}"
            elif inner is not None:
                yield from unknown(inner, types[name], f"{place}.{name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_manifest_is_of_a_known_kind_and_has_no_unknown_field_however_deep(file: Path) -> None:
    for document in documents(file):
        if document["kind"] == "Kustomization":
            assert set(document["resources"]) == {one.name for one in FILES} - {file.name}
            continue
        assert list(unknown(document, model(document), document["kind"])) == []
        assert document["metadata"].get("namespace", cluster.NAMESPACE) == cluster.NAMESPACE


def test_a_misspelt_field_would_be_seen() -> None:
    pod = {"spec": {"containers": [{"name": "a", "securityContext": {"readOnlyRootFileSystem": True}}]}}
    assert list(unknown(pod, "V1Pod", "Pod")) == ["Pod.spec.containers.0.securityContext.readOnlyRootFileSystem"]


def task_pod() -> dict[str, Any]:
    """The pod of a task, as the chart would write it for the executor."""
    text = VALUES["podTemplate"].replace('{{ include "airflow_image" . }}', image())
    text = text.replace("{{ .Values.executor }}", VALUES["executor"]).replace("{{ .Release.Name }}", "airflow")
    assert "{{" not in text
    pod: dict[str, Any] = yaml.safe_load(text)
    return pod


def image() -> str:
    return "{repository}@{digest}".format(**VALUES["images"]["airflow"])


def pod_specs() -> dict[str, dict[str, Any]]:
    """Every pod: of our manifests, of a task, and what the chart puts into each of its own."""
    ours = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in (*every("Job"), *every("Deployment"))}
    container = {"securityContext": VALUES["securityContexts"]["containers"], "image": image()}
    chart = {}
    for name in COMPONENTS:
        mounts = VALUES["volumeMounts"] + VALUES[name]["extraVolumeMounts"]
        chart[name] = {
            "securityContext": VALUES["securityContexts"]["pod"],
            "containers": [{"name": "chart", "volumeMounts": mounts, **container}],
            "volumes": VALUES["volumes"] + VALUES[name]["extraVolumes"],
        }
    return ours | {"task": task_pod()["spec"]} | chart


@pytest.mark.parametrize("name", ["rempart-prepare", "mlflow", "task", *COMPONENTS])
def test_every_pod_is_restricted_and_writes_what_is_its_own_alone(name: str) -> None:
    spec = pod_specs()[name]
    assert violations(spec) == []
    assert list(unknown(spec, "V1PodSpec", name)) == []
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (50000, 0)
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = {one["name"]: one for one in spec["volumes"]}
    writable = [one["name"] for one in container["volumeMounts"] if not one.get("readOnly")]
    assert all("sizeLimit" in volumes[one]["emptyDir"] for one in writable), "what is written has a bound, and ends"
    assert {one["mountPath"] for one in container["volumeMounts"]} == {
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
    accounts = {one["metadata"]["name"]: one["automountServiceAccountToken"] for one in every("ServiceAccount")}
    used = {spec.get("serviceAccountName", "default") for name, spec in pod_specs().items() if name not in COMPONENTS}
    assert accounts == dict.fromkeys(used, False)


def test_airflows_rights_are_these_and_nobody_else_has_one() -> None:
    """No command is run in a pod, and no Secret is read, through the cluster's API."""
    rights = {
        one["metadata"]["name"]: {
            (kind, verb) for rule in one["rules"] for kind in rule["resources"] for verb in rule["verbs"]
        }
        for one in every("Role")
    }
    assert rights == {
        "airflow-scheduler": {("pods", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")},
        "airflow-api-server": {("pods", "list"), ("pods/log", "get")},
    }
    bound = {
        (subject["kind"], subject["name"], one["roleRef"]["name"])
        for one in every("RoleBinding")
        for subject in one["subjects"]
    }
    assert bound == {("ServiceAccount", name, name) for name in rights}
    assert not (every("ClusterRole") or every("ClusterRoleBinding"))
    assert VALUES["rbac"] == {"create": False}, "the chart's rights are wider"
    assert VALUES["workers"]["kubernetes"]["serviceAccount"]["create"] is False


@pytest.mark.airflow  # to find a module of a package imports the package
def test_the_rights_are_those_that_the_executor_of_the_lock_uses() -> None:
    """Read off its source: a call that a new version adds would be answered 403 on a cluster, and nowhere before."""
    (place,) = find_spec("airflow.providers.cncf.kubernetes.executors").submodule_search_locations or ()
    text = "".join(file.read_text("utf-8") for file in sorted(Path(place).glob("kubernetes_executor*.py")))
    verbs = {"read": "get", "create": "create", "list": "list", "patch": "patch", "delete": "delete"}
    kinds = {"pod": "pods", "pod_log": "pods/log"}
    called = set(re.findall(r"client\.([a-z]+)_namespaced_([a-z_]+)", text))
    used = {(kinds.get(kind, kind), verbs.get(verb, verb)) for verb, kind in called}
    used |= {("pods", "watch")} if "watch.Watch()" in text else set()
    granted = {
        (kind, verb)
        for one in every("Role")
        for rule in one["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used == granted


def test_the_overlay_names_images_by_digest_and_changes_what_is_there() -> None:
    (overlay,) = documents(MANAGED / "kustomization.yaml")
    assert overlay["resources"] == ["../../platform"]
    used = {one["containers"][0]["image"] for name, one in pod_specs().items() if name in ("rempart-prepare", "mlflow")}
    assert {one["name"] for one in overlay["images"]} == used
    assert all(one["digest"].startswith("sha256:") for one in overlay["images"])
    (patch,) = overlay["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    (mlflow,) = every("Deployment")
    args = mlflow["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[int(change["path"].rpartition("/")[2])].startswith("--allowed-hosts=")
    assert change["value"].startswith("--allowed-hosts=mlflow:15000,")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_builds_the_overlay_and_the_secrets(tmp_path: Path) -> None:
    def build(folder: Path) -> list[dict[str, Any]]:
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
        return list(yaml.safe_load_all(done.stdout))

    images = re.findall(r"image: (.+)", yaml.safe_dump_all(build(MANAGED)))
    assert len(images) == 2 and all("@sha256:" in one for one in images)
    cluster.initialise(stack(tmp_path), lambda _: None, given())
    secrets = build(tmp_path / cluster.FOLDER)
    assert {one["metadata"]["name"] for one in secrets} == {
        *(f"rempart-{name}" for name in cluster.SECRETS),
        "rempart-broker",
    }
    assert all(one["kind"] == "Secret" and len(one["data"]) == 1 for one in secrets)


# --- the chart's values -----------------------------------------------------------------------------------------------


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
    mounts = {one["mountPath"]: one["name"] for one in VALUES["volumeMounts"]}
    empty = {one["name"] for one in VALUES["volumes"] if "emptyDir" in one}
    # the chart mounts its airflow.cfg into the home of each component
    files = [f"{VALUES['airflowHome']}/airflow.cfg"]
    for component in ("apiServer", "scheduler", "dagProcessor", "triggerer"):
        files += [one["mountPath"] for one in VALUES[component]["extraVolumeMounts"] if "subPath" in one]
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
    assert started == set(layout.AIRFLOW_COMPONENTS)
    for name in COMPONENTS:
        assert VALUES[name]["args"][:3] == ["rempart", "run", "airflow"]
        assert VALUES[name]["resources"]["limits"]["memory"]
        if VALUES[name]["replicas"] > 1:
            assert VALUES[name]["podDisruptionBudget"]["enabled"]
        for one in VALUES[name].get("topologySpreadConstraints", ()):
            component = one["labelSelector"]["matchLabels"]["component"]
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
    (mlflow,) = every("Deployment")
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {one["httpGet"]["path"] for one in probes.values()} == {"/health"}
    patience = {name: one["periodSeconds"] * one.get("failureThreshold", 3) for name, one in probes.items()}
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


# --- what runs in the pods --------------------------------------------------------------------------------------------


def test_a_tasks_pod_passes_the_policy_of_the_how_tos_configuration() -> None:
    pod = task_pod() | {"metadata": {**task_pod()["metadata"], "namespace": cluster.NAMESPACE}}
    pod["spec"]["containers"][0]["image"] = "rg.fr-par.scw.cloud/acme/rempart/airflow@sha256:" + "0" * 64
    found = pods.plan(settings(), pod, ["personal"], on=date(2026, 11, 24))
    assert found.pod is not None and found.pool == "platform", found.decision.reasons
    assert violations(found.pod["spec"]) == []
    elsewhere = settings().model_copy(update={"pools": {}})
    assert pods.plan(elsewhere, pod, ["personal"], on=date(2026, 11, 24)).pod is None, (
        "the page says why it is declared"
    )


def run(var: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a pod runs it: its variables are those of the manifest, its secrets a file."""
    pod = {one["name"]: one["value"] for one in task_pod()["spec"]["containers"][0]["env"]}
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
    for probe in ("startupProbe", "livenessProbe"):
        command = VALUES[name].get(probe, VALUES[name]["livenessProbe"])["command"]
        program, wrapper = command[0], command[1 : command.index("airflow")]
        assert program == "rempart" and command[command.index("airflow") :][:3] == ["airflow", "jobs", "check"]
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
    cluster.initialise(stack(tmp_path), lambda _: None, given())
    assert "REMPART_VAR=var/kubernetes rempart password airflow" in PAGE
    env = {"REMPART_HOME": str(project()), "PATH": os.environ["PATH"], "REMPART_VAR": str(tmp_path / cluster.FOLDER)}
    command = [sys.executable, "-m", "rempart.cli", "password", "airflow"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    kept = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)["AIRFLOW_CONN_AIRFLOW_API"]
    assert done.stdout.strip() == parse_connection("airflow_api", kept).password, done.stderr


def test_services_of_our_manifests_have_the_names_that_the_settings_use(made: dict[str, str]) -> None:
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in every("Service")}
    inside = cluster.in_cluster(stack(Path("var")))
    names = {name: inside.host(name) for name in ("mlflow", "airflow")}
    assert ports == {names[name].removesuffix(f".{cluster.NAMESPACE}.svc"): inside.ports[name] for name in names}
    assert ports["api-server"] == VALUES["ports"]["apiServer"]
    (mlflow,) = every("Deployment")
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    told = CliRunner().invoke(app, ["run", "mlflow", "--help"]).output
    for option in (part.partition("=")[0] for part in container["args"] if part.startswith("--")):
        assert option in told
    (allowed,) = [part for part in container["args"] if part.startswith("--allowed-hosts=")]
    connection = parse_connection("mlflow", read(made["mlflow.env"])["AIRFLOW_CONN_MLFLOW"])
    assert f"{connection.host}:{connection.port}" in allowed.partition("=")[2].split(",")


# --- secrets ----------------------------------------------------------------------------------------------------------


def read(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and line[0] != "#")


def test_no_secret_stands_in_a_manifest_and_each_that_is_mounted_is_made(made: dict[str, str]) -> None:
    assert not every("Secret")
    mounted = {
        one["secret"]["secretName"] for spec in pod_specs().values() for one in spec["volumes"] if "secret" in one
    }
    generated = {one["name"]: one["files"] for one in yaml.safe_load(made["kustomization.yaml"])["secretGenerator"]}
    assert set(generated) == mounted | {"rempart-broker"}
    assert generated.pop("rempart-broker") == ["broker.conf"]
    for name, files in generated.items():
        assert files == [f"{cluster.KEY}={name.removeprefix('rempart-')}.env"]
    text = "".join(file.read_text("utf-8") for file in (*FILES, *sorted(MANAGED.glob("*"))))
    assert not re.search(r"(?i)(password|secret_key|access_key)\s*[:=]\s*['\"]?\w", text)


def test_each_pod_is_given_what_it_needs_and_no_more(made: dict[str, str]) -> None:
    """The database's administrator prepares, and nobody else has him; the key of the watch stays outside."""
    holders = {
        word: {name for name in cluster.SECRETS if word in made[f"{name}.env"]}
        for word in (
            *("secret-admin", "secret-S3_WATCH_HAVEN", "secret-S3_WITNESS_HAVEN", "secret-S3_PRIMARY"),
            *("AIRFLOW_CONN_LEDGER_KEY=", "AIRFLOW_CONN_BACKUP_KEY=", "REMPART_AIRFLOW_API_SECRET="),
        )
    }
    assert holders == {
        "secret-admin": {"prepare"},
        "secret-S3_WATCH_HAVEN": set(),
        "secret-S3_WITNESS_HAVEN": {"tasks", "prepare"},
        # the API server reads logs of tasks at the active site, the triggerer writes those of its triggers
        "secret-S3_PRIMARY": {"tasks", "prepare", "mlflow", "api-server", "triggerer"},
        "AIRFLOW_CONN_LEDGER_KEY=": {"tasks", "prepare"},
        "AIRFLOW_CONN_BACKUP_KEY=": {"tasks", "prepare"},
        "REMPART_AIRFLOW_API_SECRET=": {"api-server", "prepare"},
    }
    for name in ("tasks.env", "mlflow.env", "api-server.env", "triggerer.env"):
        for variable, value in read(made[name]).items():
            if variable.startswith("AIRFLOW_CONN_"):
                assert parse_connection("x", value).password, variable


def test_the_files_are_closed_secrets_stay_and_what_is_given_again_is_taken(tmp_path: Path) -> None:
    told = list[str]()
    cluster.initialise(stack(tmp_path), told.append, given())
    folder = tmp_path / cluster.FOLDER
    before = read_env_file(folder / cluster.KEY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    cluster.initialise(stack(tmp_path), told.append, {})
    assert read_env_file(folder / cluster.KEY) == before, "nothing has to be exported twice"
    cluster.initialise(stack(tmp_path), told.append, {"AIRFLOW_CONN_S3_PRIMARY": "aws://key:renewed@"})
    after = read_env_file(folder / cluster.KEY)
    assert {name for name in before if before[name] != after[name]} == {"AIRFLOW_CONN_S3_PRIMARY"}
    for value in before.values():
        password = parse_connection("x", value).password if "conn" in value or "://" in value else value
        assert password and password not in "".join(told)


def test_what_nobody_but_the_team_can_know_is_named(tmp_path: Path) -> None:
    inside = cluster.in_cluster(stack(tmp_path))
    with pytest.raises(ConnectionMissing, match="AIRFLOW_CONN_S3_PRIMARY, AIRFLOW_CONN_S3_HAVEN, AIRFLOW_CONN_S3_WIT"):
        cluster.plan(inside, {}, {"AIRFLOW_CONN_PG_ADMIN": given()["AIRFLOW_CONN_PG_ADMIN"]})
    trial = replace(stack(tmp_path), config=config.load(ROOT / "rempart.yaml"))
    with pytest.raises(StackError, match="postgresql, primary, haven") as refused:
        cluster.in_cluster(trial)
    assert "services.<name>.external" in refused.value.hint


def test_the_databases_script_holds_verifiers_and_no_password(made: dict[str, str]) -> None:
    """The vector is that of RFC 7677; what the server keeps is that of PostgreSQL's own tests."""
    salt = bytes.fromhex("5b6d99689d12358eeca04b14123 6fa81".replace(" ", ""))
    assert managed_databases.verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    for variable, value in read(made["prepare.env"]).items():
        if variable.startswith("AIRFLOW_CONN_PG_"):
            assert parse_connection("x", value).password not in made["databases.sql"]
    assert set(re.findall(r"CREATE DATABASE (\w+)", made["databases.sql"])) == set(config.DATABASES)


def test_images_are_built_before_anybody_knows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The how-to builds first: all stores of its rempart.yaml are the operator's, and no connection is defined yet."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REMPART_HOME", str(project()))
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "-C", ROOT, "images", "CLUSTER=yes"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (command,) = [line for line in planned.splitlines() if line.startswith(".venv/bin/rempart init")]
    settings = tmp_path / ".env"
    done = CliRunner().invoke(app, [*command.split()[1:], "--settings", str(settings)])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "compose"
    assert read_env_file(settings)["REMPART_FILES"] == str(folder)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    read = {one["source"] for one in compose["x-build"]["secrets"]}
    assert {file.name for file in folder.iterdir()} == read
    assert "make images CLUSTER=yes" in PAGE


# --- ways -------------------------------------------------------------------------------------------------------------

PODS = {
    "api-server": Pod({"tier": "airflow", "component": "api-server"}),
    "scheduler": Pod({"tier": "airflow", "component": "scheduler"}),
    "dag-processor": Pod({"tier": "airflow", "component": "dag-processor"}),
    "triggerer": Pod({"tier": "airflow", "component": "triggerer"}),
    "task": Pod({"tier": "airflow", "component": "worker"}),
    "mlflow": Pod({"app.kubernetes.io/name": "mlflow"}),
    "prepare": Pod({"app.kubernetes.io/name": "rempart-prepare"}),
    "front": Pod({"app": "ingress"}, "ingress", {"rempart.eu/front": "true"}),
    "job": Pod({}, "training", {"rempart.eu/jobs": "true"}),
    "stranger": Pod({"tier": "airflow", "component": "worker"}, "other"),
}
OPEN = {
    ("task", "api-server", 18080),
    ("task", "mlflow", 15000),
    ("api-server", "mlflow", 15000),
    ("front", "api-server", 18080),
    ("front", "mlflow", 15000),
    ("job", "mlflow", 15000),
}


def rendered() -> list[dict[str, Any]]:
    """Ours, and what `rempart policy render kubernetes` adds for the how-to's configuration."""
    inside = cluster.in_cluster(stack(Path("var")))
    secrets = cluster.plan(inside, {}, given())
    led = endpoints(inside.config, credentials.connections(inside, secrets))
    listed = rules(inside.config, led, on=date(2026, 11, 24))
    assert is_allowed(listed, "mlflow.airflow.svc", 15000) and is_allowed(listed, "db.acme.example", 5432)
    texts = kubernetes(listed, {"s3.fr-par.scw.cloud": ("203.0.113.9",)}, Cluster(api_servers=(("10.32.0.1", 443),)))
    return [*every("NetworkPolicy"), yaml.safe_load(texts["networkpolicy-airflow.yaml"])]


@pytest.mark.parametrize("policies", [every("NetworkPolicy"), rendered()], ids=["ours", "with the rendered one"])
def test_pods_reach_what_they_need_and_nothing_else(policies: list[dict[str, Any]]) -> None:
    ports = (18080, 15000, 8793, 22)
    found = {
        (source, target, port)
        for source in PODS
        for target in PODS
        for port in ports
        if source != target and PODS[target].namespace == cluster.NAMESPACE
        if reaches(policies, PODS[source], PODS[target], port)
    }
    assert found == OPEN


def test_a_job_of_a_pool_in_this_cluster_reaches_the_tracking_server_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the pool's namespace, `mlflow` alone would be a name of that namespace. Rendered as the how-to says."""
    settings = yaml.safe_load((project() / "rempart.yaml").read_text("utf-8"))
    settings["pools"]["paris"] = settings["pools"]["platform"] | {"namespace": "training"}
    home = tmp_path / "home"
    home.mkdir()
    (home / "include").symlink_to(ROOT / "include")
    (home / "rempart.yaml").write_text(yaml.safe_dump(settings))
    cluster.initialise(replace(stack(tmp_path), config=config.load(home / "rempart.yaml")), lambda _: None, given())
    for variable, value in (given() | {"REMPART_HOME": str(home)}).items():
        monkeypatch.setenv(variable, value)
    page = (ROOT / "docs" / "how-to" / "gpu-pools.md").read_text("utf-8")
    assert "REMPART_VAR=var/kubernetes rempart policy render kubernetes" in page and "rempart.eu/jobs=true" in page
    monkeypatch.setenv("REMPART_VAR", str(tmp_path / cluster.FOLDER))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("203.0.113.9", 443))])
    done = CliRunner().invoke(app, ["policy", "render", "kubernetes", "--out", str(tmp_path / "policies")])
    assert done.exit_code == 0, done.output
    rendered_ones = [yaml.safe_load(file.read_text("utf-8")) for file in (tmp_path / "policies").glob("*.yaml")]
    pool = [
        one
        for one in documents(ROOT / "deploy/kubernetes/pool/network-policies.yaml")
        if one["kind"] == "NetworkPolicy"
    ]
    policies = [*every("NetworkPolicy"), *pool, *rendered_ones]
    job, other = Pod({}, "training", {"rempart.eu/jobs": "true"}), Pod({}, "training")
    assert reaches(policies, job, PODS["mlflow"], 15000) and not reaches(policies, other, PODS["mlflow"], 15000)
    assert not reaches(policies, job, PODS["api-server"], 18080)
    inside = cluster.in_cluster(stack(tmp_path))
    (mlflow,) = every("Deployment")
    (allowed,) = [
        part
        for part in mlflow["spec"]["template"]["spec"]["containers"][0]["args"]
        if part.startswith("--allowed-hosts=")
    ]
    assert f"{inside.host('mlflow')}:{inside.ports['mlflow']}" in allowed.partition("=")[2].split(",")


def test_every_name_is_looked_up_and_nothing_else_is_reached_outside() -> None:
    dns = Pod({"k8s-app": "kube-dns"}, "kube-system")
    outside = Pod({"app": "anything"}, "kube-system")
    for name, pod in PODS.items():
        if pod.namespace == cluster.NAMESPACE:
            assert reaches(every("NetworkPolicy"), pod, dns, 53), name
            assert not reaches(rendered(), pod, outside, 443), name
            assert not reaches(rendered(), pod, PODS["stranger"], 18080), name


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_files_and_commands_that_exist() -> None:
    for path in re.findall(r"deploy/[\w./-]*\w", PAGE):
        assert path.startswith("deploy/kubernetes/examples/acme") or (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / "how-to" / link).exists(), link
    told = CliRunner().invoke(app, ["init", "--help"]).output
    assert "--kubernetes" in told
    labels = {f"rempart.eu/{name}=true" for name in ("front", "jobs", "restore")}
    assert set(re.findall(r"rempart\.eu/\w+=true", PAGE)) == labels


def test_the_page_delivers_the_sample_before_it_starts_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a delivery, ingestion succeeds with nothing, and no stage after it starts."""
    code, _, after = PAGE.partition("python - <<'PY'\n")[2].partition("\nPY\n")
    written: list[tuple[str, str]] = []
    site = SimpleNamespace(write=lambda bucket, key, body, **_: written.append((bucket, key)))
    opened = SimpleNamespace(config=settings(), active_site=lambda classification: site)
    monkeypatch.setattr(platform, "open_platform", lambda: opened)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "the page", "exec"), {})  # noqa: S102 # the page's own lines
    prefix = pipelines.named("hotel_bookings").source.prefix
    assert len(written) > 10
    assert all(bucket == "landing" and key.startswith(prefix) for bucket, key in written)
    assert "run trigger ingest_hotel_bookings" in after


def test_the_pages_patch_has_every_pod_of_ours_verify_the_databases_certificate() -> None:
    """It replaces a variable by its place, so the places have to be as the page takes them to be."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (block,) = (yaml.safe_load(one) for one in blocks if "postgresql-ca" in one)
    (patch,) = block
    ours = [*every("Job"), *every("Deployment"), *(one for one in documents(RESTORE) if one["kind"] == "Job")]
    kind, name = (re.compile(patch["target"][key]) for key in ("kind", "name"))
    assert len(ours) == 3
    for one in ours:
        assert kind.fullmatch(one["kind"]) and name.fullmatch(one["metadata"]["name"]), one["metadata"]
        (container,) = one["spec"]["template"]["spec"]["containers"]
        for step in yaml.safe_load(patch["patch"]):
            *_, part, place = step["path"].split("/")
            if part == "env" and place != "-":
                container["env"][int(place)] = step["value"]
            elif part == "env":
                container["env"].append(step["value"])
        assert {entry["name"]: entry["value"] for entry in container["env"]} == {
            "REMPART_CONTAINERS": "kubernetes",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/run/postgresql-ca/ca.pem",
        }


def test_the_page_starts_the_release_after_the_schemas_were_migrated() -> None:
    """A block that applies the preparing job and then starts the chart's release waits for the job in between."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    both = [one for one in blocks if "examples/acme  " in one and "\nhelm upgrade" in one]
    assert both
    for block in both:
        between = block.partition("examples/acme  ")[2].partition("\nhelm upgrade")[0]
        assert "kubectl wait --namespace airflow --for=condition=complete" in between, block


def typed(page: str) -> list[list[str]]:
    """Commands of ours that a page tells a person to type, here or in a pod, as words."""
    text = "".join(re.findall(r"```bash\n(.*?)```", page, re.S)).replace("\\\n", " ")
    lines = [line.partition("   #")[0].partition(" && ")[0] for line in text.splitlines()]
    found = [re.search(r"(?:^|-- |^REMPART_VAR=\S+ )(rempart .*|make .*)$", line) for line in lines]
    return [shlex.split(one[1].partition(" > ")[0], comments=True) for one in found if one]


@pytest.mark.parametrize("name", ["kubernetes", "gpu-pools"])
def test_each_command_of_a_page_is_one_with_such_options(name: str) -> None:
    commands = typed((ROOT / "docs" / "how-to" / f"{name}.md").read_text("utf-8"))
    assert len(commands) >= 5
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    targets |= {file.stem.replace("_", "-") for file in (ROOT / "bench").glob("prove_*.py")}
    for program, *words in commands:
        if program == "make":
            assert words[0] in targets
            continue
        command, context = typer.main.get_command(app), None
        while isinstance(command, click.Group):
            found = command.commands.get(words[0])
            assert found, f"rempart {' '.join(words)}"
            command, words = found, words[1:]
        with command.make_context(command.name, [*words], parent=context):
            pass  # raises UsageError for an option or an argument that the command does not have


def test_the_configuration_of_the_page_is_valid_and_its_policy_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("203.0.113.9", 443))])
    asked = [words[1:] for words in typed(PAGE) if words[:2] in (["rempart", "config"], ["rempart", "policy"])]
    assert [words[:2] for words in asked] == [["config", "check"], ["policy", "show"], ["policy", "render"]]
    monkeypatch.chdir(tmp_path)
    for words in asked:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
    applied = re.findall(r"kubectl apply -f (policies/\S+)", PAGE)
    assert applied and all((tmp_path / file).is_file() for file in applied)


# --- back from a restore point ----------------------------------------------------------------------------------------


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
    cluster.initialise(stack(tmp_path), lambda _: None, given(), restored=point)
    after = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert parse_connection("s3_primary", after["AIRFLOW_CONN_S3_PRIMARY"]).login == "s3_primary", "the new store's key"
    cluster.initialise(stack(tmp_path), lambda _: None, {}, restored=point)
    assert read_env_file(tmp_path / cluster.FOLDER / cluster.KEY) == after
    with pytest.raises(StackError, match="other secrets than the restore point: REMPART_AIRFLOW_FERNET_KEY"):
        cluster.initialise(stack(tmp_path), lambda _: None, {}, restored={"REMPART_AIRFLOW_FERNET_KEY": "another"})
    assert read_env_file(tmp_path / cluster.FOLDER / cluster.KEY) == after


def test_init_hands_the_secrets_of_the_point_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(restore_command, "secrets_of", lambda *_: {"REMPART_AIRFLOW_FERNET_KEY": "of the point"})
    done = CliRunner().invoke(app, ["init", "--kubernetes", "--from-point"])
    assert done.exit_code == 0, done.output
    made = read_env_file(tmp_path / cluster.FOLDER / cluster.KEY)
    assert made["REMPART_AIRFLOW_FERNET_KEY"] == "of the point"


@pytest.mark.parametrize("other", ["--kubernetes", "--from-point"])
def test_what_a_build_reads_is_made_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    for name, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(restore_command, "secrets_of", lambda *_: {})
    done = CliRunner().invoke(app, ["init", "--images", other])
    assert isinstance(done.exception, StackError) and other in done.exception.what
    assert not (tmp_path / cluster.FOLDER).exists()


def test_the_restoring_job_is_confined_and_has_what_the_command_needs(made: dict[str, str]) -> None:
    job, *policies = documents(RESTORE)
    for document in (job, *policies):
        assert list(unknown(document, model(document), document["kind"])) == []
        assert document["metadata"]["labels"] == {"rempart.eu/restore": "true"}
    assert job["spec"]["backoffLimit"] == 0, "with --i-know in its arguments, a second pod drops what the first filled"
    spec = job["spec"]["template"]["spec"]
    assert violations(spec) == [] and spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True and container["resources"]["limits"]["memory"]
    assert container["args"][:2] == ["rempart", "restore"]
    options = [part.partition("=")[0] for part in container["args"][2:]]
    told = CliRunner().invoke(app, ["restore", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in options) and "--yes" in options
    (mounted,) = [one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one]
    for name in ("AIRFLOW_CONN_PG_ADMIN=", "AIRFLOW_CONN_BACKUP_KEY=", "AIRFLOW_CONN_S3_HAVEN="):
        assert name in made[f"{mounted.removeprefix('rempart-')}.env"]
    assert spec["serviceAccountName"] in {one["metadata"]["name"] for one in every("ServiceAccount")}
    restoring, together = Pod(job["spec"]["template"]["metadata"]["labels"]), [*every("NetworkPolicy"), *policies]
    ours = {name: pod for name, pod in PODS.items() if pod.namespace == cluster.NAMESPACE}
    found = {
        (name, port) for name, pod in ours.items() for port in (18080, 15000) if reaches(together, restoring, pod, port)
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
    assert [one["metadata"]["name"] for one in built if one["kind"] == "Job"] == ["rempart-restore"]
    assert [one["spec"]["replicas"] for one in built if one["kind"] == "Deployment"] == [0]
    images = re.findall(r"image: (.+)", done.stdout)
    assert len(images) == 2 and all("@sha256:" in one for one in images)


# --- workers that stay ------------------------------------------------------------------------------------------------


def test_the_broker_knows_the_password_that_airflow_has_by_its_hash_alone(made: dict[str, str]) -> None:
    password = read(made["tasks.env"])["REMPART_AIRFLOW_BROKER_PASSWORD"]
    assert hashlib.sha256(password.encode()).hexdigest() in made["broker.conf"] and password not in made["broker.conf"]
    assert "AIRFLOW_CONN_MONITORING" not in made["tasks.env"]
    (mounted,) = [one for one in documents(CELERY)[0]["spec"]["template"]["spec"]["volumes"] if "secret" in one]
    assert mounted["secret"]["secretName"] == "rempart-broker"


def test_the_broker_is_restricted_keeps_nothing_and_is_reached_by_who_gives_and_takes_tasks() -> None:
    deployment, service, *policies = documents(CELERY)
    for document in (deployment, service, *policies):
        assert list(unknown(document, model(document), document["kind"])) == []
    spec = deployment["spec"]["template"]["spec"]
    assert violations(spec) == [] and spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert [one["emptyDir"]["medium"] for one in spec["volumes"] if "emptyDir" in one] == ["Memory"]
    broker = Pod(deployment["spec"]["template"]["metadata"]["labels"])
    together = [*every("NetworkPolicy"), *policies]
    found = {name for name, pod in PODS.items() if reaches(together, pod, broker, service["spec"]["ports"][0]["port"])}
    assert found == {"scheduler", "task"}


def test_with_workers_that_stay_nobody_has_a_token_and_their_command_is_ours() -> None:
    (file,) = OVERLAYS
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
        made = {one["metadata"]["name"] for one in every(patch["target"]["kind"])}
        assert made == {name for name in made if re.fullmatch(patch["target"]["name"], name)} != set()
    assert {patch["target"]["kind"] for patch in component["patches"]} == {"Role", "RoleBinding"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_takes_the_rights_away(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "examples" / "managed"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../celery]\n")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True)
    made = {one["kind"] for one in yaml.safe_load_all(done.stdout)}
    assert not made & {"Role", "RoleBinding"} and {"Deployment", "ServiceAccount"} <= made
