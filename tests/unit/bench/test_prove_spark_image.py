"""The proof of Spark's image finds a container that is not what its pod is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.prove_spark_image import ENGINE, faults, look, reserved
from rempart.sovereignty.pool_pods import USER
from rempart.spark.kubernetes import labels
from tests.kubernetes_double.containers import Ran

LIMIT = 2 << 30
TOKEN = {"Destination": "/var/run/secrets/kubernetes.io/serviceaccount"}
DRIVER: dict[str, Any] = {
    "HostConfig": {
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": LIMIT,
    },
    "Config": {"User": f"{USER}:{USER}"},
    "Mounts": [TOKEN, {"Destination": "/work"}],
    "NetworkSettings": {"Networks": {ENGINE: {}}},
}
EXECUTOR = DRIVER | {"Mounts": [{"Destination": "/work"}]}


def test_a_container_that_is_as_its_pod_has_no_fault() -> None:
    assert faults(Ran(DRIVER), "driver") == [] and faults(Ran(EXECUTOR), "executor") == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda found: found["HostConfig"].update(ReadonlyRootfs=False), "root can be written"),
        (lambda found: found["HostConfig"].update(CapDrop=None), "rights of root"),
        (lambda found: found["HostConfig"].update(SecurityOpt=[]), "rights of root"),
        (lambda found: found["Config"].update(User="50000:0"), "its user"),
        (lambda found: found["Mounts"].append(TOKEN), "it has a token"),
        (lambda found: found["NetworkSettings"]["Networks"].update(bridge={}), "another network"),
    ],
)
def test_each_fault_is_told(change: Callable[[dict[str, Any]], None], word: str) -> None:
    found = copy.deepcopy(EXECUTOR)
    change(found)
    (told,) = faults(Ran(found), "executor")
    assert word in told


@pytest.mark.parametrize(
    ("driver", "executor", "good"),
    [
        (Ran(DRIVER, 0, 0, LIMIT, LIMIT // 2), Ran(EXECUTOR, 143, 0, LIMIT, LIMIT // 2), True),
        (Ran(DRIVER, 0, 0, LIMIT, LIMIT // 2), Ran(EXECUTOR, 137, 1, LIMIT, LIMIT // 2), False),
        (Ran(DRIVER, 0, 0, LIMIT, LIMIT // 2), Ran(EXECUTOR, 143), False),  # not measured: unknown is no success
    ],
)
def test_memory_counts_only_if_it_was_measured(driver: Ran, executor: Ran, good: bool) -> None:
    roles = {"a": labels.DRIVER, "b": labels.EXECUTOR}
    pods = {name: {"metadata": {"labels": {labels.ROLE: role}}} for name, role in roles.items()}
    checks: list[dict[str, Any]] = []
    look(pods, {"a": driver, "b": executor}, checks, {})
    assert [each["ok"] for each in checks] == [True, True, good]


def test_a_second_run_does_not_begin_beside_a_first(tmp_path: Path) -> None:
    first = reserved(tmp_path)
    assert first is not None and reserved(tmp_path) is None
    first.close()
    last = reserved(tmp_path)
    assert last is not None
    last.close()
