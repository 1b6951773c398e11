"""Take in every waiting delivery of a pipeline: land it raw, judge its rows, and commit one snapshot.

Order of the writes, so that a run cut off anywhere is completed by the next one: raw deliveries, quarantine, parts,
manifest, `current.json` (the commit), outcomes of the deliveries, evidence, and only then the landing bucket is
cleared. The manifest holds the outcomes of its deliveries: a run that finds a committed snapshot without evidence
writes what is missing from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from rempart.errors import ConfigError, IngestError, ObjectMissing
from rempart.flows import erasures
from rempart.flows.erasures import Erased
from rempart.flows.platform import Platform
from rempart.ingestion import acceptance, cells, deliveries, erasing, landing, reading, snapshots
from rempart.ingestion.landing import Arrival
from rempart.ingestion.reading import RefusedRow, Rows
from rempart.pipeline import Pipeline
from rempart.quality.expectations import broken
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

SOURCES = 500
"""Deliveries that a snapshot's record names, by their SHA-256; its manifest names all of them, and their files."""


@dataclass(frozen=True)
class IngestResult:
    """What a run took in: accepted + quarantined = delivered. `total_rows` is the current snapshot's; `worst` tells the
    deliveries with the most refused rows, and why."""

    snapshot: str | None
    changed: bool
    deliveries: int
    delivered: int
    accepted: int
    quarantined: int
    total_rows: int
    worst: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    """One run's surroundings."""

    platform: Platform
    pipeline: Pipeline
    site: Site
    now: datetime
    erased: Erased | None = None

    @property
    def lake(self) -> str:
        return self.platform.config.buckets.lake

    @property
    def inbox(self) -> str:
        return self.platform.config.buckets.landing

    def retain_until(self, kind: Literal["raw", "quarantine", "snapshots"]) -> date:
        rule = self.platform.config.retention.get(self.pipeline.classification)
        if rule is None:
            raise ConfigError(
                f"retention.{self.pipeline.classification} is not declared, pipeline '{self.pipeline.name}' needs it",
                "Add it to rempart.yaml: how long raw deliveries, quarantine and snapshots are kept.",
            )
        kept = {"raw": rule.raw, "quarantine": rule.quarantine, "snapshots": rule.snapshots}[kind]
        return (self.now + kept).date()


def ingest(platform: Platform, pipeline: Pipeline) -> IngestResult:
    """Take in all waiting deliveries and commit at most one new snapshot; with nothing new, nothing changes.

    An error leaves the last snapshot current; a re-run completes the work, at another site if that is active by then.
    A row that was erased does not come back: it is refused, and nothing of it is kept. Whether too many rows were
    refused is for `check_quarantine` to say.
    """
    active, erased = platform.active(), erasures.erased(platform, pipeline.name)
    run = _Run(platform, pipeline, platform.active_site(pipeline.classification, active), platform.clock(), erased)
    run.retain_until("snapshots")  # a missing rule is said before anything is written
    before = snapshots.current(run.site, run.lake, pipeline.name)
    with platform.committing(active):
        finished = _finish(run, before)
    waiting, bodies = _arrivals(run)
    known = {a.sha256 for a in waiting if deliveries.is_known(run.site, run.lake, pipeline.name, a.sha256)}
    plan = landing.plan(waiting, known)
    snapshot, added, outcomes = _take_in(run, before, plan.new, bodies)
    with platform.committing(active):
        erasures.check_same(platform, pipeline.name, erased)
        if snapshot and snapshot is not before:
            snapshots.commit(run.site, run.lake, snapshot, added)
        for one in outcomes:
            deliveries.record(run.site, run.lake, pipeline.name, one)
        if snapshot and snapshot is not before:
            _append_evidence(run, snapshot)
        for arrival in (*plan.new, *plan.known):
            landing.clear(run.site, run.inbox, arrival)
    return _result(before, snapshot, [*finished, *outcomes], bool(finished))


