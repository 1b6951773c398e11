"""Name the pods of a Spark job, and the labels by which the platform finds and judges them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rempart.sovereignty import pool_pods
from rempart.sovereignty.pods import LABEL
from rempart.spark.order import SparkOrder

JOB, ATTEMPT, PIPELINE = pool_pods.JOB, pool_pods.ATTEMPT, pool_pods.PIPELINE
STARTED_BY = "rempart.eu/started-by"
"""Annotation of a driver: the Airflow task that made it, as JSON. The janitor of a pool asks whether it still waits."""
ROLE = "rempart.eu/spark-role"
DRIVER, EXECUTOR = "driver", "executor"
GATE = "rempart.eu/place"
"""Scheduling gate of an executor. It goes when the policy has judged the pool's nodes, and not before."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "rempart", "app.kubernetes.io/component": "spark"}


def name(order_id: str, attempt: int) -> str:
    """Return the name of an attempt's driver. Executors' names begin with it, and so an attempt has one driver."""
    return f"spark-{order_id}-{attempt}"


def role_of(pod: Mapping[str, Any]) -> str:
    """Return the role of a pod, as its label says."""
    return str((pod["metadata"].get("labels") or {}).get(ROLE))


def labels(order: SparkOrder, attempt: int, role: str) -> dict[str, str]:
    """Return the labels of an attempt's pods of one role."""
    return {
        **MANAGED_BY,
        JOB: order.order_id,
        ATTEMPT: str(attempt),
        PIPELINE: order.pipeline,
        ROLE: role,
        LABEL: order.classification,
    }


def selector(order_id: str, attempt: int, role: str) -> str:
    """Return the label selector of an attempt's pods of one role."""
    return f"{JOB}={order_id},{ATTEMPT}={attempt},{ROLE}={role}"
