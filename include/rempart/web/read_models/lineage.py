"""Trace the origin of a model version: deliveries, snapshot, training set, run, and place of the training. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.ledger.port import Evidence
from rempart.web.facts import CockpitFacts

SHOWN = 20
"""Deliveries that are named, the newest; all are counted."""


@dataclass(frozen=True)
class Sources:
    """The deliveries whose rows are in a snapshot, including those of all earlier snapshots.

    `newest`: SHA-256 of the last deliveries, if the records name them. `whole`: whether the records reach back to the
    first snapshot; if not, there are more deliveries.
    """

    deliveries: int
    rows_delivered: int
    rows_accepted: int
    newest: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Trained:
    """Pod and node of the successful attempt. For several nodes: the TrainJob, and all nodes in one text."""

    pool: str
    operator: str
    region: str | None
    pod: str | None
    train_job: str | None
    node: str
    gpu_type: str | None
    gpus: int
    image: str | None
    basis: str | None


@dataclass(frozen=True)
class Lineage:
    """Lineage of a version, from its deliveries on. `trained` is None for a job on the platform's own machine.

    `verdict`: record of the red verdict that started the training, if there was one.
    """

    seq: int
    model: str
    version: str
    at: datetime
    sources: Sources | None
    snapshot: str | None
    snapshot_seq: int | None
    dataset_sha256: str
    rows_train: int
    rows_holdout: int
    features: tuple[str, ...]
    trainer: str
    run_id: str
    job_id: str
    code_version: str
    classification: str
    trained: Trained | None
    verdict: int | None


def lineages(facts: CockpitFacts) -> tuple[Lineage, ...]:
    """Return the lineage of every candidate, newest first."""
    snapshots = {str(record.body["snapshot"]): record for record in facts.of("snapshot") if "snapshot" in record.body}
    return tuple(_lineage(candidate, snapshots) for candidate in facts.of("candidate"))


def sources(snapshot: str, snapshots: Mapping[str, Evidence]) -> Sources | None:
    """Return the deliveries of a snapshot, by its records and those of earlier snapshots; None if it has no record."""
    seen: dict[str, Mapping[str, Any]] = {}
    at: str | None = snapshot
    while at is not None and at in snapshots and at not in seen:
        seen[at] = snapshots[at].body
        at = snapshots[at].body.get("previous")
    if not seen:
        return None
    named = [str(source) for body in seen.values() for source in body.get("sources") or ()]
    return Sources(
        sum(int(body.get("deliveries", 0)) for body in seen.values()),
        sum(int(body.get("delivered", 0)) for body in seen.values()),
        sum(int(body.get("accepted", 0)) for body in seen.values()),
        tuple(named[:SHOWN]),
        at is None,
    )


def _lineage(record: Evidence, snapshots: Mapping[str, Evidence]) -> Lineage:
    body = record.body
    dataset, snapshot = body["dataset"], body.get("snapshot")
    source = snapshots.get(str(snapshot)) if snapshot else None
    return Lineage(
        record.seq,
        record.subject,
        str(body["version"]),
        record.at,
        sources(str(snapshot), snapshots) if snapshot else None,
        snapshot,
        source.seq if source else None,
        str(dataset["sha256"]),
        int(dataset["rows_train"]),
        int(dataset["rows_holdout"]),
        tuple(str(feature["name"]) for feature in body.get("features") or ()),
        str((body.get("trainer") or {}).get("use", "")),
        str(body.get("run_id", "")),
        str(body.get("job_id", "")),
        str(body.get("code_version", "")),
        str(body.get("classification", "")),
        _trained(body["placement"]) if body.get("placement") else None,
        body.get("verdict"),
    )


def _trained(ran: Mapping[str, Any]) -> Trained:
    return Trained(
        str(ran.get("pool", "")),
        str(ran.get("operator", "")),
        ran.get("region"),
        ran.get("pod"),
        ran.get("train_job"),
        str(ran.get("node", "")),
        ran.get("gpu_type"),
        int(ran.get("gpus") or 0),
        ran.get("image"),
        ran.get("basis"),
    )
