"""Run Spark jobs in pods: `spark.backend: kubernetes` of rempart.yaml."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from kubernetes.client import ApiException  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.errors import (
    ConnectionMissing,
    PlacementDenied,
    PoolUnavailable,
    RempartError,
    SparkError,
    SparkInterrupted,
)
from rempart.flows.distributed.job import stored_result
from rempart.flows.distributed.pods import PoolPlace, SparkPods, allowed_places
from rempart.orchestration.clusters.api_answers import retried, status_and_message
from rempart.orchestration.clusters.connections import cluster_of
from rempart.orchestration.spark.attempt import JUDGE_AGAIN, Attempt
from rempart.signals import sigterm_raises
from rempart.sites.port import Site
from rempart.spark.kubernetes import labels
from rempart.spark.kubernetes.attempts import LOST, Adopt, Begin, DriverSeen, GiveUp, TriedAttempt, next_attempt
from rempart.spark.order import OrderedAt, SparkOrder, SparkResult

logger = logging.getLogger(__name__)


class TaskEnded(BaseException):
    """Raised when the task is asked to end. Not an Exception, so that no handler takes it for a failure."""


@dataclass(frozen=True)
class SparkInPods:
    """Runs jobs in the pools that the policy allows, one driver with its executors at a time.

    `job`: returns an ordered job. `every`, `judge_again`: seconds between looks at pods, and between judgements of the
    nodes of running pods.
    """

    site: Site
    job: Callable[[SparkOrder], SparkPods]
    clients: Callable[[str], Any] = cluster_of
    every: float = 2.0
    judge_again: float = JUDGE_AGAIN

    def run(self, order: SparkOrder) -> SparkResult:
        """Run a job to its end and return its result. An existing result, and a driver that runs, are adopted.

        Raises SparkError with the last log lines; SparkInterrupted if its driver was lost twice, or the task is ended,
        which deletes its pods; PlacementDenied; PoolUnavailable, after which a task that runs again goes on.
        """
        job = self.job(order)
        if (result := stored_result(self.site, order)) is not None:
            self._settle(job)
            return result
        places, at = job.places(), job.store()
        tried, drivers = self._look(job, places, at)
        last: Sequence[str] = ()
        while True:
            step = next_attempt([place.pool for place in places], drivers, tried, job.recorded())
            if isinstance(step, GiveUp):
                self._give_up(order, step, last)
            place = next(place for place in places if place.pool == step.pool)
            ended, last = self._attempt(job, place, at, step)
            tried.append(ended)
            if (result := stored_result(self.site, order)) is not None:
                return result
            self._go_on(order, ended, last)

    def _settle(self, job: SparkPods) -> None:
        """Put on record, and delete, the drivers of a job whose result is there: their task ended before it could."""
        today = job.clock().date()
        places, _ = allowed_places(job.config, job.order.classification, job.order.site.name, today)
        try:
            at = job.store()
            _, drivers = self._look(job, places, at)
            for driver in drivers:
                if not driver.goes_on or driver.number in job.recorded():
                    continue
                place = next(place for place in places if place.pool == driver.pool)
                self._attempt(job, place, at, Adopt(driver.pool, driver.number))
        except SparkInterrupted:  # the task is ended
            raise
        except RempartError as fault:  # the result is there, and the janitor of the pools finds what is left
            logger.warning("job %s is done, but its pods could not be followed: %s", job.order.order_id, fault.what)

    def _go_on(self, order: SparkOrder, ended: TriedAttempt, last: Sequence[str]) -> None:
        """Return if another attempt may help. Raises SparkError."""
        if ended.outcome == "succeeded":
            raise SparkError(
                f"run job {order.order_id}: it succeeded but stored no result at site '{self.site.name}'",
                "Run it again. If it fails again, look for what deletes objects of the bucket.",
            )
        if ended.outcome == "failed":
            raise SparkError(
                f"run job {order.order_id}: it failed in pool {ended.pool}: {ended.cause}.{_told(last)}",
                "Correct the cause in the last lines, and run again.",
            )
        logger.warning(
            "attempt %d of job %s in pool %s: %s (%s)",
            *(ended.number, order.order_id, ended.pool, ended.outcome, ended.cause),
        )

    def _give_up(self, order: SparkOrder, step: GiveUp, last: Sequence[str]) -> NoReturn:
        what = f"run job {order.order_id}"
        if step.outcome in LOST:
            raise SparkInterrupted(
                f"{what}: its driver was lost twice, at last: {step.why}.{_told(last)}",
                "Run again: objects that it stored are used again. Check the memory and disk of the pool's nodes.",
            )
        if step.outcome == "denied":
            raise PlacementDenied(
                f"{what}: no pool may run it: {step.why}", "Correct the pools: `rempart pool doctor`."
            )
        raise PoolUnavailable(
            f"{what}: no pool took it: {step.why}", "Run again, or add a pool: `rempart pool doctor`."
        )

    def _attempt(
        self, job: SparkPods, place: PoolPlace, at: OrderedAt, step: Begin | Adopt
    ) -> tuple[TriedAttempt, Sequence[str]]:
        """Run or adopt one attempt. Raises PoolUnavailable, SparkInterrupted."""
        attempt = Attempt(
            job, place, step.number, at, self._client(place), every=self.every, judge_again=self.judge_again
        )
        try:
            with sigterm_raises(TaskEnded()):
                if isinstance(step, Adopt):
                    logger.info("driver %s is there: it is followed", attempt.name)
                elif refused := attempt.begin():
                    return refused, ()
                else:
                    logger.info("attempt %d: driver %s is made in pool %s", step.number, attempt.name, place.pool)
                return attempt.follow(), attempt.lines
        except (ApiException, HTTPError) as cause:
            raise PoolUnavailable(
                f"follow Spark job {job.order.order_id} in pool {place.pool}: the cluster did not answer: "
                f"{status_and_message(cause)[1]}",
                "Run again: the driver is found by its job. `rempart pool doctor` shows the cause.",
            ) from cause
        except TaskEnded:
            attempt.delete()
            raise SparkInterrupted(
                f"run job {job.order.order_id}: the task was ended, and its pods are deleted", "Run it again."
            ) from None
        except Exception:
            raise
        except BaseException:  # the time of the task is over, or a person ended it
            attempt.delete()
            raise

    def _look(
        self, job: SparkPods, places: Sequence[PoolPlace], at: OrderedAt
    ) -> tuple[list[TriedAttempt], list[DriverSeen]]:
        """Return the job's drivers in all pools, and the pools that do not answer, which are put on record. A driver
        that the platform would not make so now is deleted: its settings are others, or somebody else made it.
        """
        tried, drivers = [], []
        for place in places:
            selector = f"{labels.JOB}={job.order.order_id},{labels.ROLE}={labels.DRIVER}"
            try:
                client = self._client(place)
                found = retried(client.list_namespaced_pod)(place.namespace, label_selector=selector).items
            except (ApiException, HTTPError, ConnectionMissing) as cause:
                if isinstance(cause, ConnectionMissing):
                    why = cause.what
                else:
                    why = f"the cluster did not answer: {status_and_message(cause)[1]}"
                logger.warning("pool %s is left for the next one: %s", place.pool, why)
                job.left(place, why)
                tried.append(TriedAttempt(place.pool, 0, "capacity", why))
                continue
            for pod in found:
                told = str(pod.metadata.labels.get(labels.ATTEMPT))
                number = int(told) if told.isdecimal() and len(told) < 6 else 0
                goes_on = pod.metadata.deletion_timestamp is None
                plain = client.api_client.sanitize_for_serialization(pod)
                if goes_on and (why := job.unlike(place, number, at, plain)):
                    logger.warning("driver %s in pool %s is deleted: %s", pod.metadata.name, place.pool, why)
                    goes_on = False
                    with suppress(ApiException, HTTPError):
                        client.delete_namespaced_pod(pod.metadata.name, place.namespace, _request_timeout=4)
                drivers.append(DriverSeen(place.pool, number, goes_on))
        return tried, drivers

    def _client(self, place: PoolPlace) -> Any:
        return self.clients(place.connection)


def started_by(variables: Any = os.environ) -> str:
    """Return the Airflow task of this process as JSON, for the janitor of a pool; empty outside of tasks."""
    names = {"dag": "DAG_ID", "run": "DAG_RUN_ID", "task": "TASK_ID", "map_index": "MAP_INDEX"}
    found = {name: variables.get(f"AIRFLOW_CTX_{key}") for name, key in names.items()}
    return json.dumps({key: value for key, value in found.items() if value}) if found["task"] else ""


def _told(last: Sequence[str]) -> str:
    return " Its last lines:\n" + "\n".join(f"  {line}" for line in last) if last else ""
