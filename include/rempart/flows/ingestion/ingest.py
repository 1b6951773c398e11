"""Ingest every waiting delivery of a pipeline: store it raw, judge its rows, commit one snapshot.

Order of the writes, so that the next run completes an interrupted one: raw deliveries, quarantine, parts, manifest,
`current.json` (the commit), evidence of the deliveries, their outcomes, the Delta log; then the landing bucket is
cleared, and last comes the evidence of the snapshot. The manifest holds the outcomes of its deliveries: a run that
finds a committed snapshot without evidence writes the missing evidence from it, and tells that the snapshot changed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rempart import engine_spill
from rempart.counts import counted
from rempart.errors import IngestError, IntegrityError, ObjectMissing
from rempart.flows.distributed import orders
from rempart.flows.doctor.doctor_site import last_record
from rempart.flows.ingestion import current_snapshot, delta_log, derived_run, ingest_run, source_state
from rempart.flows.ingestion.current_snapshot import AcceptedLoss
from rempart.flows.ingestion.engines import local, spark
from rempart.flows.ingestion.engines.spark import RunJob
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.leases import PATIENCE, wait_for
from rempart.flows.shared.platform import Platform
from rempart.ingestion import acceptance, deliveries, isolated, landing, snapshots
from rempart.ingestion.acceptance import COUNTS, HELD
from rempart.ingestion.content import evolution
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.landing import Arrival
from rempart.ingestion.reading import EMPTY, NO_ROWS
from rempart.replication.continuity import Continuity
from rempart.replication.vouching import vouch
from rempart.settings.pipeline import Pipeline
from rempart.sites.digests import of_file
from rempart.sites.once import AT_ONCE
from rempart.sites.port import ObjectInfo
from rempart.sites.spool import spool_folder

_RECENT = 50
"""Number of newest records of deliveries among which the newest run is."""


@dataclass(frozen=True)
class IngestResult:
    """Result of an ingestion: accepted + repeated + quarantined = delivered rows.

    `total_rows` counts the current snapshot. `worst` lists the deliveries with the most refused rows, and why. `held`:
    SHA-256 of held-back deliveries; `held_rows` of their rows are good. `unreadable`: files refused as a whole, and
    why. `accepted_by`: who accepted a delivery with too many refused rows. `replaced`, `repeated`: see
    `deliveries.Outcome`. `table_fault`: why the Delta table is behind the snapshot. `seconds`: duration of the run; 0
    if it was not measured. `hint`: what to do about DuckDB's memory, if it did not suffice by far.
    """

    snapshot: str | None
    changed: bool
    deliveries: int
    delivered: int
    accepted: int
    quarantined: int
    total_rows: int
    worst: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    held_rows: int = 0
    unreadable: tuple[str, ...] = ()
    accepted_by: str | None = None
    replaced: int = 0
    repeated: int = 0
    table_fault: str | None = None
    seconds: float = field(default=0.0, compare=False)
    hint: str = field(default="", compare=False)


def ingest(
    platform: Platform,
    pipeline: Pipeline,
    *,
    accepted_loss: AcceptedLoss | None = None,
    run_job: RunJob | None = None,
) -> IngestResult:
    """Ingest all waiting deliveries and commit at most one new snapshot.

    Without new deliveries nothing changes, unless the schema did.

    After an error the last snapshot stays current; a new run completes the work, at another site if that is active by
    then. Erased rows are refused and not stored. If more rows are refused than `max_quarantined` allows, the deliveries
    at fault are held back: all their rows go to quarantine until the pipeline is corrected or a person accepts them
    (`reingest`), and `check_quarantine` reports it. `accepted_loss`: the newest snapshot, if a person accepts that the
    site no longer shows it. `run_job`: runs the job of a pipeline with `engine: spark`; by default on this machine.
    Two runs with `engine: spark` follow each other: LeaseHeld if the other runs for long.
    """
    began = time.monotonic()
    with _alone(lambda: platform.continuity, pipeline):
        run = ingest_run.begin(platform, pipeline)
        before = current_snapshot.current(run, accepted_loss)
        derived_run.check_schema(before, pipeline)
        with platform.committing(run.active, alone=run.alone):
            run.check_unchanged(before)
            behind = delta_log.follow(run.site, run.lake, before)
            finished: Sequence[Mapping[str, Any]] = ()
            interrupted = before is not None and ingest_run.is_interrupted(run, before)
            if before is not None and interrupted:
                finished = before.deliveries
                ingest_run.conclude(run.ledger, pipeline, run.site, run.lake, finished)
        with spool_folder() as folder:
            waiting = _arrivals(run, folder)
            derived = derived_run.newest(run, before) if waiting else derived_run.DerivedFrom()
            recorded = _recorded(run, waiting)
            plan = landing.plan(
                waiting, recorded.keys() - _later(run, waiting, recorded), later_wins=pipeline.later_wins
            )
            derived_run.check_arrivals(run, plan.new)
            job = run_job or partial(orders.run, platform, pipeline, keep=folder)
            resources = ingest_run.resources(run.config, folder)
            with engine_spill.watched(resources.spill) as spilled:
                snapshot, added, outcomes = _take_in(run, before, plan.new, recorded, folder, job)
            with platform.committing(run.active, alone=run.alone):
                derived_run.check_same(run, derived)
                run.check_unchanged(before)
                if snapshot and snapshot is not before:
                    if before and interrupted:
                        ingest_run.append_snapshot(run, before)
                    snapshot = derived_run.named(snapshot, before, derived)
                    source_state.drop_later(run.site, run.lake, pipeline.name, before)
                    ingest_run.commit(run, snapshot, added)
                else:
                    derived_run.restate(run, before, derived, plan.known)
                ingest_run.conclude(run.ledger, pipeline, run.site, run.lake, outcomes)
                if snapshot and snapshot is not before:
                    behind = delta_log.follow(run.site, run.lake, snapshot)
                _clear(run, [*plan.new, *plan.known])
                if pipeline.engine == "spark" or outcomes:  # a job that was lost may have been followed by DuckDB
                    orders.clear(run.site, run.lake, pipeline.name, "ingest")
                if snapshot and (interrupted or snapshot is not before):
                    ingest_run.append_snapshot(run, snapshot)  # last: until then, the next run tells of the snapshot
        result = result_of(before, snapshot, [*finished, *outcomes], interrupted, table_fault=behind)
        hint = engine_spill.hint(spilled.bytes, resources.memory, "ingestion.memory")
        return replace(result, seconds=round(time.monotonic() - began, 3), hint=hint)


def _alone(continuity: Callable[[], Continuity], pipeline: Pipeline) -> AbstractContextManager[object]:
    """Keep others from ingesting while the block runs, where a job's objects at the site would be theirs, too.

    An erasure in an input ingests a derived pipeline, also while its DAG does. Raises LeaseHeld.
    """
    if pipeline.engine != "spark":
        return nullcontext()
    return wait_for(continuity(), f"ingest {pipeline.name}", PATIENCE)


def _arrivals(run: IngestionRun, folder: Path) -> list[Arrival]:
    """Fetch each waiting delivery from the landing bucket into `folder`, under its SHA-256.

    Raises IntegrityError if a file differs from its listed size or from the site's checksum.
    """
    record = last_record(run.ledger, run.site)
    proven = record is not None and record.outcome("MD5 ETags") == "proven"
    number = itertools.count()

    def bring(info: ObjectInfo) -> Arrival | None:
        file = folder / f"arriving-{next(number)}"
        try:
            head = _brought(run, info, file)
            checks = run.site.checks(run.inbox, info.key)
        except ObjectMissing:  # taken back since the listing: not a delivery any more
            return None
        came, where = of_file(file, checks.part), f"get {run.inbox}/{info.key} at '{run.site.name}'"
        if came.size != head.size:
            raise IntegrityError(
                f"{where}: {came.size} bytes came, {head.size} were announced",
                "Run again. If it fails again, ask the operator of the site. Nothing was ingested.",
            )
        # ignore the supplier's own metadata: a wrong checksum there would stop all deliveries
        vouch(where, replace(head, metadata={}), checks, came, md5_etags=proven)
        file.rename(folder / came.sha256)
        order = landing.order_of(head.metadata)
        return Arrival(info.key, came.sha256, came.size, landing.landed_at(info), head.etag, order)

    listed = landing.waiting(run.site, run.inbox, run.pipeline.source.prefix)
    if listed:
        isolated.idle()  # it starts while the deliveries come
    return [arrival for arrival in bounded_map(listed, bring, WORKERS) if arrival]


def _brought(run: IngestionRun, info: ObjectInfo, file: Path) -> ObjectInfo:
    """Fetch a waiting file and return its facts: a small one in one request, a large one in constant memory."""
    if info.size <= AT_ONCE:
        head, body = run.site.fetch(run.inbox, info.key, listed=info)  # its writer's record is not ours
        file.write_bytes(body)
        return head
    head = run.site.head(run.inbox, info.key)
    landing.fetch(run.site, run.inbox, info.key, file)
    return head


def _recorded(run: IngestionRun, waiting: Sequence[Arrival]) -> dict[str, Mapping[str, Any]]:
    """Return the outcomes of the deliveries that were ingested before, by their SHA-256."""

    def recorded(sha256: str) -> Mapping[str, Any] | None:
        return deliveries.recorded(run.site, run.lake, run.pipeline.name, sha256)

    digests = sorted({arrival.sha256 for arrival in waiting})
    found = zip(digests, bounded_map(digests, recorded, WORKERS), strict=True)
    return {sha256: outcome for sha256, outcome in found if outcome is not None}


def _later(run: IngestionRun, waiting: Sequence[Arrival], recorded: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the SHA-256 of known deliveries that count again: they came again, and later rows replace earlier ones.

    A file that a killed run left in the landing bucket is as old as its outcome. A derived delivery stands for the
    whole: `extract` decides whether it counts.
    """
    if not run.pipeline.later_wins or is_derived(run.pipeline):
        return set()
    return {
        arrival.sha256
        for arrival in waiting
        if arrival.sha256 in recorded
        and arrival.landed_at > datetime.fromisoformat(recorded[arrival.sha256]["landed_at"])
    }


