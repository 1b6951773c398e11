"""Support the replication DAG: skip other runs' leases, send gauges, alert about late runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from rempart.errors import FailoverError, LeaseHeld
from rempart.settings.sections import ReplicationPair

if TYPE_CHECKING:
    from rempart.flows.replication.replicate import ReplicationResult

TASKS = 256
"""Limit of copy tasks in one run. By default Airflow maps a task over at most 1,024 values."""
GAUGES = ("lag_seconds", "lag_p50", "lag_p95", "lag_max", "pending", "pending_bytes", "failures", "throughput")
"""Fields of a result that are sent as `rempart.replication.<field>` (docs/how-to/observe-replication.md)."""
NO_RETRY = ExceptionRetryPolicy(
    [
        RetryRule(
            "rempart.errors.RempartError", RetryAction.FAIL, reason=("the lease has ended: the next run does the work")
        )
    ]
)
"""For the task that concludes. Where its process was killed it is run again, and the lease is still its own."""
logger = logging.getLogger(__name__)


@contextmanager
def skipped_without_lease() -> Iterator[None]:
    """Skip the task if another run holds the pair's lease or the source is not the active site, with the error's
    text.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    try:
        yield
    except (LeaseHeld, FailoverError) as error:
        raise AirflowSkipException(str(error)) from error


def shares(pieces: Sequence[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Split the pieces of work among tasks: one task for each piece, up to `TASKS` tasks."""
    count = min(len(pieces), TASKS)
    return [list(pieces[n::count]) for n in range(count)]


def send_gauges(source: str, target: str, result: ReplicationResult) -> None:
    """Send the measurements to Airflow's metrics, which go nowhere unless configured."""
    from airflow.sdk.observability import stats

    tags = {"source": source, "target": target}
    for name in GAUGES:
        stats.gauge(f"rempart.replication.{name}", getattr(result, name), tags=tags)
    # a gauge keeps its last value: `measured_at` tells how old the values are
    stats.gauge("rempart.replication.measured_at", datetime.now(UTC).timestamp(), tags=tags)


def late_alert(pair: ReplicationPair) -> DeadlineAlert:
    """Return the alert for a run that is still running after the pair's lag objective."""
    callback = AsyncCallback(tell_late, kwargs={"source": pair.source, "target": pair.target})
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, pair.lag_objective, callback)


async def tell_late(source: str, target: str, context: dict[str, Any]) -> None:
    """Log an error line in the triggerer, which cannot sign evidence; `conclude` writes the evidence.

    Airflow 3.3.2 also calls it for a run that failed before its deadline (apache/airflow #60927). That run is red
    already.
    """
    run = context["dag_run"]
    if run["end_date"]:
        return

    def line() -> str:
        from rempart.flows.replication.replicate import late_line
        from rempart.settings import config

        return late_line(config.load(), source, target, run["dag_run_id"], str(run["queued_at"]))

    logger.error(await asyncio.to_thread(line))
