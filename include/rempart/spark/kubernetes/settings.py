"""Configure the session of a driver that runs in a pod: its executors are pods, made from the platform's template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.errors import SparkError
from rempart.settings.pipeline_sections import SparkResources
from rempart.spark import session
from rempart.spark.kubernetes import pods

_HINT = "A driver's pod has these variables: `rempart.spark.kubernetes.pods.driver`."
_FILE = "executor.json"


@dataclass(frozen=True)
class DriverPod:
    """The pod in which this process is the driver. `api`: URL of Kubernetes' API. `secret_file`: of the secret."""

    name: str
    namespace: str
    address: str
    api: str
    secret_file: str
    template: Mapping[str, Any]

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> DriverPod | None:
        """Return the pod of a driver by its variables; None if it runs in no pod. Raises SparkError."""
        if pods.TEMPLATE not in variables:
            return None
        host = variables.get("KUBERNETES_SERVICE_HOST", "")
        api = variables.get("KUBERNETES_MASTER") or f"https://{host}:{variables.get('KUBERNETES_SERVICE_PORT', '443')}"
        try:
            return cls(
                variables[pods.POD],
                variables[pods.NAMESPACE],
                variables[pods.ADDRESS],
                api,
                variables[pods.SECRET_FILE],
                json.loads(variables[pods.TEMPLATE]),
            )
        except (KeyError, ValueError) as cause:
            what = f"{cause.args[0]} is missing" if isinstance(cause, KeyError) else f"{pods.TEMPLATE} is not JSON"
            raise SparkError(f"start Spark in a pod: {what}", _HINT) from None


def configuration(resources: SparkResources, work: Path, pod: DriverPod, *, name: str) -> dict[str, str]:
    """Return the whole configuration of a session whose executors are pods. Pure, and without a secret.

    It uses no ConfigMap, Service or PersistentVolumeClaim: the driver's account has rights to pods alone.
    """
    (container,) = pod.template["spec"]["containers"]
    return {
        **session.fixed(work),
        **session.bounded(resources),
        "spark.master": f"k8s://{pod.api}",
        "spark.app.name": name,
        "spark.app.id": pod.name,
        "spark.authenticate.secret.file": pod.secret_file,
        "spark.driver.host": pod.address,
        "spark.driver.bindAddress": pod.address,
        "spark.driver.port": str(pods.DRIVER_PORT),
        "spark.driver.blockManager.port": str(pods.BLOCK_PORT),
        "spark.blockManager.port": str(pods.BLOCK_PORT),
        "spark.executor.extraJavaOptions": session.JAVA,
        "spark.executor.memoryOverhead": f"{pods.overhead(resources)}m",
        "spark.kubernetes.namespace": pod.namespace,
        "spark.kubernetes.driver.pod.name": pod.name,  # executors are owned by it, and end with it
        "spark.kubernetes.executor.podTemplateFile": str(work / _FILE),
        "spark.kubernetes.executor.podTemplateContainerName": container["name"],
        "spark.kubernetes.executor.container.image": container["image"],
        "spark.kubernetes.executor.podNamePrefix": pod.name,
        "spark.kubernetes.executor.request.cores": str(resources.cores),
        "spark.kubernetes.executor.limit.cores": str(resources.cores),
        "spark.kubernetes.executor.disableConfigMap": "true",
        "spark.kubernetes.driver.service.deleteOnTermination": "false",
        "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
        "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
        # what the namespace's quota refuses is asked for again, and the job goes on with what it has
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        # an executor without work goes after a minute, and in half an hour also one with rows that can be made again
        "spark.dynamicAllocation.shuffleTracking.timeout": "30m",
        "spark.dynamicAllocation.cachedExecutorIdleTimeout": "30m",
        "spark.dynamicAllocation.minExecutors": "1",
        "spark.dynamicAllocation.initialExecutors": str(resources.executors),
        "spark.dynamicAllocation.maxExecutors": str(resources.executors),
        "spark.executor.failuresValidityInterval": "30m",  # a job ends if too many are lost in this time
    }


def write_template(work: Path, pod: DriverPod) -> None:
    """Write the pod of an executor where `configuration` tells Spark to look."""
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    (work / _FILE).write_text(json.dumps(pod.template), encoding="utf-8")


def driver_pod() -> DriverPod | None:
    """Return the pod in which this process is the driver; None if it runs in no pod. Raises SparkError."""
    return DriverPod.of(os.environ)
