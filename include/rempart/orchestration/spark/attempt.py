"""One attempt of a Spark job in a pool: its driver is made or found, its pods are judged, and its end is put on record.

rempart.spark.kubernetes.admission decides what is next; this module reads the cluster and does it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes.client import ApiException  # noqa: TID253 - only where pods run
from urllib3.exceptions import HTTPError

from rempart.errors import PlacementDenied
from rempart.flows.distributed.pods import PoolPlace, SparkPods, ending
from rempart.orchestration.clusters.api_answers import is_there, retried, status_and_message
from rempart.orchestration.spark.driver_log import DriverLog
from rempart.sovereignty.pool_pods import GRACE_SECONDS
from rempart.spark.kubernetes import labels, usage
from rempart.spark.kubernetes import pods as shape
from rempart.spark.kubernetes.admission import (
    Deny,
    GiveCredentials,
    Note,
    Release,
    Step,
    came_before,
    has_node,
    is_at_work,
    needs_nodes,
    next_steps,
    release_patch,
)
from rempart.spark.kubernetes.attempts import Outcome, TriedAttempt
from rempart.spark.order import OrderedAt
from rempart.training.backends import LAST_LINES, readable
from rempart.training.kubernetes import verdict
from rempart.training.kubernetes.pod import ADMITTED

logger = logging.getLogger(__name__)

Json = dict[str, Any]
_DELETIONS = 3
"""How often a deletion is asked for, with four seconds for each answer: an ended task has little time."""
JUDGE_AGAIN = 30.0
"""Seconds after which the nodes of running pods are judged again: labels of nodes change."""
LATE = timedelta(seconds=60)
"""Time after `spark.timeout`, or after a deletion, in which the cluster should have ended a pod by itself."""


@dataclass
class Attempt:
    """An attempt of a job in a pool, and what this task knows of it. `every`: seconds between two looks."""

    job: SparkPods
    place: PoolPlace
    number: int
    at: OrderedAt
    client: Any
    every: float = 2.0
    judge_again: float = JUDGE_AGAIN
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    ran: Json = field(default_factory=dict)
    _noted: set[tuple[str, str]] = field(default_factory=set)
    _trusted: set[str] = field(default_factory=set)
    _times: dict[str, usage.Ran] = field(default_factory=dict)
    _nodes: dict[str, Json] = field(default_factory=dict)
    _judged_at: float = float("-inf")
    _since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _worked: datetime | None = None
    _in_namespace: list[Json] = field(default_factory=list)
    _log: DriverLog | None = None

    @property
    def name(self) -> str:
        return labels.name(self.job.order.order_id, self.number)

    def begin(self) -> TriedAttempt | None:
        """Make the driver. Return how the attempt ended if the pool refuses it. Raises PlacementDenied."""
        manifest = self.job.driver(self.place, self.number, self.at)
        try:
            retried(self._make)(self.client.create_namespaced_pod, manifest)
        except (ApiException, HTTPError) as cause:
            status, message = status_and_message(cause)
            self.delete(grace=0)  # the answer may have been lost, and not the request
            refused = verdict.refused(status, message)
            if refused is None:
                return TriedAttempt(self.place.pool, self.number, "failed", f"the pool refuses the driver: {message}")
            return TriedAttempt(self.place.pool, self.number, "capacity", refused.cause)
        return None

    def follow(self) -> TriedAttempt:
        """Follow the attempt to its end, and put it on record if it had a node. Its driver is deleted.

        Raises ApiException and HTTPError if the cluster does not answer: the pods stay, for a task that goes on.
        """
        outcome, cause, driver = self._followed()
        if not self.ran and driver and self._nodes and _is_admitted(driver):  # it ended before this task looked
            node = driver["spec"]["nodeName"]
            known = self.job.note(self.place, self._nodes[node]) if node in self._nodes else {"node": node}
            self.ran = {"pool": self.place.pool, **known, "pod": self.name}
        if self.ran:
            more = {"image": verdict.image_digest(driver), "seconds": verdict.seconds_run(driver)} if driver else {}
            self.job.ended(self.number, outcome, cause, self.ran | more, self._times.values())
        self.delete(grace=0 if outcome == "denied" else GRACE_SECONDS)
        return TriedAttempt(self.place.pool, self.number, outcome, cause)

    def _followed(self) -> tuple[Outcome, str, Json | None]:
        driver: Json | None = None
        while True:
            found, last = self._pods(), driver
            driver = next((pod for pod in found if pod["metadata"]["name"] == self.name), None)
            now = datetime.now(UTC)
            for pod in found:
                self._times = usage.look(self._times, pod, labels.role_of(pod), now)
            if driver is None:
                return (*ending(None), last)
            if denied := self._steps(found):
                return ("denied", denied, driver)
            self._tell(driver)
            if over := self._over(driver, now) or self._alone(driver, found, now):
                return (*over, driver)
            time.sleep(self.every)

    def _over(self, driver: Json, now: datetime) -> tuple[Outcome, str] | None:
        """Return how the attempt ended, or None while it goes on."""
        status, metadata = driver.get("status") or {}, driver["metadata"]
        if status.get("phase") in ("Succeeded", "Failed"):
            return ending(driver)
        if (gone := metadata.get("deletionTimestamp")) and now > datetime.fromisoformat(gone) + LATE:
            return "interrupted", "its pod was deleted, and its node does not answer"
        if status.get("phase") == "Running":
            begun, longest = status.get("startTime"), self.job.pipeline.spark.timeout
            if begun and now > datetime.fromisoformat(begun) + longest + LATE:
                return "failed", f"it ran longer than `spark.timeout` ({longest})"
            return None
        if why := verdict.hopeless(driver):
            return "capacity", why
        if now > self._waits_since(metadata["creationTimestamp"]) + self.place.wait:
            return "capacity", ending(driver)[1]
        return None

    def _alone(self, driver: Json, found: list[Json], now: datetime) -> tuple[Outcome, str] | None:
        """Return that the pool has no place for one executor, or None: a driver would wait for it to its timeout.

        An executor whose node cannot start it is none. Beside a driver that came before and has no executor either, the
        wait for a node is half as long.
        """
        begun = (driver.get("status") or {}).get("startTime")
        executors = [pod for pod in found if labels.role_of(pod) == labels.EXECUTOR]
        if not begun or any(map(is_at_work, executors)):
            self._worked = now
            return None
        placed = [pod for pod in executors if has_node(pod)]
        first = "" if placed else came_before(driver, self._in_namespace)
        wait = self.place.wait / 2 if first else self.place.wait
        if now < max(self._waits_since(begun), self._worked or self._since) + wait:
            return None
        rival = f"; driver {first}, which came before it, waits for one, too" if first else ""
        lost = (
            " after the last one was lost" if any(ran.role == labels.EXECUTOR for ran in self._times.values()) else ""
        )
        if not executors:
            why = f"no executor was made in {wait}{lost}: the driver's log tells what refused it"
        else:
            lacks = "began on its node" if placed else "got a node"
            why = f"no executor {lacks} in {wait}{lost}: {ending((placed or executors)[0])[1]}"
        return "capacity", f"{why}{rival}"

    def _waits_since(self, moment: str) -> datetime:
        """Return since when a pool has failed to give a place: nobody opened gates before this task looked, and the
        cluster's clock may be behind.
        """
        return max(datetime.fromisoformat(moment), self._since)

    # what is next

    def _steps(self, found: list[Json]) -> str:
        """Do what is next with the pods. Return why the attempt may not go on, or an empty text."""
        pods = self.job.seen(self.place, self.number, self.at, found, self._trusted)
        self._trusted |= {pod.uid for pod in pods if not pod.over and not pod.refusal}
        is_old = time.monotonic() - self._judged_at > self.judge_again
        if needs_nodes(pods, self._noted) or is_old:
            try:
                listed = [self._plain(node) for node in retried(self.client.list_node)().items]
            except ApiException as cause:
                if cause.status != 403:
                    raise
                return self._denied(f"the nodes cannot be read: {status_and_message(cause)[1]}", found)
            self._nodes = {node["metadata"]["name"]: node for node in listed}
            self._judged_at = time.monotonic()
        raw = {pod["metadata"]["uid"]: pod for pod in found}
        for step in next_steps(pods, self.job.judged(self.place, self._nodes.values()), self._noted):
            if denied := self._do(step, raw[step.pod.uid]):
                return self._denied(denied, found)
        return ""

    def _do(self, step: Step, pod: Json) -> str:
        """Do a step. Return why the attempt may not go on, or an empty text."""
        if isinstance(step, Deny):
            return f"pod {step.pod.name}: {step.why}"
        if isinstance(step, Release):
            return self._release(step, pod)
        try:
            place = self.job.note(self.place, self._nodes[step.pod.node])
            if isinstance(step, GiveCredentials):
                self._admit(pod, place)
        except PlacementDenied as refusal:  # it is on record by now, or credentials are not declared
            return refusal.what
        if isinstance(step, Note):
            logger.info("executor %s runs on node %s (%s)", step.pod.name, step.pod.node, place["region"])
        self._noted.add((step.pod.uid, step.pod.node))
        return ""

    def _admit(self, driver: Json, place: Json) -> None:
        """Make the Secret for which the driver waits, unless an earlier task did."""
        shown = "given by an earlier task"
        if not _is_admitted(driver):
            secret, shown = self.job.secret(driver, self.number, self.at)
            retried(self._make)(self.client.create_namespaced_secret, secret)
            admitted = {"metadata": {"annotations": {ADMITTED: "yes"}}}  # the kubelet looks at once for the Secret
            retried(self.client.patch_namespaced_pod)(self.name, self.place.namespace, admitted)
        permission = self.at.permission.decision
        self.ran = place | {"pod": self.name, "credentials": shown, "decision": permission}
        logger.info("driver %s runs in pool %s on node %s", self.name, self.place.pool, place["node"])

    def _release(self, step: Release, pod: Json) -> str:
        try:
            patch = release_patch(pod, step.nodes, labels.GATE)
        except ValueError as cause:
            return f"pod {step.pod.name}: {cause}"
        try:
            retried(self.client.patch_namespaced_pod)(step.pod.name, self.place.namespace, patch)
        except ApiException as cause:
            if cause.status not in (404, 409, 422):
                raise
            # it changed or went meanwhile: the next look shows it
            logger.info("executor %s is not released yet: %s", step.pod.name, status_and_message(cause)[1])
        return ""

    def _denied(self, why: str, found: list[Json]) -> str:
        self.delete(grace=0)
        for pod in found:  # one that names no owner would outlive the driver, with what it read
            self._delete(pod["metadata"]["name"], grace=0)
        self.job.deny([why])
        logger.warning("attempt %d in pool %s is ended: %s", self.number, self.place.pool, why)
        return why

    # the cluster

    def _make(self, create: Callable[[str, Json], Any], made: Json) -> None:
        """Make an object of the namespace; one of its name was made by a call whose answer was lost."""
        try:
            create(self.place.namespace, made)
        except ApiException as cause:
            if not is_there(cause):
                raise

    def _pods(self) -> list[Json]:
        answer = retried(self.client.list_namespaced_pod)(self.place.namespace)  # whoever asks for the Secret counts
        self._in_namespace = list(map(self._plain, answer.items))
        return [dict(pod) for pod in self.job.own(self.number, self._in_namespace)]

    def _tell(self, driver: Json) -> None:
        """Write the driver's new lines into the task's log."""
        status = driver.get("status") or {}
        if not any(
            {"running", "terminated"} & set(each.get("state") or {}) for each in status.get("containerStatuses") or ()
        ):
            return
        self._log = self._log or DriverLog(self._read_log, time.monotonic)
        try:
            new = self._log.new_lines()
        except (ApiException, HTTPError):  # the next look reads it; its node may be lost
            return
        for line in new:
            self.lines.append(readable(line))
            logger.info("%s", self.lines[-1])

    def _read_log(self, seconds: int | None) -> str:
        since = {} if seconds is None else {"since_seconds": seconds}
        answer = self.client.read_namespaced_pod_log(
            self.name,
            self.place.namespace,
            container=shape.CONTAINER,
            timestamps=True,
            _preload_content=False,  # as it is: the client would give the bytes' repr
            **since,
        )
        return str(answer.data.decode("utf-8", "replace"))

    def delete(self, grace: int = GRACE_SECONDS) -> None:
        """Delete the driver, and with it its executors and Secret. An API server that does not answer is asked again.

        It is no error if that fails: the janitor finds the driver.
        """
        self._delete(self.name, grace)

    def _delete(self, name: str, grace: int) -> None:
        for _ in range(_DELETIONS):
            try:
                self.client.delete_namespaced_pod(
                    name, self.place.namespace, grace_period_seconds=grace, _request_timeout=4
                )
            except ApiException as cause:
                if cause.status == 404:
                    return  # an earlier request arrived, and only its answer was lost
            except HTTPError as cause:
                logger.warning("delete driver %s: %s", name, status_and_message(cause)[1])
            else:
                return

    def _plain(self, answer: Any) -> Json:
        plain: Json = self.client.api_client.sanitize_for_serialization(answer)
        return plain


def _is_admitted(driver: Json) -> bool:
    """Return whether a driver was given its Secret."""
    return ADMITTED in (driver["metadata"].get("annotations") or {})
