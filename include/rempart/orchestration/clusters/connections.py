"""Open the API of a pool's cluster by its Airflow connection."""

from __future__ import annotations

from typing import Any

from rempart.errors import ConnectionMissing


def cluster_of(connection: str) -> Any:
    """Return the core API of the cluster of an Airflow connection; nothing is asked.

    Raises ConnectionMissing if there is no such connection, or it names no cluster.
    """
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return KubernetesHook(conn_id=connection).core_v1_client
    except AirflowNotFoundException:
        raise ConnectionMissing(
            f"Airflow has no connection '{connection}'", "Add it as docs/how-to/gpu-pools.md says."
        ) from None
    except Exception as cause:  # of a kubeconfig it is of any kind, and may quote it
        raise ConnectionMissing(
            f"connection '{connection}' names no cluster ({type(cause).__name__})",
            "Put the pool's kubeconfig into it: docs/how-to/gpu-pools.md.",
        ) from None


def why_missing(connection: str) -> str:
    """Return why an Airflow connection names no cluster, or an empty text."""
    try:
        cluster_of(connection)
    except ConnectionMissing as missing:
        return missing.what
    return ""