def _arrivals(run: _Run) -> tuple[list[Arrival], dict[str, bytes]]:
    """What waits in the landing bucket, and each delivery's bytes by SHA-256."""
    found: list[Arrival] = []
    bodies: dict[str, bytes] = {}
    for one in landing.waiting(run.site, run.inbox, run.pipeline.source.prefix):
        try:
            body = run.site.read(run.inbox, one.key)
        except ObjectMissing:  # taken back since the listing: not a delivery any more
            continue
        digest = sha256(body).hexdigest()
        found.append(Arrival(one.key, digest, len(body), one.modified, one.etag))
        bodies[digest] = body
    return found, bodies


def _finish(run: _Run, current: snapshots.Snapshot | None) -> Sequence[Mapping[str, Any]]:
    """Complete a run that was cut off after its commit; the outcomes of its deliveries, or nothing."""
    if current is None:
        return ()
    newest = run.platform.ledger.find("snapshot", run.pipeline.name, limit=1)
    if newest and newest[0].body.get("snapshot") == current.id:
        return ()
    for outcome in current.deliveries:
        deliveries.record(run.site, run.lake, run.pipeline.name, outcome)
    _append_evidence(run, current)
    return current.deliveries


def _append_evidence(run: _Run, snapshot: snapshots.Snapshot) -> None:
    total = {name: sum(one[name] for one in snapshot.deliveries) for name in ("delivered", "accepted", "quarantined")}
    body = {
        "snapshot": snapshot.id,
        "previous": snapshot.previous,
        "site": run.site.name,
        "deliveries": len(snapshot.deliveries),
        "rows": snapshot.rows,
        "sources": [one["sha256"] for one in snapshot.deliveries[:SOURCES]],
        **total,
    }
    run.platform.ledger.append("snapshot", run.pipeline.name, body)


def _take_in(
    run: _Run, before: snapshots.Snapshot | None, new: Sequence[Arrival], bodies: Mapping[str, bytes]
) -> tuple[snapshots.Snapshot | None, list[tuple[snapshots.Part, bytes]], list[dict[str, Any]]]:
    """Raw and quarantine of the new deliveries; the snapshot to commit, the parts that it adds, and the outcomes."""
    if not new:
        return before, [], []
    pipeline, read = run.pipeline, []
    for arrival in new:
        read.append(_land(run, arrival, bodies[arrival.sha256]))
    current, changed = None, set[str]()
    if before:
        table = snapshots.load_table(run.site, run.lake, before)
        current = snapshots.conform(table, before, pipeline)
        if run.erased:
            current, struck = erasing.split(current, pipeline.key, run.erased.has)
            changed = set(snapshots.months(struck, pipeline.partition_by))
    accepted, refused = judge(pipeline, current, read)
    for arrival, rows in zip(new, refused, strict=True):
        if rows:
            until = run.retain_until("quarantine")
            landing.quarantine(run.site, run.lake, pipeline.name, arrival.sha256, rows, until)
    snapshot = before
    added: list[tuple[snapshots.Part, bytes]] = []
    if accepted.num_rows:
        snapshot, added = _draw_up(run, before, current, accepted, changed)
    outcomes = [
        deliveries.outcome(
            arrival,
            delivered=rows.delivered,
            refused=against,
            fault=rows.fault,
            snapshot=snapshot.id if snapshot else None,
        ).as_json()
        for arrival, rows, against in zip(new, read, refused, strict=True)
    ]
    if snapshot and snapshot is not before:
        snapshot = replace(snapshot, deliveries=tuple(outcomes))
    return snapshot, added, outcomes


def _land(run: _Run, arrival: Arrival, body: bytes) -> Rows:
    """Keep a delivery as received, less the rows that were erased; its rows, of which those are refused."""
    pipeline, kept = run.pipeline, {"retain-until": run.retain_until("raw").isoformat()}
    rows = reading.read(arrival.name, body, pipeline.source, list(pipeline.columns))
    stored = arrival
    if run.erased:
        cut = erasing.cut_delivery(body, pipeline, run.erased.has)
        if cut.body is not None:
            kept["delivery"] = arrival.sha256
            rows, body = erasing.strike(rows, cut.lines), cut.body
            stored = replace(arrival, sha256=sha256(body).hexdigest())
    run.site.write_new(run.lake, landing.raw_key(pipeline.name, stored), body, metadata=kept)
    return rows


