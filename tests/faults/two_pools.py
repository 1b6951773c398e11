"""A job in one of two pools, on doubles of their clusters or on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup.paths import Stack
from rempart.flows.shared.platform import Platform
from tests import clusters as chosen
from tests import pods
from tests.clusters import Cluster, patience
from tests.clusters import until as until_


def real_cluster(stack: Stack) -> Iterator[None]:
    """The real cluster, if this run is told of one."""
    with chosen.chosen([stack.ports["primary"]], stack.ports["mlflow"]):
        yield


def project_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = pods.project(tmp_path / "home")
    monkeypatch.setenv("REMPART_HOME", str(made))
    return made


def two_clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, Cluster]]:
    with pods.pools(home) as made, pods.connected(monkeypatch, made):
        yield made


def new_trial(platform: Platform, home: Path, clusters: Mapping[str, Cluster]) -> Iterator[pods.Trial]:
    with pods.trial(platform, home, clusters) as made:
        yield made


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    until_(condition, seconds * patience())


def runs(trigger: Any) -> bool:
    """Whether a pod has its node and its credentials: until then it waits for the operator, which waits for us."""
    return getattr(trigger, "await_node", None) is False


def nodes(trial: pods.Trial) -> tuple[str, str]:
    """The first nodes of both pools in the Union."""
    return trial.clusters["gpu-a"].node, trial.clusters["gpu-b"].node
