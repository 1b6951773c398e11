"""Build the pods of a Spark job, and their Secret, as Kubernetes API objects. Pure.

The driver is made by the platform. It waits for its Secret, which does not exist until the policy has allowed the
driver's node. Executors are made by Spark, from a template, and wait for a gate to go (`labels.GATE`): no executor is
bound to a node that was not judged. All of them read the one Secret of the attempt as files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rempart.settings.pipeline_sections import SparkResources
from rempart.settings.sections import Pool
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sovereignty.pool_pods import USER, bare, queue_label
from rempart.sovereignty.pool_pods import secret as owned_secret
from rempart.spark import credentials
from rempart.spark.kubernetes import labels
from rempart.spark.order import OrderedAt, SparkOrder

CONTAINER = "base"
ACCOUNT = "rempart-spark"
"""ServiceAccount of drivers in a pool's namespace: it makes, watches and deletes pods there, and nothing else."""
ORDER = "REMPART_SPARK_ORDER"
"""Variable of a driver: where its order is (`OrderedAt` as JSON)."""
TEMPLATE = "REMPART_SPARK_EXECUTOR_TEMPLATE"
"""Variable of a driver: the pod of an executor, as JSON."""
POD, NAMESPACE, ADDRESS = "REMPART_SPARK_POD", "REMPART_SPARK_NAMESPACE", "REMPART_SPARK_ADDRESS"
"""Variables of a driver: the name, namespace and address of its pod."""
SECRET_FILE = "REMPART_SPARK_SECRET_FILE"  # noqa: S105 - a name
"""Variable of driver and executors: the file of the secret that they prove to each other."""
PROGRAM = ("python", "-m", "rempart.flows.distributed.job")
COMMAND = (*PROGRAM, "--order", f"env:{ORDER}")
EXECUTOR_COMMAND = ("python", "-m", "rempart.spark.kubernetes.executor")
CREDENTIALS_KEY, SECRET_KEY = "credentials.json", "secret"
"""Files of the Secret."""
DRIVER_PORT, BLOCK_PORT = 7078, 7079
"""Ports on which the driver listens, and on which driver and executors give blocks to each other."""
_SECRETS, _WORK = "/run/secrets/rempart", "/work"
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_JVM_OVERHEAD, _PYTHON_OF_A_TASK, _PYTHON_OF_THE_DRIVER = 384, 512, 640
"""MiB: what a JVM needs beside its heap; the Python of one task; the Python of the driver."""
_OTHER_FOLDERS = 3
"""GiB of a pod's disk beside its own folder: /tmp, and the log."""


def overhead(resources: SparkResources) -> int:
    """Return the memory of an executor's pod beside the heap, in MiB: its JVM, and the Python of each of its tasks."""
    return _JVM_OVERHEAD + _PYTHON_OF_A_TASK * resources.cores


def driver(
    order: SparkOrder,
    attempt: int,
    pool: Pool,
    image: str,
    at: OrderedAt,
    template: Mapping[str, Any],
    *,
    seconds: int,
    disk: int = 10,
) -> dict[str, Any]:
    """Return the driver's pod of an attempt, which may run for `seconds`.

    The restricted profile is added when it is made. `at`: where its order is. `template`: as `executor_template`
    returns it, settled by the policy. `disk`: GiB for its own files.
    """
    memory = f"{order.resources.driver_memory + _JVM_OVERHEAD + _PYTHON_OF_THE_DRIVER}Mi"
    secret = labels.name(order.order_id, attempt)
    made = _pod(pool, secret, disk, seconds)
    made["serviceAccountName"] = ACCOUNT
    made["volumes"].append({"name": "account", "projected": {"defaultMode": 0o440, "sources": _account()}})
    container = made["containers"][0]
    container["volumeMounts"].append({"name": "account", "mountPath": _TOKEN, "readOnly": True})
    container |= {
        "image": image,
        "command": list(COMMAND),
        "env": [
            *_variables(
                {
                    ORDER: at.model_dump_json(),
                    TEMPLATE: json.dumps(template),
                    # of the Kubernetes client in Spark: the paths at which it looks by itself, said
                    "KUBERNETES_AUTH_SERVICEACCOUNT_TOKEN": f"{_TOKEN}/token",
                    "KUBERNETES_CERTS_CA_FILE": f"{_TOKEN}/ca.crt",
                }
            ),
            *_fields({POD: "metadata.name", NAMESPACE: "metadata.namespace", ADDRESS: "status.podIP"}),
        ],
        "resources": _same("1", memory, disk),
    }
    metadata = {
        "name": secret,
        "namespace": pool.namespace,
        "labels": labels.labels(order, attempt, labels.DRIVER) | queue_label(pool),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made}