def _draw_up(
    run: _Run, before: snapshots.Snapshot | None, current: pa.Table | None, accepted: pa.Table, changed: set[str]
) -> tuple[snapshots.Snapshot, list[tuple[snapshots.Part, bytes]]]:
    import pyarrow as pa

    return snapshots.draw_up(
        run.pipeline,
        before,
        pa.concat_tables([current, accepted]) if current is not None else accepted,
        changed | set(snapshots.months(accepted, run.pipeline.partition_by)),
        now=run.now,
        retain_until=run.retain_until("snapshots"),
    )


def judge(
    pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]
) -> tuple[pa.Table, list[list[RefusedRow]]]:
    """The rows to accept (in order of delivery), and each delivery's refused rows. Nothing is written.

    A row must be typed, then meet every expectation, then be the first of its key; each row is judged by itself, and
    accepted + refused = delivered for every delivery.
    """
    import pyarrow as pa

    columns = snapshots.snapshot_columns(pipeline)
    owners = [(number, i) for number, rows in enumerate(read) for i in range(len(rows.cells))]
    typed, against = cells.convert(
        [row for rows in read for row in rows.cells],
        pipeline.columns,
        required={*pipeline.key, pipeline.partition_by},
        null_values=pipeline.source.null_values,
    )
    well_typed = [row for row in range(typed.num_rows) if row not in against]
    valid = typed.take(pa.array(well_typed, pa.int64()))
    for row, reasons in broken(pipeline.expectations, valid).items():
        against[well_typed[row]] = reasons
    good = [row for row in well_typed if row not in against]
    candidates = typed.take(pa.array(good, pa.int64())).cast(snapshots.arrow_schema(columns))
    first, repeated = acceptance.judge_keys(current, candidates, pipeline.key)
    for row, reason in repeated.items():
        against[good[row]] = [reason]
    refused = [list(rows.refused) for rows in read]
    for row, reasons in against.items():
        number, i = owners[row]
        source = read[number]
        refused[number].append(RefusedRow(source.lines[i], tuple(reasons), source.raw[i]))
    return candidates.take(pa.array(first, pa.int64())), refused


def _result(
    before: snapshots.Snapshot | None,
    after: snapshots.Snapshot | None,
    outcomes: Sequence[Mapping[str, Any]],
    finished: bool,
) -> IngestResult:
    delivered, accepted, quarantined = (
        sum(one[name] for one in outcomes) for name in ("delivered", "accepted", "quarantined")
    )
    worst = sorted((o for o in outcomes if o["quarantined"]), key=lambda o: -o["quarantined"])[:5]
    return IngestResult(
        after.id if after else None,
        finished or after is not before,
        len(outcomes),
        delivered,
        accepted,
        quarantined,
        after.rows if after else 0,
        tuple(f"{o['file']}: {o['quarantined']} of {o['delivered']} ({_why(o)})" for o in worst),
    )


def check_quarantine(pipeline: Pipeline, result: IngestResult) -> None:
    """Raise IngestError when a larger share than `max_quarantined` of a run's rows was refused.

    It judges a finished run: the good rows are in, the refused ones are in quarantine, and a person should look.
    """
    if result.quarantined > pipeline.max_quarantined * result.delivered:
        raise IngestError(
            f"Pipeline '{pipeline.name}': {result.quarantined} of {result.delivered} rows went to quarantine, more "
            f"than max_quarantined ({pipeline.max_quarantined:.1%}) allows. {result.accepted} rows are accepted; the "
            f"current snapshot is {result.snapshot}. " + "; ".join(result.worst),
            f"Read quarantine/{pipeline.name}/ in the lake bucket and deliver the corrected rows as a new file. "
            "Nothing of this run is lost, and a re-run has nothing left to do.",
        )


def _why(outcome: Mapping[str, Any]) -> str:
    ordered = sorted(outcome["reasons"].items(), key=lambda item: -item[1])
    return ", ".join(f"{count} × {reason}" for reason, count in ordered[:3])
