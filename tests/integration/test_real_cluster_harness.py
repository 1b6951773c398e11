"""The harness of `make test-k8s`: some of its tests, on a double in another process, only through its HTTP API."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup.paths import Stack
from tests import clusters as chosen
from tests import pods
from tests.api_cluster import NotUsable, RealCluster, Settings
from tests.faults.test_training import (  # noqa: F401 - pytest finds them here
    clusters,
    home,
    test_t4_a_pod_on_a_node_outside_the_policy_is_killed_before_it_has_any_credential,
    trial,
)
from tests.faults.test_training_api import (  # noqa: F401 - pytest finds them here
    test_t8_an_answer_that_is_lost_makes_no_second_pod,
    test_t9_a_quota_that_refuses_the_pod_sends_the_job_to_the_next_pool,
)

pytestmark = [pytest.mark.tracking, pytest.mark.full]
HOST = "127.0.0.2"
"""Not where the stack listens: jobs come through the forwarders, as they do from a real cluster."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `make test-k8s` is told, for a cluster that runs beside us."""
    folder = tmp_path_factory.mktemp("cluster")
    kubeconfig, told = folder / "kubeconfig", folder / "told"
    told.write_text(f'#!/bin/sh\necho "$1 $2" >> {folder}/told.log\n')
    told.chmod(0o755)
    command = [sys.executable, "-m", "tests.kubernetes_double", "--kubeconfig", str(kubeconfig), "--image", pods.IMAGE]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=pods.ROOT, stderr=log) as server:
        try:
            deadline = time.monotonic() + 60
            while not kubeconfig.exists():
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield {
                "KUBECONFIG": str(kubeconfig),
                "REMPART_TEST_K8S_OWN_CLUSTER": "yes",
                "REMPART_TEST_K8S_IMAGE": pods.IMAGE,
                "REMPART_TEST_K8S_HOST": HOST,
                "REMPART_TEST_K8S_PATIENCE": "1",
                "REMPART_TEST_K8S_NODE_COMMAND": str(told),
                chosen.CHOSEN: "yes",
            }
        finally:
            server.terminate()


def state(found: RealCluster) -> list[Any]:
    """What the cluster is, without what its machines report by themselves."""
    nodes = found.api.list_node().items
    return [
        [item.metadata.name for item in found.api.list_namespace().items],
        *[(n.metadata.name, n.metadata.labels, n.metadata.annotations or {}, n.spec.taints or []) for n in nodes],
        *[(n.status.capacity, n.status.allocatable) for n in nodes],
    ]


@pytest.fixture(scope="module", autouse=True)
def cluster(stack: Stack, environment: dict[str, str]) -> Iterator[None]:
    """The cluster of the run, which is afterwards as it was before."""
    looker = RealCluster(Settings.of(environment), [], 0)
    before = state(looker)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        with chosen.chosen([stack.ports["primary"]], stack.ports["mlflow"]):
            assert state(looker) != before
            yield
    chosen.until(lambda: state(looker) == before)


def test_a_cluster_with_somebodys_namespace_is_refused(environment: dict[str, str]) -> None:
    found = RealCluster(Settings.of(environment), [], 0)
    found.api.patch_namespace("training-gpu-a", {"metadata": {"labels": {"test.rempart.eu/pool": None}}})
    with pytest.raises(NotUsable, match="training-gpu-a, not made by these tests"):
        found.look()
    found.api.patch_namespace("training-gpu-a", {"metadata": {"labels": {"test.rempart.eu/pool": "gpu-a"}}})


def test_a_node_that_a_test_disturbs_is_mended_at_its_end(environment: dict[str, str]) -> None:
    found = chosen.real()
    assert found
    with found.fresh({}) as pools:
        node = pools["gpu-a"].node
        pools["gpu-a"].lose_node()
        pools["gpu-a"].starve("a-pod")
    log = Path(environment["REMPART_TEST_K8S_NODE_COMMAND"] + ".log")
    assert log.read_text().splitlines() == [f"lose {node}", f"starve {node}", f"mend {node}"]


def test_everything_that_is_missing_is_named_at_once() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REMPART_", "KUBE"))}
    told = subprocess.run(
        [sys.executable, "-m", "tests.real_cluster"],
        cwd=pods.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2
    for name in ("KUBECONFIG", "OWN_CLUSTER=yes", "IMAGE", "HOST"):
        assert name in told.stderr
