"""The platform on Kubernetes for its tests: its files, the how-to's configuration, and the resulting pods."""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from rempart.deployment.kubernetes import cluster
from rempart.deployment.setup import credentials, paths
from rempart.settings import config
from rempart.settings.config import Config
from rempart.sovereignty.egress import endpoints, is_allowed, rules
from rempart.sovereignty.render import Cluster, kubernetes
from tests.reachable import Pod
from tests.unit.deploy.test_kubernetes import documents

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
PODS = {
    "api-server": Pod({"tier": "airflow", "component": "api-server"}),
    "scheduler": Pod({"tier": "airflow", "component": "scheduler"}),
    "dag-processor": Pod({"tier": "airflow", "component": "dag-processor"}),
    "triggerer": Pod({"tier": "airflow", "component": "triggerer"}),
    "task": Pod({"tier": "airflow", "component": "worker"}),
    "mlflow": Pod({"app.kubernetes.io/name": "mlflow"}),
    "landing-watch": Pod({"app.kubernetes.io/name": "landing-watch"}),
    "prepare": Pod({"app.kubernetes.io/name": "rempart-prepare"}),
    "front": Pod({"app": "ingress"}, "ingress", {"rempart.eu/front": "true"}),
    "job": Pod({}, "training", {"rempart.eu/jobs": "true"}),
    "stranger": Pod({"tier": "airflow", "component": "worker"}, "other"),
}
OPEN = {
    ("landing-watch", "api-server", 18080),
    ("task", "api-server", 18080),
    ("task", "mlflow", 15000),
    ("api-server", "mlflow", 15000),
    ("front", "api-server", 18080),
    ("front", "mlflow", 15000),
    ("job", "mlflow", 15000),
}


def every(kind: str) -> list[dict[str, Any]]:
    return [document for file in FILES for document in documents(file) if document["kind"] == kind]


def deployment(name: str) -> dict[str, Any]:
    """The Deployment of that name."""
    return next(found for found in every("Deployment") if found["metadata"]["name"] == name)


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


def stack(var: Path) -> paths.Stack:
    return paths.Stack(ROOT, var, settings(), python="/usr/bin/python3")


def given() -> dict[str, str]:
    """What a person exports before `rempart stack init --kubernetes`; secrets can be told apart."""
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


def unknown(value: Any, kind: str, place: str) -> Iterator[str]:
    """Fields that the API's model of this kind does not have, all the way down."""
    if found := re.fullmatch(r"(?:list\[|dict\(str, |dict\[str, )(.+?)[\])]", kind):
        inner = value if isinstance(value, list) else value.values()
        for number, element in enumerate(inner):
            yield from unknown(element, found[1], f"{place}.{number}")
    elif hasattr(client, kind):
        known = getattr(client, kind)
        types = {known.attribute_map[name]: of for name, of in known.openapi_types.items()}
        for name, inner in value.items():
            if name not in types:
                yield f"{place}.{name}"
            elif inner is not None:
                yield from unknown(inner, types[name], f"{place}.{name}")


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
    ours = {job["metadata"]["name"]: job["spec"]["template"]["spec"] for job in (*every("Job"), *every("Deployment"))}
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


def read(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and line[0] != "#")


def rendered() -> list[dict[str, Any]]:
    """Ours, and what `rempart policy render kubernetes` adds for the how-to's configuration."""
    inside = cluster.in_cluster(stack(Path("var")))
    secrets = cluster.plan(inside, {}, given())
    led = endpoints(inside.config, credentials.connections(inside, secrets))
    listed = rules(inside.config, led, on=date(2026, 11, 24))
    assert is_allowed(listed, "mlflow.airflow.svc", 15000) and is_allowed(listed, "db.acme.example", 5432)
    texts = kubernetes(listed, {"s3.fr-par.scw.cloud": ("203.0.113.9",)}, Cluster(api_servers=(("10.32.0.1", 443),)))
    return [*every("NetworkPolicy"), yaml.safe_load(texts["networkpolicy-airflow.yaml"])]