def _taken_at(run: IngestionRun, before: snapshots.Snapshot | None) -> datetime:
    """Return when this run takes deliveries in: after every earlier run, also where clocks differ.

    A run that refused all rows left no snapshot, but evidence.
    """
    recent = run.ledger.find("deliveries", run.pipeline.name, limit=_RECENT)
    known = [*(before.deliveries if before else ()), *(told for record in recent for told in record.body["deliveries"])]
    earlier = [before.created_at] if before else []
    earlier += [deliveries.in_order(outcome)[0] for outcome in known]
    return max([run.now, *(at + timedelta(microseconds=1) for at in earlier)])


def _clear(run: IngestionRun, arrivals: Sequence[Arrival]) -> None:
    """Remove ingested files from the landing bucket."""

    def clear(arrival: Arrival) -> None:
        landing.clear(run.site, run.inbox, arrival)

    for _ in bounded_map(arrivals, clear, WORKERS):
        pass


def _take_in(
    run: IngestionRun,
    before: snapshots.Snapshot | None,
    new: Sequence[Arrival],
    recorded: Mapping[str, Mapping[str, Any]],
    folder: Path,
    run_job: RunJob,
) -> tuple[snapshots.Snapshot | None, list[tuple[snapshots.Part, Path]], list[dict[str, Any]]]:
    """Store raw deliveries and quarantine. Return the snapshot to commit, its new parts, and the outcomes.

    A declared change of the schema makes a snapshot, also without new rows: what reads it expects the present columns.
    """
    pipeline = run.pipeline
    changes = () if before is None or is_derived(pipeline) else evolution.evolution(before.columns, pipeline).changes
    if not new and not changes:
        return before, [], []
    if pipeline.engine == "spark":
        taken = spark.take_in(run, before, new, folder, run_job, changed=bool(changes))
    else:
        taken = local.take_in(run, before, new, folder, changed=bool(changes))
    refused, taken_at, snapshot = taken.refused, _taken_at(run, before), taken.snapshot
    for arrival, rows in zip(new, refused, strict=True):
        if len(rows):
            until = run.retain_until("quarantine")
            earlier = recorded.get(arrival.sha256)
            landing.quarantine(
                run.site,
                run.lake,
                pipeline.name,
                arrival.sha256,
                rows,
                until,
                deliveries.attempt(earlier) + 1 if earlier else 0,
                folder=folder,
            )
    outcomes = [
        deliveries.outcome(
            arrival,
            delivered=taken.delivered[i],
            refused=rows,
            fault=delivery.fault,
            snapshot=snapshot.id if snapshot else None,
            judged=delivery.judged,
            rules=[expectation.reason for expectation in pipeline.expectations],
            source=pipeline.source,
            held=i in taken.held,
            replaced=delivery.replaced if i not in taken.held else 0,
            repeated=delivery.repeated if i not in taken.held else 0,
            taken_at=taken_at,
            position=i,
            before=recorded.get(arrival.sha256),
        ).as_json()
        for i, (arrival, delivery, rows) in enumerate(zip(new, taken.deliveries, refused, strict=True))
    ]
    if snapshot and snapshot is not before:
        snapshot = replace(snapshot, deliveries=tuple(outcomes))
    return snapshot, list(taken.added), outcomes


