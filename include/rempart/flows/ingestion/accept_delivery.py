"""Publish the good rows of a held-back delivery that a person accepts, or ingest a delivery again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rempart.airflow_api import AirflowApi
from rempart.counts import counted
from rempart.errors import IngestError
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.deliveries import HELD_BACK
from rempart.ledger.port import Ledger
from rempart.settings.config import Connection
from rempart.settings.pipelines import named

logger = logging.getLogger(__name__)

SHORTEST = 8
"""Characters of a SHA-256 that are enough to name a delivery, if no other begins with them."""


@dataclass(frozen=True)
class Acceptance:
    """A held-back delivery: its rows, and the reasons of the quarantined ones with their counts."""

    pipeline: str
    delivery: str
    delivered: int
    good: int
    refused: int
    limit: float
    reasons: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """Return the plan as text."""
        yield f"delivery {self.delivery} of {self.pipeline}: held back, more than max_quarantined ({self.limit:.1%})"
        yield f"  of {counted(self.good, 'good row')} of {self.delivered:,}, those whose key is new join a new snapshot"
        yield "  a row whose key was accepted before follows `on_conflict`; what depends on a new snapshot runs"
        yield f"  {counted(self.refused, 'row stays', 'rows stay')} in quarantine:"
        yield from (f"    {count} x {reason}" for reason, count in self.reasons.items())
        yield "  the ledger records the acceptance, with the number of the user of connection airflow_api"


def plan(ledger: Ledger, pipeline: str, delivery: str) -> Acceptance:
    """Return what accepting a delivery would publish, from the newest evidence on it.

    `delivery`: SHA-256, or its beginning. Raises IngestError for a delivery that is not on record or not held back,
    PipelineError, DatabaseUnavailable.
    """
    spec = named(pipeline)
    found = on_record(ledger, pipeline, delivery)
    delivery = str(found["sha256"])
    if found["outcome"] != HELD_BACK:
        raise IngestError(
            f"Delivery {delivery[:12]} of '{pipeline}' is not held back: it is {found['outcome']}",
            "There is nothing to accept. To judge its quarantine by today's rules: "
            f"`rempart quarantine again {pipeline} {delivery[:12]}`.",
        )
    reasons = {str(reason): int(count) for reason, count in found["reasons"].items() if reason != HELD}
    good, delivered = int(found["reasons"].get(HELD, 0)), int(found["delivered"])
    refused = int(found["quarantined"]) - good
    return Acceptance(pipeline, delivery, delivered, good, refused, spec.max_quarantined, reasons)


def on_record(ledger: Ledger, pipeline: str, delivery: str) -> Mapping[str, Any]:
    """Return the newest evidence on a delivery. `delivery`: SHA-256, or its first eight or more characters.

    Raises IngestError if no delivery or more than one begins so, DatabaseUnavailable.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for record in ledger.find("deliveries", pipeline):
        for entry in record.body["deliveries"]:
            if str(entry["sha256"]).startswith(delivery) and len(delivery) >= SHORTEST:
                found.setdefault(str(entry["sha256"]), entry)
    if len(found) == 1:
        return next(iter(found.values()))
    raise IngestError(
        f"Delivery {delivery[:12]} of '{pipeline}' is not on record"
        if not found
        else f"{len(found)} deliveries of '{pipeline}' begin with {delivery[:64]}",
        f"Take its SHA-256 from `rempart quarantine show {pipeline}` or the cockpit's page of this pipeline.",
    )


def again(airflow: Connection, pipeline: str, delivery: str) -> Mapping[str, Any]:
    """Ingest a delivery again by the pipeline file of today, and wait for the result. Raises AirflowApiError."""
    return AirflowApi(airflow).run(f"ingest_{pipeline}", "ingest", {"again": delivery}, logger.info)


def accept(airflow: Connection, planned: Acceptance) -> bool:
    """Run the pipeline's DAG for the delivery, and wait until it ends. Return whether there is a new snapshot.

    Raises AirflowApiError.
    """
    conf = {"again": planned.delivery, "accept_quarantined": True}
    api = AirflowApi(airflow)
    done = api.run(f"ingest_{planned.pipeline}", "ingest", conf, logger.info)
    by = done["accepted_by"] or "nobody: the delivery is now within max_quarantined"
    published = f"{counted(done['accepted'], 'row is', 'rows are')} published in snapshot {done['snapshot']}"
    if not done["changed"]:
        published = f"no new row: snapshot {done['snapshot']} stays as it was"
    stays = counted(done["quarantined"], "row stays", "rows stay")
    logger.info("accepted by %s: %s, %s in quarantine", by, published, stays)
    return bool(done["changed"])
