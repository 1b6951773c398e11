"""`make test-k8s`: a real API server accepts every manifest of the platform, and the chart's objects for our values.

Nothing stays: the tests use a server-side dry run in a namespace of their own, which they remove.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.deployment.kubernetes import cluster
from tests.chart import Chart
from tests.clusters import CHOSEN
from tests.unit.deploy.platform_files import MANAGED, OVERLAYS, ROOT, every, given, rendered, stack, task_pod

VALUES = ROOT / "deploy" / "helm" / "values.yaml"
CHART = os.environ.get("REMPART_TEST_K8S_CHART", "")

pytestmark = [
    pytest.mark.skipif(os.environ.get(CHOSEN) != "yes", reason="needs a real cluster: make test-k8s"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl"),
]


def kubectl(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, check=False)


@pytest.fixture
def namespace() -> Iterator[str]:
    """One with the labels of the platform's."""
    (made,) = every("Namespace")
    name = f"rempart-dry-run-{secrets.token_hex(4)}"
    made = {**made, "metadata": {**made["metadata"], "name": name}}
    done = kubectl("create", "-f", "-", given=yaml.safe_dump(made))
    assert done.returncode == 0, done.stderr
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def dry_run(documents: list[dict[str, Any]], namespace: str) -> None:
    """The API server's answer to all of them; a pod that the profile refuses is a warning of its maker."""
    moved = [{**document, "metadata": {**document["metadata"], "namespace": namespace}} for document in documents]
    text = yaml.safe_dump_all(resource for resource in moved if resource["kind"] != "Namespace")
    done = kubectl("apply", "--dry-run=server", "-f", "-", given=text)
    assert done.returncode == 0, done.stderr
    assert "PodSecurity" not in done.stderr and "unknown field" not in done.stderr, done.stderr


@pytest.mark.parametrize("component", ["", "celery", "restore"])
def test_it_takes_the_platform_and_the_pod_of_a_task(namespace: str, tmp_path: Path, component: str) -> None:
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / MANAGED.relative_to(ROOT / "deploy" / "kubernetes")
    if component:
        with (overlay / "kustomization.yaml").open("a") as file:
            file.write(f"components: [../../{component}]\n")
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True).stdout
    dry_run([*yaml.safe_load_all(built), task_pod()], namespace)


def test_it_takes_the_secrets_that_init_writes(namespace: str, tmp_path: Path) -> None:
    cluster.initialise(stack(tmp_path), given())
    command = ["kubectl", "kustomize", tmp_path / cluster.FOLDER]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    dry_run(list(yaml.safe_load_all(built)), namespace)


def test_it_takes_the_rendered_way_out(namespace: str) -> None:
    dry_run([resource for resource in rendered() if resource["metadata"]["name"] == "rempart-egress"], namespace)


@pytest.mark.skipif(
    shutil.which("helm") is None or not CHART, reason="needs helm, and REMPART_TEST_K8S_CHART: the chart"
)
@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda file: file.stem if file else "values")
def test_it_takes_what_the_chart_makes_of_the_values(namespace: str, overlay: Path | None) -> None:
    values = [file for file in (VALUES, overlay) if file]
    dry_run(Chart("helm", Path(CHART)).rendered(values), namespace)
