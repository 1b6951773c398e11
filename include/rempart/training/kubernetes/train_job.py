"""Build an attempt's TrainJob and a pool's TrainingRuntime for a job on several nodes. Pure.

Kubeflow makes the pods from the runtime. The runtime, rendered from rempart.yaml, holds what all jobs of a pool share
(nodes, region, tolerations, priority, the restricted profile); the TrainJob holds the job's own part, in fields of
every API version from 2.0 on (docs/adr/0014-trainjob.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rempart.settings.config import Config
from rempart.sovereignty import pool_pods
from rempart.sovereignty.pods import settle
from rempart.training.job import JobSpec
from rempart.training.kubernetes import pod
from rempart.training.placement import Option, image_for

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
PLURAL, RUNTIMES = "trainjobs", "trainingruntimes"
KIND, RUNTIME_KIND = "TrainJob", "TrainingRuntime"
OF_JOB = "jobset.sigs.k8s.io/jobset-name"
"""Label of each pod of a TrainJob, whose JobSet has the same name."""
RANK = "batch.kubernetes.io/job-completion-index"
"""Label and annotation of each pod: the rank of its node."""
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
NODE = "node"
"""The replicated Job, and its container: Kubeflow's names."""


def manifest(config: Config, spec: JobSpec, option: Option, attempt: int, *, seconds: int) -> dict[str, Any]:
    """Return the TrainJob of an attempt, each of whose nodes may run for `seconds`.

    Its containers take each credential from a Secret that does not exist yet, so the kubelet holds all of them back.
    """
    pool = config.gpu_pools[option.pool]
    alone = pod.template(config, spec, option, attempt, seconds=seconds)
    settle(config, option.pool, alone["spec"])
    container = alone["spec"]["containers"][0]
    name = alone["metadata"]["name"]
    credentials = [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": variable}}}
        for variable in credential_variables(spec)
    ]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": alone["metadata"],
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": RUNTIME_KIND, "name": pool.runtime},
            "trainer": {
                "image": container["image"],
                "command": [*bounded(seconds), *container["command"]],
                "env": [*container["env"], *credentials],
                "numNodes": option.nodes,
                "numProcPerNode": 1,
                "resourcesPerNode": container["resources"],
            },
        },
    }


def bounded(seconds: int) -> tuple[str, ...]:
    """Return a command that ends the job's own command after that many seconds, even if Airflow is gone.

    No field of every version limits a single TrainJob: `activeDeadlineSeconds` came with 2.2.
    """
    return ("timeout", f"--kill-after={pool_pods.GRACE_SECONDS}", str(seconds))


def credential_variables(spec: JobSpec) -> list[str]:
    """Return the variables of the job's connections."""
    names = {spec.dataset.site.connection, spec.output.site.connection, spec.tracking.connection}
    return [f"AIRFLOW_CONN_{name.upper()}" for name in sorted(names)]


def runtime(config: Config, name: str) -> dict[str, Any]:
    """Return the TrainingRuntime of a pool that declares one.

    One failed pod ends the TrainJob: Rempart makes the next attempt.
    """
    pool = config.gpu_pools[name]
    spec = pool_pods.bare(pool, NODE)
    spec["containers"][0]["image"] = image_for(config, pool)
    settle(config, name, spec)
    job = {
        "name": NODE,
        "template": {
            "metadata": {"labels": {STEP: "trainer"}},
            "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": dict(pod.MANAGED_BY)}, "spec": spec}},
        },
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": RUNTIME_KIND,
        "metadata": {"name": pool.runtime, "namespace": pool.namespace},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"failurePolicy": {"maxRestarts": 0}, "replicatedJobs": [job]}},
        },
    }


def differences(wanted: Any, actual: Any, path: str = "spec") -> Iterator[str]:
    """Return where an object lacks or contradicts the wanted one. Additions of a server to a mapping are ignored."""
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        for key, value in wanted.items():
            if key in actual:
                yield from differences(value, actual[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not set"
    elif isinstance(wanted, list) and isinstance(actual, list) and len(wanted) == len(actual):
        for index, (want, other) in enumerate(zip(wanted, actual, strict=True)):
            yield from differences(want, other, f"{path}[{index}]")
    elif wanted != actual:
        yield f"{path} is {actual}, not {wanted}"
