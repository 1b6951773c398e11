"""Check that MLflow writes to the active site, and list experiments that still write elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rempart.coordination.active import Active
from rempart.deployment.servers import mlflow_server, rest
from rempart.errors import ConfigError, DatabaseUnavailable, ObjectMissing, StackError
from rempart.flows.shared.platform import Platform, classification_of
from rempart.models import artifact_locations
from rempart.settings.config import Connection
from rempart.settings.pipelines import load_all

SECONDS = 120.0
"""Seconds within which MLflow must answer again: its child process stops, starts and connects."""
_SHOWN = 20


def switch_tracking(platform: Platform, active: Active, seconds: float = SECONDS) -> str:
    """Write an artifact through MLflow and find it at the active site. Raises StackError if it is never found."""
    tracking, site = platform.tracking(), platform.site(active.site, classification_of(load_all()))
    name = f".rempart-generation-{active.generation}"
    url = f"{tracking.http_url()}/api/2.0/mlflow-artifacts/artifacts/{name}"
    bucket, key = platform.config.buckets.artifacts, f"{mlflow_server.PREFIX}/{name}"
    deadline = time.monotonic() + seconds
    while True:
        try:
            rest.call("PUT", url, body=b"active\n", basic=(tracking.login, tracking.password), timeout=30)
            site.head(bucket, key)
            site.delete(bucket, key)
            return f"an artifact written through MLflow is at '{active.site}'"
        except StackError as error:
            last = error
        except ObjectMissing:
            last = StackError(
                f"An artifact written through MLflow is not at '{active.site}': MLflow writes to another site",
                "Start MLflow with `rempart run mlflow`.",
            )
        if time.monotonic() > deadline:
            raise last
        time.sleep(1)


def unproxied(artifacts: str, mlflow: Callable[[], Connection]) -> Iterator[str]:
    """Yield experiments and runs that bypass the artifact proxy, each with the SQL statement that corrects it.

    `artifacts` is the bucket; `mlflow` returns the connection of MLflow's database.
    """
    root = f"s3://{artifacts}/{mlflow_server.PREFIX}"
    try:
        found = list(artifact_locations.unproxied(artifact_locations.read(mlflow()), root))
    except (DatabaseUnavailable, ConfigError) as error:
        yield f"cannot tell whether every experiment switches: {error.what}"
        return
    if not found:
        yield "every MLflow experiment and run switches: the server proxies their artifacts"
    for line in found[:_SHOWN]:
        yield line.line()
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} more"
