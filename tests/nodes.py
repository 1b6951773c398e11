"""Parts that tests of jobs on several nodes share: pools of doubles with Kubeflow Trainer, and a stub of the job."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes import config as kube

from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.training.kubernetes import train_job
from tests import pods
from tests.kubernetes_double import KubernetesDouble
from tests.unit.training.test_job import result

STAYS = "import sys, time; print('rank', __import__('os').environ['PET_NODE_RANK'], flush=True); time.sleep(600)"
"""What a job does that never ends by itself."""
SHORT = "import time; time.sleep(1)"
WITH_RUNTIME: dict[str, Any] = {"runtime": "rempart", "max_gpus": 4}


@contextmanager
def on_two_nodes(
    platform: Platform, home: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, int] | None = None
) -> Iterator[pods.Trial]:
    """A trial whose job asks for two nodes with a GPU each; in each pool two machines have one (unless told)."""
    amounts = dict.fromkeys(pods.POOLS, 1) | (gpus or {})
    with pods.clusters(home, amounts) as made, pods.connected(monkeypatch, made):
        for name, (operator, region) in pods.POOLS.items():
            second(made[name], name, operator, region)
        install_trainer(made, home)
        with pods.trial(platform, home, made) as trial:
            trainer = trial.pipeline.trainer.model_copy(
                update={"nodes": 2, "gpus": 1, "use": "tabular_network", "params": {"epochs": 3}}
            )
            trial.pipeline = trial.pipeline.model_copy(update={"trainer": trainer})
            yield trial


def install_trainer(made: Mapping[str, KubernetesDouble], home: Path) -> None:
    """Kubeflow Trainer in each cluster, with the runtime of each pool that names one, as it is rendered."""
    settings = config.load(home / "rempart.yaml")
    for name, double in made.items():
        double.add_trainer()
        if settings.gpu_pools[name].runtime is not None:
            where = (train_job.GROUP, train_job.VERSION, settings.gpu_pools[name].namespace, train_job.RUNTIMES)
            custom(double).create_namespaced_custom_object(*where, train_job.runtime(settings, name))


def api(double: KubernetesDouble) -> Any:
    return client.CoreV1Api(kube.new_client_from_config_dict(double.kubeconfig(double.admin_token)))


def custom(double: KubernetesDouble) -> Any:
    return client.CustomObjectsApi(kube.new_client_from_config_dict(double.kubeconfig(double.admin_token)))


def muted(trial: pods.Trial, code: str) -> None:
    """From now on the image's `python` runs this code instead of the job."""
    folder = trial.home / "stub"
    folder.mkdir(exist_ok=True)
    (folder / "code.py").write_text(code, encoding="utf-8")
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "code.py"} "$@"\n', encoding="utf-8")
    (folder / "python").chmod(0o755)
    published(trial, folder)


def published(trial: pods.Trial, folder: Path) -> None:
    """From now on the image's `python` is the one in a folder."""
    env = pods.image_environment(trial.home) | {"PATH": f"{folder}:{os.environ['PATH']}"}
    for double in trial.clusters.values():
        double.add_image(pods.IMAGE, digest=pods.IMAGE.partition("@")[2], env=env)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def second(double: KubernetesDouble, name: str, operator: str, region: str, **labels: str) -> None:
    """A second machine in a pool's cluster."""
    double.add_node(
        f"{name}-2",
        {pods.REGION: region, "nvidia.com/gpu.product": "NVIDIA-L4"} | labels,
        {pods.GPU: "1"},
        taints=[{"key": pods.GPU, "effect": "NoSchedule"}],
        provider_id=f"{operator}://{region}/{name}-2",
    )


def jobs(double: KubernetesDouble, pool: str) -> list[dict[str, Any]]:
    """The TrainJobs of a pool."""
    where = (train_job.GROUP, train_job.VERSION, f"training-{pool}", train_job.PLURAL)
    found: list[dict[str, Any]] = custom(double).list_namespaced_custom_object(*where)["items"]
    return found


def leave_result(trial: pods.Trial, ordered: Any) -> None:
    """What a job leaves that did its work."""
    body = json.dumps(json.loads(result()) | {"job_id": ordered.job_id})
    site = trial.platform.active_site("personal")
    site.write(ordered.bucket, ordered.key.replace("order.json", "result.json"), body.encode())


def posted(double: KubernetesDouble, what: str) -> int:
    return len([request for request in double.requests if request.method == "POST" and f"/{what}" in request.path])


def rank_of(trial: pods.Trial, pool: str, rank: int) -> str:
    """The pod of a rank."""
    found = [pod for pod in trial.pods(pool) if pod.labels[train_job.RANK] == str(rank)]
    return str(found[-1].name)


def progress(trial: pods.Trial, pool: str) -> int | None:
    """The newest step that rank 0 told of."""
    try:
        text = api(trial.clusters[pool]).read_namespaced_pod_log(
            rank_of(trial, pool, 0), f"training-{pool}", _preload_content=False
        )
    except client.ApiException:  # its container has not begun
        return None
    lines = [json.loads(line) for line in text.data.decode().splitlines() if '"stage": "progress"' in line]
    return int(lines[-1]["step"]) if lines else None
