"""Shared state of an ingestion run: site, buckets, retention, erased keys; and the writing of its records.

Each step may be repeated, so the next run completes an interrupted one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from rempart.coordination.active import Active
from rempart.errors import CommittedMeanwhile, ConfigError, IngestError, ObjectMissing
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, expectations, isolated, landing, snapshots
from rempart.ingestion.acceptance import COUNTS
from rempart.ingestion.content import evolution, growth
from rempart.ingestion.content.growth import KnownRows
from rempart.ingestion.engine import deliveries as engine
from rempart.ingestion.engine.deliveries import StagedDelivery, TakenIn
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.judging.distinct import DistinctValues
from rempart.ingestion.judging.pool import JudgePool
from rempart.ledger.port import Ledger
from rempart.settings.config import Config
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site

BLOCK = 2 << 20
"""Bytes of a delivery that the isolated process reads at once."""
_ROWS, _MANY = 50_000, 500_000
WORKERS = 8
"""Objects that are read or written at the same time: each request waits for the site."""
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
    removal: int = 0

    @property
    def alone(self) -> str:
        """Return the name under which commits to this pipeline follow one another (`Platform.committing`)."""
        return f"snapshot of {self.pipeline.name}"

    def check_unchanged(self, before: snapshots.Snapshot | None) -> None:
        """Check that nobody was erased, the pipeline not reset and no snapshot committed since the run began.

        `before`: the current snapshot when it began. A run whose machine stood still would take away what its
        successor committed. Call it inside `committing`. Raises ErasedMeanwhile, PipelineError, SiteError,
        CommittedMeanwhile.
        """
        erasures.check_same(self.ledger, self.pipeline.name, self.erased)
        removals.check_same(self.ledger, self.pipeline.name, self.removal)
        name = self.pipeline.name
        try:
            found = snapshots.current(self.site, self.lake, name)
        except ObjectMissing:  # a reset or an erasure deleted the manifest that a late write names
            found = None
        now = found.id if found else None
        if now != (before.id if before else None):
            raise CommittedMeanwhile(
                f"Pipeline '{name}': its current snapshot was {before.id if before else 'none'} when this run began, "
                f"and is {now or 'none'} now. Another run or an erasure changed it; nothing was committed",
                f"Run ingest_{name} again: it goes on from there.",
            )

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
    """Return the state of a new run.

    Raises SiteFenced, PlacementDenied, ConfigError, BackupError, and PipelineError while the pipeline is being reset.
    """
    active, ledger = platform.active(), platform.ledger
    removal = removals.check_open(ledger, pipeline.name)
    erased = erasures.erased(ledger, pipeline.name, erasures.secrets_of(platform))
    site = platform.active_site(pipeline.classification, active)
    run = IngestionRun(ledger, platform.config, pipeline, active, site, platform.clock(), erased, removal)
    run.retain_until("snapshots")  # a missing rule is said before anything is written
    return run


def finish(run: IngestionRun, current: snapshots.Snapshot | None) -> Sequence[Mapping[str, Any]]:
    """Complete a run that was interrupted after its commit. Return the outcomes of its deliveries, or nothing."""
    if current is None or not is_interrupted(run, current):
        return ()
    conclude(run.ledger, run.pipeline, run.site, run.lake, current.deliveries)
    append_snapshot(run, current)
    return current.deliveries


def is_interrupted(run: IngestionRun, current: snapshots.Snapshot) -> bool:
    """Return whether the run that committed the current snapshot ended before its evidence, which is written last."""
    newest = run.ledger.find("snapshot", run.pipeline.name, limit=1)
    return not (newest and newest[0].seq > run.removal and newest[0].body.get("snapshot") == current.id)


def read(run: IngestionRun, file: Path, name: str, folder: Path) -> StagedDelivery:
    """Read and type a delivery in a process of its own. `name` is that of the file as received."""
    return isolated.stage(file, name, run.pipeline, limits(run.config), folder / f"{file.name}.read")


def end_reading(rows: int) -> None:
    """End the process that reads deliveries if it has read many rows: what comes needs its memory, 0.3 GB."""
    if rows > _MANY:
        isolated.end()


def judged(
    run: IngestionRun, read: Sequence[StagedDelivery], folder: Path, struck: Sequence[Collection[int]] | None = None
) -> list[StagedDelivery]:
    """Judge deliveries by the expectations. `struck`: for each the lines of erased rows. Raises PipelineError."""
    with JudgePool(run.config.ingestion.threads) as pool:
        judge = DistinctValues(run.pipeline.expectations, pool.places)
        return typed_rows.judged(read, judge, limits(run.config), folder / "judged", struck, columns=judge.columns)


def known_rows(run: IngestionRun, before: snapshots.Snapshot | None, folder: Path) -> KnownRows:
    """Fetch the parts of the current snapshot, in the current schema and without erased rows.

    Raises IngestError, and IntegrityError if rows that are rewritten differ from the manifest.
    """
    if before is None:
        return KnownRows()
    same_form, files, changed = growth.has_same_form(before, run.pipeline), _parts(run, before, folder), set[str]()
    if run.erased or not same_form:
        growth.check(before, files, resources(run.config, folder))  # rows that differ get no new hash
        for part in before.parts:
            if _brought_up_to_date(run, before, files[part.sha256]) and same_form:
                changed.add(part.partition)
    _check_key(run, before, files, folder)
    evolution.check_values(before, run.pipeline, list(files.values()), resources(run.config, folder))
    return KnownRows(files, frozenset(changed), same_form)


def check_key(run: IngestionRun, before: snapshots.Snapshot, folder: Path) -> None:
    """Raise IngestError if the pipeline's key is another one than the snapshot's, and several rows have it."""
    if before.key != tuple(run.pipeline.row_key):
        _check_key(run, before, _parts(run, before, folder), folder)


def _check_key(run: IngestionRun, before: snapshots.Snapshot, files: Mapping[str, Path], folder: Path) -> None:
    if before.key != tuple(run.pipeline.row_key) and growth.repeats(run.pipeline, files, resources(run.config, folder)):
        raise IngestError(
            f"Snapshot {before.id} of '{run.pipeline.name}' has several rows with one key, now that `key` is "
            f"{', '.join(run.pipeline.row_key)}. Nothing was ingested",
            f"Set `key: [{', '.join(before.key)}]` in {run.pipeline.name}.yaml again (`on_conflict: history` adds the "
            "column of `version_by` by itself), or give the new key to a new pipeline.",
        )


def _parts(run: IngestionRun, before: snapshots.Snapshot, folder: Path) -> dict[str, Path]:
    """Fetch the parts of a snapshot, by their SHA-256."""
    place = folder / "known"
    place.mkdir()

    def bring(part: snapshots.Part) -> Path:
        file = place / f"{part.sha256}.parquet"
        landing.fetch(run.site, run.lake, part.key, file, part.sha256)
        return file

    found = bounded_map(before.parts, bring, WORKERS)
    return {part.sha256: file for part, file in zip(before.parts, found, strict=True)}


def _brought_up_to_date(run: IngestionRun, before: snapshots.Snapshot, file: Path) -> bool:
    """Convert a part to the current schema and remove erased rows from it. Return whether rows were removed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    removed, out = False, file.with_suffix(".new")
    schema = snapshots.arrow_schema(snapshots.snapshot_columns(run.pipeline))
    with pq.ParquetFile(file) as source, pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in source.iter_batches(_ROWS):
            read = pa.Table.from_batches([batch]).cast(snapshots.arrow_schema(before.columns))
            table = evolution.conform(read, before.columns, before.id, run.pipeline)
            if run.erased:
                table, struck = erasing.split(table, run.pipeline.key, run.erased.has)
                removed = removed or struck.num_rows > 0
            writer.write_table(table)
    out.replace(file)
    return removed