def result_of(
    before: snapshots.Snapshot | None,
    after: snapshots.Snapshot | None,
    outcomes: Sequence[Mapping[str, Any]],
    finished: bool,
    accepted_by: str | None = None,
    table_fault: str | None = None,
) -> IngestResult:
    """Return the result of a run between two snapshots. `finished`: the run completed an earlier one."""
    delivered, accepted, repeated, quarantined = (sum(outcome[name] for outcome in outcomes) for name in COUNTS)
    worst = sorted((o for o in outcomes if o["quarantined"]), key=lambda o: -o["quarantined"])[:5]
    return IngestResult(
        after.id if after else None,
        finished or after is not before,
        len(outcomes),
        delivered,
        accepted,
        quarantined,
        after.rows if after else 0,
        tuple(f"{o['file']}: {_refused(o)} of {o['delivered']} ({_why(o)})" for o in worst),
        tuple(str(o["sha256"]) for o in outcomes if o.get("held")),
        sum(o["reasons"].get(HELD, 0) for o in outcomes),
        tuple(f"{o['file']}: {o['fault']}" for o in outcomes if o["fault"] and o["fault"] not in (EMPTY, NO_ROWS)),
        accepted_by,
        replaced=sum(outcome["replaced"] for outcome in outcomes),
        repeated=repeated,
        table_fault=table_fault,
    )


