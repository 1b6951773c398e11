"""Shared state of an ingestion run: site, buckets, retention, erased keys; and the writing of its records.

Each step may be repeated, so the next run completes an interrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from rempart.coordination.active import Active
from rempart.errors import ConfigError
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, expectations, landing, snapshots
from rempart.ledger.port import Ledger
from rempart.settings.config import Config
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = 200
"""Limit of deliveries in one record."""
SOURCES = 500
"""Deliveries that a snapshot's record names, by their SHA-256; its manifest names all of them, and their files."""
_RECENT = 50
"""Number of newest records of a pipeline in which an interrupted run is searched."""


@dataclass(frozen=True)
class IngestionRun:
    """One run's surroundings."""

    ledger: Ledger
    config: Config
    pipeline: Pipeline
    active: Active
    site: Site
    now: datetime
    erased: Erased | None = None

    @property
    def lake(self) -> str:
        return self.config.buckets.lake

    @property
    def inbox(self) -> str:
        return self.config.buckets.landing

    def retain_until(self, kind: Literal["raw", "quarantine", "snapshots"]) -> date:
        rule = self.config.retention.get(self.pipeline.classification)
        if rule is None:
            raise ConfigError(
                f"retention.{self.pipeline.classification} is not declared, pipeline '{self.pipeline.name}' needs it",
                "Add it to rempart.yaml: how long raw deliveries, quarantine and snapshots are kept.",
            )
        kept = {"raw": rule.raw, "quarantine": rule.quarantine, "snapshots": rule.snapshots}[kind]
        return (self.now + kept).date()


def begin(platform: Platform, pipeline: Pipeline) -> IngestionRun:
    """Return the state of a new run. Raises SiteFenced, PlacementDenied, ConfigError, BackupError."""
    active, ledger = platform.active(), platform.ledger
    erased = erasures.erased(ledger, pipeline.name, erasures.secrets_of(platform))
    site = platform.active_site(pipeline.classification, active)
    run = IngestionRun(ledger, platform.config, pipeline, active, site, platform.clock(), erased)
    run.retain_until("snapshots")  # a missing rule is said before anything is written
    return run


def finish(run: IngestionRun, current: snapshots.Snapshot | None) -> Sequence[Mapping[str, Any]]:
    """Complete a run that was interrupted after its commit. Return the outcomes of its deliveries, or nothing."""
    if current is None:
        return ()
    newest = run.ledger.find("snapshot", run.pipeline.name, limit=1)
    if newest and newest[0].body.get("snapshot") == current.id:
        return ()
    conclude(run.ledger, run.pipeline, run.site, run.lake, current.deliveries)
    append_snapshot(run, current)
    return current.deliveries


def accepted_before(run: IngestionRun, before: snapshots.Snapshot | None) -> tuple[pa.Table | None, set[str]]:
    """Return the current rows in the current schema without erased rows, and the partitions that lost rows."""
    if before is None:
        return None, set()
    table = snapshots.conform(snapshots.load_table(run.site, run.lake, before), before, run.pipeline)
    if run.erased is None:
        return table, set()
    kept, struck = erasing.split(table, run.pipeline.key, run.erased.has)
    return kept, set(snapshots.partitions(struck, run.pipeline.partition_by, run.pipeline.partition_every))


def draw_up(
    run: IngestionRun,
    before: snapshots.Snapshot | None,
    current: pa.Table | None,
    accepted: pa.Table,
    changed: set[str],
) -> tuple[snapshots.Snapshot, list[tuple[snapshots.Part, bytes]]]:
    """Build the snapshot of the current and accepted rows with its new parts, without writing."""
    import pyarrow as pa

    return snapshots.draw_up(
        run.pipeline,
        before,
        pa.concat_tables([current, accepted]) if current is not None else accepted,
        changed | set(snapshots.partitions(accepted, run.pipeline.partition_by, run.pipeline.partition_every)),
        now=run.now,
        retain_until=run.retain_until("snapshots"),
    )


def conclude(ledger: Ledger, pipeline: Pipeline, site: Site, lake: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Record the outcomes of deliveries: first as evidence, then at the site, which makes them known.

    The quarantine of a delivery that is ingested again replaces the previous one, which is deleted.
    """
    _tell(ledger, pipeline, site.name, outcomes)
    for outcome in outcomes:
        deliveries.record(site, lake, pipeline.name, outcome)
        drop_replaced(site, lake, pipeline.name, outcome)


def drop_replaced(site: Site, bucket: str, pipeline: str, outcome: Mapping[str, Any]) -> None:
    """Delete the quarantine that this outcome has replaced, if it still exists."""
    if again := deliveries.attempt(outcome):
        key = landing.quarantine_key(pipeline, str(outcome["sha256"]), again - 1)
        if any(info.key == key for info in site.list(bucket, key)):
            site.delete(bucket, key)


def append_snapshot(run: IngestionRun, snapshot: snapshots.Snapshot) -> None:
    """Write evidence of a snapshot. Rows of a delivery that is ingested again left quarantine: a negative number."""
    first = [delivery for delivery in snapshot.deliveries if not deliveries.attempt(delivery)]
    total = {name: sum(delivery[name] for delivery in first) for name in ("delivered", "accepted", "quarantined")}
    added = sum(delivery["added"] for delivery in snapshot.deliveries if deliveries.attempt(delivery))
    body = {
        "snapshot": snapshot.id,
        "previous": snapshot.previous,
        "site": run.site.name,
        "bucket": run.lake,
        "deliveries": len(first),
        "rows": snapshot.rows,
        "sources": [delivery["sha256"] for delivery in snapshot.deliveries[:SOURCES]],
        "delivered": total["delivered"],
        "accepted": total["accepted"] + added,
        "quarantined": total["quarantined"] - added,
    }
    run.ledger.append("snapshot", run.pipeline.name, body)


def _tell(ledger: Ledger, pipeline: Pipeline, site: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Write evidence of the deliveries' outcomes, once for each ingestion: counts and reasons, never values.

    File names are omitted as well: a name may identify a person, and evidence stays.
    """
    if not outcomes:
        return
    recent = ledger.find("deliveries", pipeline.name, limit=_RECENT)
    reported = [delivery for record in recent for delivery in record.body["deliveries"]]
    known = [{name: value for name, value in outcome.items() if name != "file"} for outcome in outcomes]
    news = [delivery for delivery in known if delivery not in reported]
    rules = [
        {"expect": expectation.expect, "columns": expectations.columns(expectation), "reason": expectation.reason}
        for expectation in pipeline.expectations
    ]
    for start in range(0, len(news), RECORD):
        body = {"site": site, "expectations": rules, "deliveries": news[start : start + RECORD]}
        ledger.append("deliveries", pipeline.name, body)
