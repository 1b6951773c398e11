"""Which pod reaches which: the platform's NetworkPolicies, applied to a model."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.kubernetes import cluster
from rempart.settings import config
from tests.reachable import Pod, reaches
from tests.unit.deploy.platform_files import (
    OPEN,
    PODS,
    ROOT,
    deployment,
    every,
    given,
    project,
    rendered,
    stack,
)
from tests.unit.deploy.test_kubernetes import documents


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
    settings["gpu_pools"]["paris"] = settings["gpu_pools"]["platform"] | {"namespace": "training"}
    home = tmp_path / "home"
    home.mkdir()
    (home / "include").symlink_to(ROOT / "include")
    (home / "rempart.yaml").write_text(yaml.safe_dump(settings))
    cluster.initialise(replace(stack(tmp_path), config=config.load(home / "rempart.yaml")), given())
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
        document
        for document in documents(ROOT / "deploy/kubernetes/pool/network-policies.yaml")
        if document["kind"] == "NetworkPolicy"
    ]
    policies = [*every("NetworkPolicy"), *pool, *rendered_ones]
    job, other = Pod({}, "training", {"rempart.eu/jobs": "true"}), Pod({}, "training")
    assert reaches(policies, job, PODS["mlflow"], 15000) and not reaches(policies, other, PODS["mlflow"], 15000)
    assert not reaches(policies, job, PODS["api-server"], 18080)
    inside = cluster.in_cluster(stack(tmp_path))
    mlflow = deployment("mlflow")
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