def check_quarantine(pipeline: Pipeline, result: IngestResult) -> None:
    """Raise IngestError if more rows than `max_quarantined` were refused and nobody accepted it.

    It judges a finished run: the published rows are valid, the others are in quarantine, and a person should look.
    """
    if result.unreadable:
        more = f"; and {len(result.unreadable) - 5} more" if len(result.unreadable) > 5 else ""
        raise IngestError(
            f"Pipeline '{pipeline.name}': {len(result.unreadable)} of {result.deliveries} deliveries were refused "
            f"as a whole, and their number of rows is unknown: {'; '.join(result.unreadable[:5])}{more}. Of the "
            f"others, {acceptance.good(result.accepted, result.repeated)}, {result.quarantined} in quarantine.",
            f"Run `rempart quarantine show {pipeline.name}`. Deliver corrected files; or, if the pipeline file was "
            f"wrong, correct it and run `rempart quarantine again {pipeline.name} SHA-256`.",
        )
    if result.accepted_by or result.quarantined <= pipeline.max_quarantined * result.delivered:
        return
    held = ""
    if result.held:
        short = [sha256[:12] for sha256 in result.held[:5]]
        named = ", ".join(short) + (f" and {len(result.held) - 5} more" if len(result.held) > 5 else "")
        held = (
            f" In quarantine: {result.quarantined - result.held_rows} refused + {result.held_rows} good rows held back "
            f"(of {named}) = {result.quarantined}."
        )
    refused = result.quarantined - result.held_rows
    published = " and published: features and training go on with them" if result.accepted and result.changed else ""
    raise IngestError(
        f"Pipeline '{pipeline.name}': {refused} of {result.delivered} rows were refused, more than "
        f"max_quarantined ({pipeline.max_quarantined:.1%}) allows; "
        f"{acceptance.good(result.accepted, result.repeated)}{published}. "
        f"{'; '.join(result.worst)}.{held}",
        f"Run `rempart quarantine show {pipeline.name}`: it has the reasons, and the commands for each choice. Deliver "
        "corrected rows as a new file, or ingest again after you corrected the pipeline file"
        + (", or accept the good rows that are held back." if result.held_rows else ".")
        + _repeats(pipeline, result),
    )


def _repeats(pipeline: Pipeline, result: IngestResult) -> str:
    """Return what to do if the refused rows repeat earlier ones, or nothing."""
    if pipeline.conflict_rule != "refuse" or not any(acceptance.DUPLICATE in told for told in result.worst):
        return ""
    return (
        f" If deliveries repeat earlier rows, as a full export does: set `on_conflict: newest` in "
        f"{pipeline.name}.yaml, then run `rempart quarantine again {pipeline.name} SHA-256`."
    )


def _refused(outcome: Mapping[str, Any]) -> int:
    """Return the rows in quarantine for a reason of their own, without good rows that are held back with them."""
    return int(outcome["quarantined"]) - int(outcome["reasons"].get(HELD, 0))


def _why(outcome: Mapping[str, Any]) -> str:
    ordered = sorted(((r, n) for r, n in outcome["reasons"].items() if r != HELD), key=lambda item: -item[1])
    more = f", and {counted(len(ordered) - 3, 'more reason')}" if len(ordered) > 3 else ""
    return ", ".join(f"{count} × {reason}" for reason, count in ordered[:3]) + more
