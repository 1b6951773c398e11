"""A container of a Docker Engine gets what its pod's spec says, and no value of a variable on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rempart.settings.pipeline_sections import SparkResources
from rempart.settings.sections import Pool
from rempart.sovereignty.pool_pods import USER
from rempart.spark.kubernetes import pods
from tests.kubernetes_double import containers
from tests.unit.spark.orders import order

POOL = Pool(operator="scaleway", region="fr-par", kubernetes_connection="k8s", namespace="spark")


def executor(**resources: Any) -> dict[str, Any]:
    ordered = order(resources=SparkResources(**resources))
    return pods.executor_template(ordered, 1, POOL, "registry.trial/rempart/spark@sha256:ab", seconds=60)


def test_an_executor_is_confined_and_limited_as_its_pod_is() -> None:
    pod = executor(cores=2, memory=1024)
    words = " ".join(containers.options(pod, pod["spec"]["containers"][0]))
    limit = (1024 + 384 + 2 * 512) << 20
    assert f"--cpus 2.0 --memory {limit} --memory-swap {limit}" in words
    assert f"--user {USER}:{USER}" in words and f"--group-add {USER}" in words
    assert "--read-only" in words and "--cap-drop ALL" in words and "--security-opt no-new-privileges" in words


def test_what_a_spec_does_not_restrict_is_not_restricted() -> None:
    """Otherwise the proof of an image would show restrictions that no pod has."""
    pod = executor()
    container = pod["spec"]["containers"][0]
    container["securityContext"] = {}
    pod["spec"]["securityContext"] = {}
    words = containers.options(pod, container)
    assert not {"--user", "--read-only", "--cap-drop", "--security-opt"} & set(words)


def test_a_container_without_a_limit_is_not_run() -> None:
    pod = executor()
    del pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    with pytest.raises(KeyError, match="memory"):
        containers.options(pod, pod["spec"]["containers"][0])


def test_folders_are_mounted_where_the_spec_says_and_secrets_read_only(tmp_path: Path) -> None:
    words = containers.volumes(executor()["spec"]["containers"][0], tmp_path)
    bound = {word.partition("target=")[2] for word in words if word != "--mount"}
    assert bound == {"/tmp", "/work", "/run/secrets/rempart,readonly"}


def test_memory_is_measured_where_the_kernel_tells_only_its_use_at_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.19 have no `memory.peak`."""
    monkeypatch.setattr(containers, "_CGROUPS", (str(tmp_path / "{}"),))
    (made := tmp_path / "c1").mkdir()
    told = {"memory.stat": "anon 60\nfile 40\n", "memory.events": "max 9\noom_kill 1\n"}
    for name, text in told.items():
        (made / name).write_text(text)
    container = object.__new__(containers.Container)
    container._ran = containers.Ran({})
    for use in (100, 90):
        (made / "memory.current").write_text(f"{use}\n")
        container._look("c1")
    assert (container._ran.peak, container._ran.own, container._ran.killed) == (100, 60, 1)


def test_the_values_of_variables_are_in_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(containers, "permit", lambda pod, home: None)
    monkeypatch.setattr(containers, "Container", lambda engine, name, words, *rest: started.append(list(words)))
    pod = executor() | {"status": {"podIP": "10.213.0.10"}}
    pod["metadata"]["name"] = "spark-1"
    engine, log, watchdog = containers.Engine("rempart/spark:local", "test"), Any, Any
    engine.start(pod, pod["spec"]["containers"][0], ["python", "-m", "x"], {"A": "held"}, tmp_path, log, watchdog)
    (words,) = started
    assert "held" not in " ".join(words) and words[words.index("--env") + 1] == "A"
    assert words[-5:] == ["--entrypoint", "python", "rempart/spark:local", "-m", "x"]
    assert words[words.index("--ip") + 1] == "10.213.0.10"
