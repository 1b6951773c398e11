"""A cluster of a test's own, and the official client to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config

from tests.kubernetes_double import KubernetesDouble

IMAGE = "registry.example/train:1"
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def double() -> Iterator[KubernetesDouble]:
    """One node with two GPUs, one image, the namespace `training`."""
    with KubernetesDouble(namespaces=["training"]) as made:
        made.add_node("gpu-1", labels={"region": "fr-par"}, allocatable={"nvidia.com/gpu": "2"})
        made.add_image(IMAGE, digest=DIGEST)
        yield made


@pytest.fixture
def api(double: KubernetesDouble) -> client.CoreV1Api:
    """The administrator's client."""
    return client_of(double)


def client_of(double: KubernetesDouble, token: str | None = None) -> client.CoreV1Api:
    """A user's client that asks once."""
    made = config.new_client_from_config_dict(double.kubeconfig(token))
    made.configuration.retries = False
    return client.CoreV1Api(client.ApiClient(made.configuration))


def pod(name: str, code: str = "print('hello')", gpus: int = 0, image: str = IMAGE, **spec: Any) -> dict[str, Any]:
    """A pod that runs a line of Python."""
    container: dict[str, Any] = {"name": "base", "image": image, "command": ["python", "-u", "-c", code]}
    container |= {"env": spec.pop("env", [])}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "train"}},
        "spec": {"restartPolicy": "Never", "containers": [container]} | spec,
    }


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits for something to be true, and returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return value


def reaches(api: client.CoreV1Api, name: str, *phases: str) -> Any:
    """The pod, once it is in one of the phases."""

    def read() -> Any:
        found = api.read_namespaced_pod(name, "training")
        return found if found.status.phase in phases else None

    return until(read)