def decide(
    run: IngestionRun,
    found: Sequence[StagedDelivery],
    known: KnownRows,
    folder: Path,
    *,
    hold_back: bool = True,
    late: bool = False,
) -> TakenIn:
    """Accept rows by the rule for their keys. The new rows are in parts in `folder`; `late` as in `engine.decide`."""
    return engine.decide(
        found,
        list(known.files.values()),
        run.pipeline,
        folder,
        resources(run.config, folder),
        limits(run.config),
        hold_back=hold_back,
        late=late,
    )


def draw_up(
    run: IngestionRun, before: snapshots.Snapshot | None, known: KnownRows, taken: TakenIn, folder: Path
) -> tuple[snapshots.Snapshot, list[tuple[snapshots.Part, Path]]]:
    """Build the snapshot of the known and accepted rows with its new parts, without writing to the site."""
    known = growth.without(before, known, taken.displaced, resources(run.config, folder))
    return growth.draw_up(
        run.pipeline,
        before,
        known,
        taken.parts,
        folder=folder,
        resources=resources(run.config, folder),
        now=run.now,
        retain_until=run.retain_until("snapshots"),
    )


def commit(run: IngestionRun, snapshot: snapshots.Snapshot, added: Sequence[tuple[snapshots.Part, Path]]) -> None:
    """Write a snapshot to the site, as `snapshots.commit` does, with some parts at the same time."""

    def keep_part(part: tuple[snapshots.Part, Path]) -> None:
        snapshots.keep_part(run.site, run.lake, snapshot, *part)

    for _ in bounded_map(added, keep_part, WORKERS):
        pass
    snapshots.commit(run.site, run.lake, snapshot, ())


