"""Build a job's pod and its Secret as Kubernetes API objects. Pure.

The pod takes its data credentials from a Secret that does not exist yet: the kubelet holds the container back until the
Secret is made, after the policy has allowed the pod's node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rempart.settings.config import Config
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty import pool_pods
from rempart.sovereignty.pods import LABEL
from rempart.sovereignty.pool_pods import bare, queue_label
from rempart.sovereignty.pool_pods import secret as owned_secret
from rempart.training.job import JobSpec
from rempart.training.placement import Option

CONTAINER = "base"
NODE_CONTAINER = "node"
"""The container of a TrainJob's pods: Kubeflow's name for it."""
JOB, ATTEMPT, PIPELINE = pool_pods.JOB, pool_pods.ATTEMPT, pool_pods.PIPELINE
MANAGED_BY = {"app.kubernetes.io/managed-by": "rempart", "app.kubernetes.io/component": "training"}
ADMITTED = "rempart.eu/admitted"
"""Annotation of a pod whose credentials are there."""
SPEC_VARIABLE = "REMPART_JOB_SPEC"
COMMAND = ("python", "-m", "rempart.training.entrypoint", "--spec", f"env:{SPEC_VARIABLE}")


def name(job_id: str, attempt: int) -> str:
    """Return the name of an attempt's pod. Each attempt has one name, so no attempt ever has two pods."""
    return f"train-{job_id}-{attempt}"


def labels(spec: JobSpec, attempt: int) -> dict[str, str]:
    """Return the labels that identify a job's pods, and that the policy judges."""
    return {
        **MANAGED_BY,
        JOB: spec.job_id,
        ATTEMPT: str(attempt),
        PIPELINE: spec.pipeline,
        LABEL: spec.classification,
    }


def template(config: Config, spec: JobSpec, option: Option, attempt: int, *, seconds: int) -> dict[str, Any]:
    """Return an attempt's pod, which may run for `seconds`. The restricted profile is added when it is made."""
    pool = config.gpu_pools[option.pool]
    asked = {"cpu": config.training.resources.cpu, "memory": config.training.resources.memory}
    if option.gpus:
        asked[pool.gpu] = str(option.gpus)
    job = {
        "image": option.image,
        "command": list(COMMAND),
        "env": environment(spec),
        "envFrom": [{"secretRef": {"name": name(spec.job_id, attempt)}}],
        "resources": {"requests": dict(asked), "limits": dict(asked)},
    }
    made = bare(pool, CONTAINER) | {"activeDeadlineSeconds": seconds}
    made["containers"][0] |= job
    metadata = {
        "name": name(spec.job_id, attempt),
        "namespace": pool.namespace,
        "labels": labels(spec, attempt) | queue_label(pool),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made}


def environment(spec: JobSpec) -> list[dict[str, str]]:
    """Return the variables of a job's container, without its credentials."""
    values = {
        SPEC_VARIABLE: spec.to_json().decode(),
        **TELEMETRY_OFF,
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108 - in the pod
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",  # CUDA, and NVML for the GPU's use
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def secret(owner: Mapping[str, Any], credentials: Mapping[str, str]) -> dict[str, Any]:
    """Return the Secret of an existing pod (or TrainJob), owned by it, so that both are deleted together."""
    return owned_secret(owner, (*MANAGED_BY, JOB, ATTEMPT), credentials)