def executor_template(
    order: SparkOrder, attempt: int, pool: Pool, image: str, *, seconds: int, disk: int = 20
) -> dict[str, Any]:
    """Return the pod from which Spark makes each executor of an attempt, restricted, and gated until it is judged.

    Spark adds its name, its owner (the driver), and the variables that tell it where the driver is. `disk`: GiB for
    what does not fit in its memory.
    """
    resources = order.resources
    memory = f"{resources.memory + overhead(resources)}Mi"
    made = _pod(pool, labels.name(order.order_id, attempt), disk, seconds)
    made["schedulingGates"] = [{"name": labels.GATE}]
    made["securityContext"] |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    container = made["containers"][0]
    container["securityContext"] |= {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container |= {
        "image": image,
        "command": list(EXECUTOR_COMMAND),
        "env": _variables({}),
        "resources": _same(str(resources.cores), memory, disk),
    }
    metadata = {
        "namespace": pool.namespace,
        "labels": labels.labels(order, attempt, labels.EXECUTOR) | queue_label(pool),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made}


def secret(owner: Mapping[str, Any], proven: str, credentials_file: str) -> dict[str, Any]:
    """Return the Secret of an attempt whose driver exists, owned by it, so that both are deleted together.

    `proven`: what driver and executors prove to each other. `credentials_file`: as `credentials.text` returns it.
    """
    kept = (*labels.MANAGED_BY, labels.JOB, labels.ATTEMPT)
    return owned_secret(owner, kept, {SECRET_KEY: proven, CREDENTIALS_KEY: credentials_file})


def _pod(pool: Pool, secret_name: str, disk: int, seconds: int) -> dict[str, Any]:
    """Return what driver and executors share: their Secret and a folder of their own."""
    made = bare(pool, CONTAINER) | {"activeDeadlineSeconds": seconds, "securityContext": {"fsGroup": USER}}
    made["containers"][0]["volumeMounts"] += [
        # named so that Spark takes it for what does not fit in memory, and adds no volume of its own
        {"name": "spark-local-dir-1", "mountPath": _WORK},
        {"name": "credentials", "mountPath": _SECRETS, "readOnly": True},
    ]
    made["volumes"] += [
        {"name": "spark-local-dir-1", "emptyDir": {"sizeLimit": f"{disk}Gi"}},
        {"name": "credentials", "secret": {"secretName": secret_name, "defaultMode": 0o440}},
    ]
    return made


def _variables(own: Mapping[str, str]) -> list[dict[str, Any]]:
    values = {
        credentials.VARIABLE: f"{_SECRETS}/{CREDENTIALS_KEY}",
        SECRET_FILE: f"{_SECRETS}/{SECRET_KEY}",
        "TMPDIR": _WORK,
        "PYTHONUNBUFFERED": "1",
        **TELEMETRY_OFF,
        **own,
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _fields(paths: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in paths.items()
    ]


def _account() -> list[dict[str, Any]]:
    """Return what Kubernetes mounts for an account by itself: a token that it renews, and the API's certificates."""
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]


def _same(cpu: str, memory: str, disk: int) -> dict[str, dict[str, str]]:
    """Return requests that are limits. The disk is that of all the pod's folders."""
    amounts = {"cpu": cpu, "memory": memory, "ephemeral-storage": f"{disk + _OTHER_FOLDERS}Gi"}
    return {"requests": dict(amounts), "limits": dict(amounts)}