def resources(config: Config, folder: Path) -> Resources:
    """Return what the engine may use, by rempart.yaml; it spills to `folder`."""
    return Resources(config.ingestion.memory << 20, config.ingestion.threads, folder / "spill")


def limits(config: Config) -> Limits:
    """Return what one delivery may cost, by rempart.yaml."""
    most = config.ingestion.largest_delivery << 20
    # a row has a line end at least
    return Limits(bytes=most, ratio=config.ingestion.unpacking_ratio, rows=most, lines=most, block=BLOCK)


def conclude(ledger: Ledger, pipeline: Pipeline, site: Site, lake: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Record the outcomes of deliveries: first as evidence, then at the site, which makes them known.

    The quarantine of a delivery that is ingested again replaces the previous one, which is deleted.
    """
    _tell(ledger, pipeline, site.name, outcomes)

    def record(outcome: Mapping[str, Any]) -> None:
        deliveries.record(site, lake, pipeline.name, outcome)
        drop_replaced(site, lake, pipeline.name, outcome)

    for _ in bounded_map(outcomes, record, WORKERS):
        pass


def drop_replaced(site: Site, bucket: str, pipeline: str, outcome: Mapping[str, Any]) -> None:
    """Delete the quarantine that this outcome has replaced, if it still exists."""
    if again := deliveries.attempt(outcome):
        key = landing.quarantine_key(pipeline, str(outcome["sha256"]), again - 1)
        if any(info.key == key for info in site.list(bucket, key)):
            site.delete(bucket, key)


def append_snapshot(run: IngestionRun, snapshot: snapshots.Snapshot) -> None:
    """Write evidence of a snapshot that this run has committed."""
    tell_snapshot(run.ledger, run.pipeline, run.site.name, run.lake, snapshot)


def tell_snapshot(ledger: Ledger, pipeline: Pipeline, site: str, lake: str, snapshot: snapshots.Snapshot) -> None:
    """Write evidence of a snapshot. A delivery that came again counts like another one. Rows of one that was judged
    again left quarantine: a negative number.
    """
    first = [delivery for delivery in snapshot.deliveries if not _is_judged_again(delivery)]
    again = [delivery for delivery in snapshot.deliveries if _is_judged_again(delivery)]
    total = {name: sum(delivery[name] for delivery in first) for name in COUNTS}
    added, repeated = (sum(delivery[name] for delivery in again) for name in ("added", "added_repeated"))
    body = {
        "snapshot": snapshot.id,
        "previous": snapshot.previous,
        "site": site,
        "bucket": lake,
        "deliveries": len(first),
        "rows": snapshot.rows,
        "sources": [delivery["sha256"] for delivery in snapshot.deliveries[:SOURCES]],
        "delivered": total["delivered"],
        "accepted": total["accepted"] + added,
        "repeated": total["repeated"] + repeated,
        "quarantined": total["quarantined"] - added - repeated,
        **({"derived_from": dict(snapshot.derived_from)} if snapshot.derived_from else {}),
    }
    if replaced := sum(delivery["replaced"] for delivery in snapshot.deliveries):
        body["replaced_rows"] = replaced
    ledger.append("snapshot", pipeline.name, body)


def _is_judged_again(outcome: Mapping[str, Any]) -> bool:
    return bool(deliveries.attempt(outcome)) and not outcome.get("came_again")


def _tell(ledger: Ledger, pipeline: Pipeline, site: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Write evidence of the deliveries' outcomes, once for each ingestion: counts and reasons, never values.

    File names are omitted as well: a name may identify a person, and evidence stays.
    """
    if not outcomes:
        return
    recent = ledger.find("deliveries", pipeline.name, limit=_RECENT)
    reported = [delivery for record in recent for delivery in record.body["deliveries"]]
    known = [{name: value for name, value in outcome.items() if name not in ("file", "source")} for outcome in outcomes]
    news = [delivery for delivery in known if delivery not in reported]
    rules = [
        {"expect": expectation.expect, "columns": expectations.columns(expectation), "reason": expectation.reason}
        for expectation in pipeline.expectations
    ]
    for start in range(0, len(news), RECORD):
        body = {"site": site, "expectations": rules, "deliveries": news[start : start + RECORD]}
        ledger.append("deliveries", pipeline.name, body)
