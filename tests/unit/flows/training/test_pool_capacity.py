"""Known free GPUs of the pools: running clusters (doubles) are asked in parallel, and nothing waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rempart.flows.training import pool_capacity
from rempart.flows.training.pool_capacity import known_free
from rempart.settings.config import Config, environment_connections, load
from tests import pods
from tests.kubernetes_double import KubernetesDouble

NAMES = list(pods.POOLS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return pods.project(tmp_path)


@pytest.fixture
def clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, KubernetesDouble]]:
    with pods.clusters(home, {"gpu-a": 1, "gpu-b": 4}) as made, pods.connected(monkeypatch, made):
        yield made


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """These clusters answer, however slow the machine is."""
    monkeypatch.setattr(pool_capacity, "SECONDS", 120.0)


@pytest.fixture
def config(home: Path) -> Config:
    return load(home / "rempart.yaml")


def test_free_gpus_are_known_by_pool(
    clusters: Mapping[str, KubernetesDouble], config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    assert known_free(config, environment_connections, NAMES, 2) == {"gpu-a": 0, "gpu-b": 4, "gpu-us": 2}
    assert not caplog.messages


def test_nobody_is_asked_for_a_job_without_gpus(clusters: Mapping[str, KubernetesDouble], config: Config) -> None:
    before = {name: len(double.requests) for name, double in clusters.items()}  # those that gave the rights
    assert known_free(config, environment_connections, NAMES, 0) == {}
    assert {name: len(double.requests) for name, double in clusters.items()} == before


@pytest.mark.full
def test_a_pool_that_does_not_answer_is_not_known_and_holds_up_nobody(
    clusters: Mapping[str, KubernetesDouble],
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pool_capacity, "SECONDS", 20.0)
    monkeypatch.delenv("AIRFLOW_CONN_K8S_GPU_US")
    clusters["gpu-a"].latency(600)
    assert known_free(config, environment_connections, NAMES, 1) == {"gpu-b": 4}
    assert [line.partition(" are ")[0][-8:] for line in caplog.messages] == ["'gpu-us'", " 'gpu-a'"]
    assert all("not known" in line for line in caplog.messages)


def test_a_pool_that_refuses_to_show_its_nodes_is_not_known(
    clusters: Mapping[str, KubernetesDouble], config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    clusters["gpu-b"].fail(403, times=10, path_contains="/nodes")
    assert "gpu-b" not in known_free(config, environment_connections, ["gpu-b"], 1)
    assert "403" in caplog.messages[0]
