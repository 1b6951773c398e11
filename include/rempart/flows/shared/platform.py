"""The platform as configured: sites, databases, ledger and model registry, opened on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from rempart.coordination.active import Active, is_open
from rempart.errors import PipelineError, PlacementDenied
from rempart.ledger import keys
from rempart.ledger.attributed import AttributedLedger, Writer
from rempart.ledger.port import Evidence, Ledger
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.replication.continuity import Continuity, PostgresqlContinuity
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connection, Connections, witness
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipeline_sections import Part
from rempart.settings.pipelines import load_all
from rempart.settings.sections import Classification
from rempart.sites.port import Site
from rempart.sovereignty.classification import Lowering, derived, highest
from rempart.sovereignty.places import HOLDS, decide_server, decide_site
from rempart.sovereignty.policy import Decision, What

INTERNAL = ("airflow", "continuity", "feast_registry", "ledger")
"""Databases that hold no rows of the pipelines' data."""


def classification_of(pipelines: Mapping[str, Pipeline | PipelineError]) -> Classification:
    """Return the classification of data that all pipelines share: the highest of the pipelines' classifications.

    Without a pipeline, or if a pipeline file does not load, it is at least `personal`, because the data is unknown.
    """
    loaded = pipelines.values()
    known: list[Classification] = [p.classification for p in loaded if not isinstance(p, PipelineError)]
    return highest(known if len(known) == len(loaded) > 0 else [*known, "personal"])


def _with_pipelines(denied: Decision) -> PlacementDenied:
    """Return a denial that names its pipelines if all share the place: it has the highest classification of them."""
    refusal = denied.refusal()
    names = [
        name
        for name, found in load_all().items()
        if isinstance(found, Pipeline) and found.classification == denied.classification
    ]
    if denied.what not in (*HOLDS.values(), "restore-point") or not names:
        return refusal
    return PlacementDenied(refusal.what, f"{refusal.hint} Pipelines with this classification: {', '.join(names)}.")


