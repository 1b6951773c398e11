"""Ingest a derived pipeline: its delivery stands for the whole, so the snapshot becomes exactly the new result.

Rows that are no longer derived leave the snapshot. A delivery counts only while no row of an ancestor was erased since
it was derived; the manifest and the ledger name the inputs' snapshots.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rempart.errors import ErasedMeanwhile, IngestError, InputMissing, ObjectMissing
from rempart.flows.ingestion import current_snapshot, ingest_run, source_state
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.ingestion.source_state import Pending
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, snapshots
from rempart.ingestion.content import evolution
from rempart.ingestion.content.growth import KnownRows
from rempart.ingestion.deliveries import HELD_BACK, REFUSED
from rempart.ingestion.derived import inputs as files
from rempart.ingestion.derived.inputs import Derivation, is_derived
from rempart.ingestion.derived.lineage import lineage
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.landing import Arrival
from rempart.ingestion.sources import derived
from rempart.ingestion.sources.origins import origin
from rempart.ingestion.sources.port import Input, Lake, Origin, State
from rempart.ledger.port import Ledger
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site
from rempart.sovereignty import places

WHOLE = KnownRows(same_form=False)
"""No row of the earlier snapshot stays."""


@dataclass(frozen=True)
class SiteLake:
    """The snapshots of a derived pipeline's inputs at the active site. It implements `Lake`.

    `erasures` is taken before an input is opened: an erasure that comes later makes the delivery stale.
    """

    platform: Platform
    run: IngestionRun
    erasures: str

    @property
    def origin(self) -> Origin:
        """Return the evidence of the lake: whose it is."""
        config, site = self.run.config, self.run.site.name
        decision = places.decide_site(config, self.run.pipeline.classification, "data", site, on=self.run.now.date())
        return origin(config, places.placement(decision.place, config.sites[site]), f"{site}/{self.run.lake}/snapshots")

    def input(self, pipeline: Pipeline) -> Input:
        """Return the current snapshot of an input, checked against the evidence."""
        run = ingest_run.begin(self.platform, pipeline)
        found = current_snapshot.current(run)
        if found is None:
            raise InputMissing(
                f"derive '{self.run.pipeline.name}': its input '{pipeline.name}' has no snapshot yet",
                f"Run `rempart pipeline run {pipeline.name}` first.",
            )
        check_clean(run.ledger, found)

        def parts(folder: Path) -> Sequence[Path]:
            folder.mkdir(parents=True)
            return list(ingest_run.known_rows(run, found, folder).files.values())

        return Input(found.id, snapshots.snapshot_columns(pipeline), parts)

    def resources(self, folder: Path) -> Resources:
        """Return what the engine may use, by rempart.yaml."""
        return ingest_run.resources(self.run.config, folder)


def lake(platform: Platform, run: IngestionRun) -> Callable[[Derivation], Lake]:
    """Return how the lake is opened for a derivation: once its classification is attested and recorded."""

    def opened(found: Derivation) -> Lake:
        platform.attest_derived(run.pipeline, files.needed_classification(found.inputs))
        record(run.ledger, run.pipeline, found)
        return SiteLake(platform, run, mark(run.ledger, run.pipeline.name))

    return opened


def record(ledger: Ledger, pipeline: Pipeline, found: Derivation) -> None:
    """Write evidence of what a pipeline is derived from, when that changed: inputs, query, lineage by column."""
    columns = {name: snapshots.snapshot_columns(spec) for name, spec in found.inputs.items()}
    body: dict[str, Any] = {
        "inputs": sorted(found.inputs),
        "sql": found.sql,
        "query": hashlib.sha256(found.query.text.encode()).hexdigest(),
        "classification": pipeline.classification,
        "lineage": told(lineage(found.query, columns)),
    }
    newest = ledger.find("derivation", pipeline.name, limit=1)
    if not newest or dict(newest[0].body) != body:
        ledger.append("derivation", pipeline.name, body)


def told(traced: Mapping[str, tuple[tuple[str, str], ...] | None]) -> dict[str, list[str] | None]:
    """Return a lineage as JSON: `input.column` for each source of a column; None if it cannot be told."""
    return {
        name: None if sources is None else [f"{table}.{column}" for table, column in sources]
        for name, sources in traced.items()
    }


def recorded_inputs(ledger: Ledger) -> dict[str, set[str]]:
    """Return the inputs of each derived pipeline, now and ever: declared in its file, or recorded as evidence."""
    found = {name: set(used) for name, used in files.inputs_of(load_all()).items() if used}
    for derivation in ledger.find("derivation"):
        found.setdefault(derivation.subject, set()).update(derivation.body["inputs"])
    return found


def mark(ledger: Ledger, pipeline: str) -> str:
    """Return a digest of all erasures on record for the ancestors of a pipeline."""
    names = sorted(files.ancestors(pipeline, recorded_inputs(ledger)))
    entries = sorted(entry.id for name in names for entry in erasures.on_record(ledger, name))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class DerivedFrom:
    """What the waiting delivery of a derived pipeline was derived from; of another pipeline, nothing."""

    state: State = field(default_factory=dict)


def newest(run: IngestionRun, before: snapshots.Snapshot | None) -> DerivedFrom:
    """Return what the newest extraction was derived from.

    Raises ErasedMeanwhile if rows of an ancestor were erased since: its rows may hold theirs.
    """
    if not is_derived(run.pipeline):
        return DerivedFrom()
    pending = source_state.read_pending(run.site, run.lake, run.pipeline.name)
    after = pending.after if pending and pending.whole else None
    stand = after or source_state.read_stand(run.site, run.lake, run.pipeline.name, before)
    found = DerivedFrom(stand.state)
    check_same(run, found)
    return found


def check_same(run: IngestionRun, found: DerivedFrom) -> None:
    """Check that no row of an ancestor was erased since. Call it inside `Platform.committing`, too."""
    if found.state and not is_clean(run.ledger, run.pipeline.name, found.state):
        raise ErasedMeanwhile(
            f"Rows of an input of '{run.pipeline.name}' were erased after its delivery was derived: nothing was "
            "committed",
            f"Run `rempart pipeline run {run.pipeline.name}`: it derives the rows again.",
        )


def named(snapshot: snapshots.Snapshot, before: snapshots.Snapshot | None, found: DerivedFrom) -> snapshots.Snapshot:
    """Return a snapshot that says what it was derived from. With the rows of the one before, it takes its place."""
    if before is not None and before.id == snapshot.id:
        snapshot = replace(snapshot, previous=before.previous)
    return replace(snapshot, derived_from=found.state)


def restate(run: IngestionRun, before: snapshots.Snapshot | None, found: DerivedFrom, known: Sequence[Arrival]) -> None:
    """Write into the current manifest that its rows are derived from newer inputs, too, if these gave the same rows."""
    if before is None or not found.state or before.derived_from == found.state:
        return
    name = derived.delivery_name(found.state)
    if (same := next((arrival for arrival in known if arrival.name == name), None)) is None:
        return
    outcome = deliveries.read(run.site, run.lake, run.pipeline.name, same.sha256)
    if outcome["snapshot"] == before.id and outcome["outcome"] not in (HELD_BACK, REFUSED):
        snapshots.commit(run.site, run.lake, replace(before, derived_from=found.state), [])


def is_clean(ledger: Ledger, pipeline: str, state: State) -> bool:
    """Return whether rows of this state respect every erasure that is on record for the pipeline's ancestors."""
    return state.get(derived.ERASURES) == mark(ledger, pipeline)


