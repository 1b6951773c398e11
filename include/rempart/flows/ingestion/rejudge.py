"""Judge all stored deliveries of a pipeline anew, by its file as it is now, as if they arrived for the first time.

For a rule that changed after rows were accepted: rows that it refuses leave the snapshot for quarantine, and rows that
were refused may join. The writes have the order of `reingest`, and an interrupted run is completed in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rempart.counts import counted
from rempart.errors import IngestError
from rempart.flows.ingestion import current_snapshot, delta_log, ingest_run, source_state
from rempart.flows.ingestion.ingest import IngestResult, result_of
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.ingestion.quarantine import HeldDelivery
from rempart.flows.ingestion.quarantine import held as held_rows
from rempart.flows.shared.platform import Platform
from rempart.ingestion import acceptance, deliveries, erasing, isolated, landing, snapshots
from rempart.ingestion.content import evolution
from rempart.ingestion.content.growth import KnownRows
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.engine.versions.moved import Moved, moved
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.refused import Refused, by_reason
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import is_extracted
from rempart.sites.spool import spool_folder

ALL = acceptance.ALL


@dataclass(frozen=True)
class JudgedAnew:
    """A delivery before and after. `refused`: its rows that go to quarantine now."""

    before: HeldDelivery
    after: StagedDelivery
    refused: Refused
    moved: Moved
    held: bool
    source: Pipeline

    @property
    def accepted(self) -> int:
        return self.after.delivered - len(self.refused) - self.repeated

    @property
    def replaced(self) -> int:
        return 0 if self.held else self.after.replaced

    @property
    def repeated(self) -> int:
        return 0 if self.held else self.after.repeated

    @property
    def changed(self) -> bool:
        """Return whether the outcome of the delivery is another one than before."""
        had, now = self.before.outcome, (self.held, self.replaced, self.repeated)
        return self.moved.changed or (had.get("held", False), had["replaced"], had["repeated"]) != now


@dataclass(frozen=True)
class RejudgePlan:
    """What judging anew changes: rows that leave and join the accepted ones, by delivery and reason; no values.

    `waiting`: stored deliveries that no run has judged since a reset.
    """

    pipeline: str
    deliveries: int
    delivered: int
    leave: int
    join: int
    rows_before: int
    rows: int
    same: bool
    reasons: Mapping[str, tuple[int, int]]
    held: tuple[str, ...]
    waiting: int = 0

    def lines(self) -> Iterator[str]:
        """Return the plan as text."""
        yield f"rejudge {self.pipeline}: {counted(self.delivered, 'row')} of {self.deliveries:,} stored deliveries"
        leave = counted(self.leave, "accepted row is refused, and goes", "accepted rows are refused, and go")
        yield f"  {leave} to quarantine"
        yield f"  {counted(self.join, 'refused row is', 'refused rows are')} accepted"
        yield from (
            f"    {reason}: {counted(before, 'row')} before, {now:,} now"
            for reason, (before, now) in self.reasons.items()
            if before != now
        )
        yield from (f"  delivery {sha256[:12]} is held back: too many of its rows are refused" for sha256 in self.held)
        if self.waiting:
            yield (
                f"  NOT judged: {self.waiting:,} stored deliveries without an outcome. A run takes them in; if they do "
                f"not wait in the landing bucket any more, `rempart pipeline reset {self.pipeline}` puts them back"
            )
        rows = f"{counted(self.rows_before, 'row')} before, {self.rows:,} now"
        yield f"  the snapshot stays: {counted(self.rows, 'row')}" if self.same else f"  a new snapshot: {rows}"


def plan(platform: Platform, pipeline: Pipeline) -> RejudgePlan:
    """Return what judging anew would change. Nothing is written. Raises the errors of `rejudge`."""
    run = ingest_run.begin(platform, pipeline)
    before = _current(run)
    with spool_folder() as folder:
        anew, after, _ = _judged(run, before, folder)
        had, now = Counter[str](), Counter[str]()
        for d in anew:
            had.update(d.before.outcome["reasons"])
            now.update(by_reason(d.refused))
    reasons = {reason: (had[reason], now[reason]) for reason in sorted({*had, *now})}
    return RejudgePlan(
        pipeline.name,
        len(anew),
        sum(d.after.delivered for d in anew),
        sum(d.moved.leave for d in anew),
        sum(d.moved.join for d in anew),
        before.rows,
        after.rows,
        after.id == before.id,
        reasons,
        tuple(str(d.before.outcome["sha256"]) for d in anew if d.held),
        0 if is_extracted(pipeline.source) else _without_outcome(run),
    )


def _without_outcome(run: IngestionRun) -> int:
    """Return the number of stored deliveries that no run has judged since a reset."""
    listed = run.site.list(run.lake, f"raw/{run.pipeline.name}/")
    names = [landing.names_of(run.site.head(run.lake, info.key)) for info in listed]
    return sum(
        not any(deliveries.is_known(run.site, run.lake, run.pipeline.name, sha256) for sha256 in known)
        for known in names
    )


def rejudge(platform: Platform, pipeline: Pipeline) -> IngestResult:
    """Judge all stored deliveries anew and commit at most one snapshot. With the same verdicts nothing changes.

    The result counts all of them. Raises IngestError if a delivery with accepted rows is no longer stored or cannot be
    read, or if no row would be left, and the errors of `reingest`.
    """
    run = ingest_run.begin(platform, pipeline)
    before = _current(run)
    with platform.committing(run.active, alone=run.alone):
        run.check_unchanged(before)
        behind = delta_log.follow(run.site, run.lake, before)
        finished = ingest_run.finish(run, before)
    with spool_folder() as folder:
        anew, after, added = _judged(run, before, folder)
        changed = [d for d in anew if d.changed]
        outcomes = [_outcome(run, d, after.id).as_json() for d in changed]
        for delivery, outcome in zip(changed, outcomes, strict=True):
            if len(delivery.refused):
                until = delivery.before.retain_until if len(delivery.before.rows) else run.retain_until("quarantine")
                attempt, sha256 = deliveries.attempt(outcome), str(outcome["sha256"])
                landing.quarantine(
                    run.site, run.lake, pipeline.name, sha256, delivery.refused, until, again=attempt, folder=folder
                )
        with platform.committing(run.active, alone=run.alone):
            run.check_unchanged(before)
            if after.id != before.id:
                after = replace(after, deliveries=tuple(outcomes))
                source_state.drop_later(run.site, run.lake, pipeline.name, before)
                ingest_run.commit(run, after, added)
            else:
                after = before
            ingest_run.conclude(run.ledger, pipeline, run.site, run.lake, outcomes)
            if after is not before:
                behind = delta_log.follow(run.site, run.lake, after)
                ingest_run.append_snapshot(run, after)
        last = {str(outcome["sha256"]): outcome for outcome in outcomes}
        told = [last.get(str(d.before.outcome["sha256"]), d.before.outcome) for d in anew]
    return result_of(before, after, told, bool(finished), table_fault=behind)


def _current(run: IngestionRun) -> snapshots.Snapshot:
    if run.pipeline.source.kind == "derived":
        raise IngestError(
            f"Pipeline '{run.pipeline.name}' is derived: its newest delivery stands for all its rows",
            f"Run it: `rempart pipeline run {run.pipeline.name}` derives and judges them again.",
        )
    before = current_snapshot.current(run)
    evolution.check(before, run.pipeline)
    if before is None:
        raise IngestError(
            f"Pipeline '{run.pipeline.name}' has no snapshot: there is nothing to judge anew",
            f"Deliver files first: `rempart pipeline deliver {run.pipeline.name} FILE`.",
        )
    return before


def _judged(
    run: IngestionRun, before: snapshots.Snapshot, folder: Path
) -> tuple[list[JudgedAnew], snapshots.Snapshot, list[tuple[snapshots.Part, Path]]]:
    """Return all stored deliveries as they are judged now, in order of arrival, and the snapshot of their rows."""
    ingest_run.check_key(run, before, folder)
    found = sorted(
        deliveries.outcomes(run.site, run.lake, run.pipeline.name),
        key=deliveries.in_order,
    )
    read = [(outcome, rows) for outcome in found if (rows := _read(run, outcome, folder)) is not None]
    staged = ingest_run.judged(run, [rows for _, (rows, _) in read], folder)
    taken = ingest_run.decide(run, staged, KnownRows(), folder)
    if not taken.accepted:
        raise IngestError(
            f"Pipeline '{run.pipeline.name}': no row of {len(read)} stored deliveries would be accepted. Nothing was "
            "changed",
            f"Check the expectations and `max_quarantined` in {run.pipeline.name}.yaml.",
        )
    after, added = ingest_run.draw_up(run, None, KnownRows(), taken, folder)
    anew = []
    resources = ingest_run.resources(run.config, folder)
    for i, (outcome, (_, source)) in enumerate(read):
        now = taken.deliveries[i]
        if now.fault:
            raise _unreadable(run, outcome, now.fault)
        held = held_rows(run.pipeline, run.site, run.lake, outcome["sha256"], run.erased, run.now.date(), folder)
        refused: Refused = HeldRows.on_disk(now, resources) if i in taken.held else now.refused
        change = moved(held.rows, refused, folder, resources)
        if outcome["fault"]:  # none of its rows was known
            change = Moved(0, now.delivered - len(refused), changed=True)
        anew.append(JudgedAnew(held, now, refused, change, i in taken.held, source))
    return anew, replace(after, previous=before.id), added


def _read(run: IngestionRun, outcome: Mapping[str, Any], folder: Path) -> tuple[StagedDelivery, Pipeline] | None:
    """Read a stored delivery without erased rows, in the dialect with which it was read before.

    None for one that was refused as a whole and still is, or that is no longer stored and has only refused rows.
    """
    pipeline, sha256 = run.pipeline, str(outcome["sha256"])
    raw = landing.raw_of(run.site, run.lake, pipeline.name, sha256)
    if raw is None:
        if not deliveries.good(outcome):  # of one that came again, the repeated rows are its own accepted ones
            return None
        raise IngestError(
            f"Delivery {outcome['file']} ({sha256[:12]}) of '{pipeline.name}' has accepted rows, and is no longer "
            f"stored at site '{run.site.name}': it cannot be judged anew. Nothing was changed",
            "A changed rule holds for new deliveries. `retention` in rempart.yaml says how long deliveries are kept.",
        )
    as_read = pipeline if outcome["fault"] else deliveries.read_by(outcome, pipeline)
    file = folder / sha256
    landing.fetch(run.site, run.lake, raw.key, file, raw.key.split("/")[-2])
    limits = ingest_run.limits(run.config)
    rows = isolated.stage(file, str(outcome["file"]), as_read, limits, folder / f"{file.name}.read")
    if rows.fault and outcome["fault"]:
        return None
    if run.erased and not rows.fault:
        cut = erasing.cut_delivery(file, as_read, run.erased.has)
        if cut.fault:
            raise _unreadable(run, outcome, cut.fault)
        rows = typed_rows.without(rows, cut.lines, folder / f"{sha256}.left")
    file.unlink()
    if rows.fault:
        raise _unreadable(run, outcome, rows.fault)
    return rows, as_read


def _unreadable(run: IngestionRun, outcome: Mapping[str, Any], fault: str) -> IngestError:
    return IngestError(
        f"Delivery {outcome['file']} ({outcome['sha256'][:12]}) of '{run.pipeline.name}' cannot be judged as "
        f"{run.pipeline.name}.yaml says: {fault}. Nothing was changed",
        "A delivery from before a column was added, renamed or removed cannot be judged anew: a changed rule then "
        "holds for new deliveries.",
    )


def _outcome(run: IngestionRun, delivery: JudgedAnew, snapshot: str) -> deliveries.Outcome:
    before = delivery.before.outcome
    return deliveries.outcome_again(
        before,
        delivered=delivery.after.delivered,
        refused=delivery.refused,
        added=delivery.accepted - int(before["accepted"]),
        snapshot=snapshot if delivery.accepted + delivery.repeated else None,
        judged=delivery.after.judged,
        rules=[expectation.reason for expectation in run.pipeline.expectations],
        source=delivery.source.source,
        held=delivery.held,
        replaced=delivery.replaced,
        repeated=delivery.repeated,
    )
