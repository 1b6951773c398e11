"""Manage a Spark job in pods: where it may run, what its pods are and get, and the evidence of where they ran.

Nothing here talks to a cluster: `rempart.orchestration.spark` does, and calls this module.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from rempart.errors import PlacementDenied, SparkError
from rempart.flows.distributed import pod_credentials
from rempart.ledger.attributed import Writer, writer
from rempart.ledger.port import Evidence, Ledger
from rempart.settings.config import Config, Connections
from rempart.settings.pipeline import Pipeline
from rempart.settings.sections import Classification
from rempart.sites.port import Site
from rempart.sovereignty import pods as policy
from rempart.sovereignty.places import decide_image, decide_pool, rewrite_image
from rempart.sovereignty.policy import Decision
from rempart.sovereignty.pool_pods import image_at
from rempart.spark import credentials
from rempart.spark.kubernetes import labels, usage
from rempart.spark.kubernetes import pods as shape
from rempart.spark.kubernetes.admission import NodeJudged, PodSeen, beyond_template, secrets_of, unlike
from rempart.spark.kubernetes.attempts import Outcome
from rempart.spark.order import OrderedAt, SparkOrder, parse_place
from rempart.training.kubernetes import verdict

LEFT = 0
"""Number in the record of a pool that was left before an attempt: attempts count from 1."""


@dataclass(frozen=True)
class PoolPlace:
    """A pool that may run a job. `wait`: how long a driver waits there for a node."""

    pool: str
    connection: str
    namespace: str
    image: str
    wait: timedelta


def against(config: Config, classification: Classification, pool: str, on: date) -> list[str]:
    """Return why no Spark job on data of a classification may run in a pool on a day; empty if it may."""
    image = image_at(config.gpu_pools[pool], config.spark.image)
    decisions = [
        decide_pool(config, classification, "job", pool, on=on),
        decide_image(config, classification, image, on=on),
    ]
    return [
        f"{decision.place}: {reason.rule}: {reason.fact}. {reason.remedy}"
        for decision in decisions
        for reason in decision.against
    ]


def allowed_places(
    config: Config, classification: Classification, site: str, on: date
) -> tuple[tuple[PoolPlace, ...], tuple[str, ...]]:
    """Return the pools in the order to try that may run Spark jobs on data of a site, and why others may not."""
    if lacking := pod_credentials.missing(config, site):
        return (), (lacking,)
    places, reasons = [], []
    for name in config.spark.gpu_pools or list(config.gpu_pools):
        pool = config.gpu_pools[name]
        if found := against(config, classification, name, on):
            reasons += [f"pool {name}: {reason}" for reason in found]
        else:
            image = image_at(pool, config.spark.image)
            places.append(PoolPlace(name, pool.kubernetes_connection, pool.namespace, image, pool.max_pending))
    return tuple(places), tuple(reasons)


@dataclass(frozen=True)
class SparkPods:
    """One ordered job, and its pods in pools. `site`: where the order's data are; its permission is in the order.

    `record` writes evidence of a placement, and raises PlacementDenied for a denial. `by`: the Airflow task that runs
    the job, as JSON, or empty.
    """

    config: Config
    connections: Connections
    ledger: Ledger
    clock: Callable[[], datetime]
    record: Callable[[Decision], None]
    pipeline: Pipeline
    site: Site
    order: SparkOrder
    by: str = ""

    @property
    def subject(self) -> str:
        """Return the subject of the records of where the job ran."""
        return subject(self.order)

    def places(self) -> tuple[PoolPlace, ...]:
        """Return the pools that may run the job. A denial is evidence. Raises PlacementDenied."""
        today = self.clock().date()
        places, reasons = allowed_places(self.config, self.order.classification, self.order.site.name, today)
        if not places:
            self.deny(list(reasons))
            raise PlacementDenied(
                f"No pool may run Spark job {self.order.order_id} ({self.order.classification}): {'; '.join(reasons)}",
                "Declare a pool that the policy allows and `job_credentials` of the site: "
                "docs/how-to/outgrow-the-machine.md.",
            )
        return places

    def deny(self, reasons: Sequence[str]) -> None:
        """Record that the job, or a pod of it, may not be somewhere."""
        body = {"what": "job", "classification": self.order.classification, "reasons": list(reasons)}
        self.ledger.append("denial", f"job {self.order.order_id}", body)

    def store(self) -> OrderedAt:
        """Store the order below its own prefix, and return where it is. Its permission travels beside it.

        Raises SparkError without a permission; SiteError and its kinds.
        """
        permission = credentials.permission_of(self.order)
        body = self.order.model_copy(update={"permission": None}).to_json()
        sha256 = hashlib.sha256(body).hexdigest()
        bucket, key = self.order.output.bucket, self.order.key(f"order-{sha256}.json")
        self.site.write(bucket, key, body, content_type="application/json")
        return OrderedAt(
            site=self.order.site,
            classification=self.order.classification,
            bucket=bucket,
            key=key,
            sha256=sha256,
            permission=permission,
        )

    def driver(self, place: PoolPlace, number: int, at: OrderedAt) -> dict[str, Any]:
        """Return the driver's pod of an attempt, as the policy allows it. Raises PlacementDenied; a denial is evidence.

        Executors are made from a template in it, and are judged one by one when they are there.
        """
        made = self._made(place, number, at)
        if self.by:
            made["metadata"]["annotations"] = {labels.STARTED_BY: self.by}
        planned = policy.plan(self.config, made, connection=place.connection, on=self.clock().date())
        self.record(planned.decision)
        if planned.pod is None:
            raise planned.decision.refusal()
        return planned.pod

    def _made(self, place: PoolPlace, number: int, at: OrderedAt) -> dict[str, Any]:
        pool = self.config.gpu_pools[place.pool]
        seconds = int(self.pipeline.spark.timeout.total_seconds())
        image = rewrite_image(self.config, place.image)
        template = shape.executor_template(
            self.order, number, pool, image, seconds=seconds, disk=self.config.spark.disk
        )
        return shape.driver(self.order, number, pool, image, at, template, seconds=seconds)

    def unlike(self, place: PoolPlace, number: int, at: OrderedAt, driver: Mapping[str, Any]) -> str:
        """Return in what a pod is not the driver that this platform makes, or an empty text."""
        if why := unlike(driver, self._made(place, number, at), shape.ORDER):
            return why
        given = next(each for each in driver["spec"]["containers"][0]["env"] if each["name"] == shape.ORDER)
        try:
            told = parse_place(given.get("value") or "")
        except SparkError as fault:
            return fault.what
        same = told.model_copy(update={"permission": at.permission}) == at  # the permission is that of its own day
        return "" if same else "it names another order"

    def own(self, number: int, found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the pods of a namespace that are of an attempt by their labels, or ask for its Secret."""
        name = labels.name(self.order.order_id, number)
        return [pod for pod in found if self._is_of(number, pod) or name in secrets_of(pod["spec"])]

    def _is_of(self, number: int, pod: Mapping[str, Any]) -> bool:
        told = pod["metadata"].get("labels") or {}
        wanted = {labels.JOB: self.order.order_id, labels.ATTEMPT: str(number)}
        return labels.ROLE in told and wanted.items() <= told.items()

    def seen(
        self, place: PoolPlace, number: int, at: OrderedAt, found: Iterable[Mapping[str, Any]], trusted: Iterable[str]
    ) -> list[PodSeen]:
        """Return the pods of an attempt with the policy's word on each. `trusted`: uids that it has judged before."""
        return [self._seen(place, number, at, pod, frozenset(trusted)) for pod in found]

    def _seen(
        self, place: PoolPlace, number: int, at: OrderedAt, pod: Mapping[str, Any], trusted: frozenset[str]
    ) -> PodSeen:
        metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
        role = (metadata.get("labels") or {}).get(labels.ROLE)
        over = bool(metadata.get("deletionTimestamp")) or status.get("phase") in ("Succeeded", "Failed")
        refusal = ""
        if not over and metadata["uid"] not in trusted:
            stated = [self.order.classification]
            today = self.clock().date()
            decision = policy.plan(self.config, pod, stated, connection=place.connection, on=today).decision
            refusal = "" if decision.allowed else decision.refusal().what
            if not self._is_of(number, pod):
                refusal = "it asks for the Secret of an attempt to which it does not belong"
            elif role == labels.DRIVER:
                refusal = refusal or self.unlike(place, number, at, pod)
            else:
                refusal = refusal or beyond_template(pod, labels.name(self.order.order_id, number))
        return PodSeen(
            uid=metadata["uid"],
            name=metadata["name"],
            role="driver" if role == labels.DRIVER else "executor",
            node=spec.get("nodeName") or "",
            gated=any(gate["name"] == labels.GATE for gate in spec.get("schedulingGates") or ()),
            over=over,
            refusal=refusal,
        )

    def judged(self, place: PoolPlace, nodes: Iterable[Mapping[str, Any]]) -> list[NodeJudged]:
        """Return the policy's word on each node of a pool's cluster. Nothing is recorded."""
        found = []
        for node in nodes:
            decision, _ = self._node(place, node)
            why = "" if decision.allowed else "; ".join(reason.fact for reason in decision.against)
            found.append(
                NodeJudged(node["metadata"]["name"], decision.allowed, f"node {node['metadata']['name']}: {why}")
            )
        return found

    def note(self, place: PoolPlace, node: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a pod is on a node, and return what the node says of itself. Raises PlacementDenied."""
        decision, ran = self._node(place, node)
        self.record(decision)
        return ran.as_json()

    def _node(self, place: PoolPlace, node: Mapping[str, Any]) -> tuple[Decision, verdict.Ran]:
        today = self.clock().date()
        return verdict.judge_node(self.config, self.order.classification, place.pool, 0, node, today)

    def secret(self, driver: Mapping[str, Any], number: int, at: OrderedAt) -> tuple[dict[str, Any], str]:
        """Return the Secret of an attempt whose driver's node was allowed, and what may be shown of it.

        Raises PlacementDenied, SiteError and its kinds.
        """
        given, shown = pod_credentials.grant(
            self.config,
            self.connections,
            self.record,
            self.order,
            (at.bucket, at.key),
            number,
            self.pipeline.spark.timeout,
            self.clock().date(),
        )
        proven = secrets.token_hex(32)
        file = credentials.text(proven, {self.order.site.connection: given})
        return shape.secret(driver, proven, file), shown

    def recorded(self) -> list[int]:
        """Return the numbers of the job's attempts in the ledger."""
        numbers = [int(record.body["attempt"]) for record in self.ledger.find("placement", self.subject)]
        return [number for number in numbers if number != LEFT]

    def left(self, place: PoolPlace, why: str) -> None:
        """Record that a pool was left before an attempt, since it could not be asked."""
        body = {
            "job_id": self.order.order_id,
            "attempt": LEFT,
            "outcome": "unreachable",
            "cause": why[:500],
            "pipeline": self.pipeline.name,
            "do": self.order.do,
            "ran": {"pool": place.pool},
        }
        self.ledger.append("placement", self.subject, body)

    def ended(
        self,
        number: int,
        outcome: Outcome,
        cause: str,
        ran: Mapping[str, Any],
        times: Iterable[usage.Ran],
    ) -> None:
        """Record where an attempt ran and how it ended, once. `ran`: of its driver, as `note` returns it, and more."""
        if number in self.recorded():
            return
        pods = [each.as_json() for each in sorted(times, key=lambda ran_: (ran_.role, ran_.pod))]
        seconds = round(sum(each["seconds"] for each in pods), 3)
        pool = self.config.gpu_pools.get(str(ran.get("pool")))
        price = pool.price_per_executor_hour if pool else None
        body = {
            "job_id": self.order.order_id,
            "attempt": number,
            "outcome": outcome,
            "cause": cause[:500],
            "pipeline": self.pipeline.name,
            "do": self.order.do,
            "ran": {**ran, "pods": pods, "pod_seconds": seconds, "cost": usage.cost(price, seconds)},
        }
        self.ledger.append("placement", self.subject, body)


def subject(order: SparkOrder) -> str:
    """Return the subject of the records of where a job ran."""
    return f"{order.pipeline} {order.order_id}"


def where(backend: str, ledger: Ledger, order: SparkOrder, by: Writer | None) -> dict[str, Any]:
    """Return where a job ran, by its records: each attempt's pool, nodes, pod seconds and cost, their sum, and the
    pools that could not be asked.

    `by`: the task that ordered the job now. Only records of its run count: an earlier run of the same order has paid
    for its own attempts.
    """
    if backend == "local":
        return {"backend": "local"}
    records = [record for record in reversed(ledger.find("placement", subject(order))) if _is_of_run(record, by)]
    ran = [record for record in records if record.body["attempt"] != LEFT]
    attempts = [
        {
            "attempt": record.body["attempt"],
            "outcome": record.body["outcome"],
            **{
                name: record.body["ran"].get(name)
                for name in ("pool", "operator", "region", "node", "pods", "pod_seconds", "cost")
            },
        }
        for record in ran
    ]
    left = [
        {"pool": record.body["ran"]["pool"], "cause": record.body["cause"]}
        for record in records
        if record.body["attempt"] == LEFT
    ]
    return {"backend": "kubernetes", "attempts": attempts, "left": left, **usage.total(attempts)}


def _is_of_run(record: Evidence, by: Writer | None) -> bool:
    """Return whether a record was written by a task of the same run."""
    wrote = writer(record)
    return (wrote and (wrote.dag, wrote.run)) == (by and (by.dag, by.run))


def ending(pod: Mapping[str, Any] | None) -> tuple[Outcome, str]:
    """Return how a driver's attempt ended, and the cause in the cluster's words; None for a deleted pod."""
    status = (pod or {}).get("status") or {}
    state = next((each.get("state") or {} for each in status.get("containerStatuses") or ()), {})
    if (state.get("terminated") or {}).get("reason") == "OOMKilled":
        return "failed", "the driver needed more memory than it has (OOMKilled): raise `spark.driver_memory`"
    if status.get("reason") == "DeadlineExceeded" and "waiting" not in state:
        return "failed", "it ran longer than `spark.timeout` (DeadlineExceeded)"
    ended = verdict.ending(pod)
    return ended.outcome, ended.cause