SparkPods = Callable[["Platform", Site, Pipeline], Any]
"""Returns what runs the Spark jobs of a pipeline at a site in pods (`flows.distributed.orders.SparkBackend`)."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Platform:
    """The outside world of a flow: sites, databases, ledger, clock and continuity database. Tests pass their own.

    `writer` names the Airflow task of the flow, if any. Ledger records carry that name. Only tasks have `spark_pods`.
    """

    config: Config
    connections: Connections
    clock: Callable[[], datetime] = utc_now
    sites: dict[str, Site] = field(default_factory=dict)
    ledger_: Ledger | None = None
    continuity_: Continuity | None = None
    writer: Writer | None = None
    spark_pods: SparkPods | None = None
    _permitted: set[tuple[str, str, str]] = field(default_factory=set)

    def site(
        self, name: str, classification: Classification, what: What = "data", *, replica_of: str | None = None
    ) -> Site:
        """Return a site if the policy allows `what` of this classification there.

        `replica_of` names the site that holds the original of a copy. Every denial is evidence; a permission is
        recorded once per platform object, so once per task. Raises PlacementDenied.
        """
        connection = None
        if name not in self.sites and name in self.config.sites:
            connection = self.connections(self.config.sites[name].connection)
        decision = self._decide(name, connection, classification, what, replica_of)
        self.record(decision)
        return self._open(name, name, connection, decision)

    def site_to_read(self, name: str, classification: Classification) -> Site:
        """Return a site for reads of what it holds, if the policy allows that there. Nothing is recorded.

        So a process without the signing key can use it. Raises PlacementDenied.
        """
        connection = None if name in self.sites else self.connections(self.config.sites[name].connection)
        decision = self._decide(name, connection, classification, "data", None)
        if not decision.allowed:
            raise _with_pipelines(decision)
        return self._open(name, name, connection, decision)

    def openers(self, classification: Classification) -> dict[str, Callable[[], Site]]:
        """Return for each configured site the function that opens it, as `site` does."""
        return {name: partial(self.site, name, classification) for name in self.config.sites}

    def evidence_site(self, name: str, *, write_only: bool = False) -> tuple[Site, Decision]:
        """Return a site of the ledger's export and its permission. The caller records the permission before it writes.

        `write_only` uses the credentials that can only add to the checkpoint bucket. Raises PlacementDenied, and
        records it.
        """
        connection, held = None, witness(name) if write_only else name
        if held not in self.sites and name in self.config.sites:
            connection = self.connections(held if write_only else self.config.sites[name].connection)
        decision = self._decide(name, connection, "internal", "evidence", None)
        if not decision.allowed:
            self.record(decision)
        return self._open(held, name, connection, decision), decision

    def _decide(
        self,
        name: str,
        connection: Connection | None,
        classification: Classification,
        what: What,
        replica_of: str | None,
    ) -> Decision:
        endpoint = connection.extra.get("endpoint_url") if connection else None
        today = self.clock().date()
        return decide_site(self.config, classification, what, name, on=today, endpoint=endpoint, replica_of=replica_of)

    def _open(self, held: str, name: str, connection: Connection | None, permission: Decision) -> Site:
        if connection:
            from rempart.sites.s3.site import S3Site

            place = self.config.sites[name]
            self.sites[held] = S3Site(name, connection, place.region, permission, most_listed=place.most_listed)
        return self.sites[held]

    def record(self, decision: Decision) -> None:
        """Record a placement decision in the ledger. Raises PlacementDenied if it is a denial."""
        if not decision.allowed:
            self.ledger.append("denial", decision.place, decision.as_json())
            raise _with_pipelines(decision)
        asked = (decision.what, decision.classification, decision.place)
        if asked not in self._permitted:
            self.ledger.append("decision", decision.place, decision.as_json())
            self._permitted.add(asked)

    @property
    def continuity(self) -> Continuity:
        """Return the continuity database: leases, replica catalogues, generations of the active site."""
        return self.continuity_ or PostgresqlContinuity(self.database("continuity"))

    def active(self) -> Active:
        """Return the active site and whether it is fenced. Raises DatabaseUnavailable, ReplicationError."""
        return self.continuity.active_sites(self.config.active_site).active()

    def active_site(self, classification: Classification, active: Active | None = None) -> Site:
        """Return the site where pipelines read and write. Raises SiteFenced, PlacementDenied."""
        return self.site(is_open(active or self.active()).site, classification)

    def committing(self, began: Active, *, alone: str = "") -> AbstractContextManager[object]:
        """Block a switchover while the caller commits at the active site, and others who commit the same `alone`.

        Raises before anything is written: SiteFenced if the generation changed since the work began, LeaseHeld.
        """
        return self.continuity.active_sites(self.config.active_site).committing(began, alone=alone)

    def classification(self, pipeline: Pipeline, part: Literal["model"]) -> Classification:
        """Return the classification of data derived from a pipeline: the pipeline's own, unless a step lowers it.

        Raises PlacementDenied if the ledger lacks the attestation of the step that the pipeline file declares.
        """
        if (step := pipeline.lowered.get(part)) is None:
            return pipeline.classification
        records = self.ledger.find("classification", f"{pipeline.name}.{part}")
        attested = next((record.body for record in records if record.seq == step.evidence), None)
        return derived(pipeline.classification, Lowering(part, step.to, step.evidence), attested)

    def attest_derived(self, pipeline: Pipeline, inputs: Classification) -> None:
        """Check that the ledger attests a lower classification of derived rows than that of the inputs, if declared.

        Raises PlacementDenied.
        """
        if (step := pipeline.lowered.get("data")) is None:
            return
        records = self.ledger.find("classification", f"{pipeline.name}.data")
        attested = next((record.body for record in records if record.seq == step.evidence), None)
        derived(inputs, Lowering("data", step.to, step.evidence), attested)

    def database(self, name: str) -> Connection:
        """Return the connection of a platform database (`config.DATABASES`, `backup` or `drill`).

        Asks the policy whether the server may hold the data. The decision is evidence, except for INTERNAL databases.
        Raises PlacementDenied.
        """
        connection = self.connections(f"pg_{name}")
        if name in INTERNAL:
            decision = self._decide_server("postgresql", "internal", connection.host)
            if not decision.allowed:
                raise decision.refusal()  # no record is possible: the ledger is on the same server
        else:
            self.record(self._decide_server("postgresql", classification_of(load_all()), connection.host))
        return connection

    def database_to_read(self, name: str) -> Connection:
        """Return the connection of a database as `database` does, but record nothing. Raises PlacementDenied."""
        connection = self.connections(f"pg_{name}")
        decision = self._decide_server("postgresql", classification_of(load_all()), connection.host)
        if not decision.allowed:
            raise _with_pipelines(decision)
        return connection

    def tracking(self) -> Connection:
        """Return the connection of the MLflow server, if the policy allows the models' metadata there.

        Raises PlacementDenied.
        """
        connection = self.connections("mlflow")
        self.record(self._decide_server("mlflow", classification_of(load_all())))
        return connection

    def _decide_server(self, name: str, classification: Classification, host: str | None = None) -> Decision:
        return decide_server(self.config, classification, name, on=self.clock().date(), host=host)

    def lower(
        self,
        pipeline: Pipeline,
        part: Part,
        to: Classification,
        because: str,
        role: str,
        source: Classification | None = None,
    ) -> Evidence:
        """Record the judgement that derived data has classification `to`, with the reason and the role (no personal
        names). `source`: classification of what it is derived from, if not the pipeline's own.
        """
        body = {"from": source or pipeline.classification, "derived": part, "to": to, "because": because, "role": role}
        return self.ledger.append("classification", f"{pipeline.name}.{part}", body)

    @property
    def ledger(self) -> Ledger:
        found = self.ledger_ or PostgresqlLedger(self.database("ledger"), self.signer)
        return AttributedLedger(found, self.writer) if self.writer else found

    def signer(self, connection: str = keys.CONNECTION) -> keys.Signer:
        """Return the key that signs ledger records. Raises LedgerError, ConnectionMissing."""
        return keys.from_connection(self.connections(connection))

    def trusted_keys(self) -> dict[str, bytes]:
        """Return the ledger's public keys by id: every introduced key and the current one."""
        known = {record.subject: keys.from_base64(record.body["public"]) for record in self.ledger.find("key")}
        present = self.signer()
        return {name: public for name, public in known.items() if public} | {present.id: present.public}


def open_platform(connections: Connections = configuration.environment_connections) -> Platform:
    """Return the platform of rempart.yaml. Connections come from the environment unless another source is given."""
    return Platform(configuration.load(), connections)