def stands(ledger: Ledger, site: Site, bucket: str, pipeline: str, snapshot: str) -> bool:
    """Return whether a snapshot respects every erasure in the inputs of its pipeline; true of one that is not derived.

    Of a pipeline that was ever derived, a snapshot that is gone may have had erased rows. Raises SiteError,
    IntegrityError.
    """
    if pipeline not in recorded_inputs(ledger):
        return True
    try:
        found = snapshots.read(site, bucket, pipeline, snapshot)
    except ObjectMissing:
        return False
    return not found.derived_from or is_clean(ledger, pipeline, found.derived_from)


def check_clean(ledger: Ledger, snapshot: snapshots.Snapshot) -> None:
    """Check that a snapshot's rows, if derived, respect every erasure. Raises ErasedMeanwhile."""
    if snapshot.derived_from and not is_clean(ledger, snapshot.pipeline, snapshot.derived_from):
        raise ErasedMeanwhile(
            f"Snapshot {snapshot.id} of '{snapshot.pipeline}' was derived before an erasure in its inputs",
            "Complete the erasure: `rempart pipeline erase --again`.",
        )


def is_stale(run: IngestionRun, pending: Pending) -> bool:
    """Return whether a derived delivery that waits must be derived again, because of an erasure."""
    return is_derived(run.pipeline) and not is_clean(run.ledger, run.pipeline.name, pending.after.state)


def check_arrivals(run: IngestionRun, arrivals: Sequence[Arrival]) -> None:
    """Check that what waits was derived. Raises IngestError for any other file: it would stand for the whole."""
    if not is_derived(run.pipeline) or not arrivals:
        return
    pending = source_state.read_pending(run.site, run.lake, run.pipeline.name)
    made = {(delivery.key, delivery.sha256) for delivery in pending.deliveries} if pending else set()
    foreign = [arrival.key for arrival in arrivals if (arrival.key, arrival.sha256) not in made]
    if foreign:
        raise IngestError(
            f"Pipeline '{run.pipeline.name}' is derived from {', '.join(getattr(run.pipeline.source, 'inputs', ()))}, "
            f"but {run.inbox}/{foreign[0]} waits for it, which was not derived. Nothing was ingested",
            "Delete the file from the landing bucket, or deliver it to one of the inputs.",
        )


def check_schema(before: snapshots.Snapshot | None, pipeline: Pipeline) -> None:
    """Raise IngestError if earlier rows do not fit the schema. Of a derived pipeline no earlier row stays."""
    if not is_derived(pipeline):
        evolution.check(before, pipeline)


def known_rows(run: IngestionRun, before: snapshots.Snapshot | None, folder: Path) -> KnownRows:
    """Return the rows that stay when new deliveries are ingested: none, if a delivery stands for the whole."""
    return WHOLE if is_derived(run.pipeline) else ingest_run.known_rows(run, before, folder)


def known_again(
    run: IngestionRun,
    before: snapshots.Snapshot | None,
    found: DerivedFrom,
    outcome: Mapping[str, Any],
    folder: Path,
) -> KnownRows:
    """Return the rows that stay when a delivery is ingested again.

    A derived delivery that was refused as a whole stands for the whole; of one that was accepted in part, more rows
    join. Raises IngestError for a derived delivery that is not the newest.
    """
    if not is_derived(run.pipeline):
        return ingest_run.known_rows(run, before, folder)
    if not found.state or outcome["file"] != derived.delivery_name(found.state):
        raise IngestError(
            f"Delivery {outcome['sha256'][:12]} of '{run.pipeline.name}' was derived from earlier snapshots of its "
            "inputs, and stands for all rows. Nothing was changed",
            f"Run `rempart pipeline run {run.pipeline.name}`: it derives the rows from the current snapshots.",
        )
    return WHOLE if outcome["outcome"] in (HELD_BACK, REFUSED) else ingest_run.known_rows(run, before, folder)
