"""Ingest a delivery again after a fix of its pipeline: judge its refused rows by the current rules.

Accepted rows stay. Newly accepted rows join a new snapshot; the others stay in quarantine, in an object of this
attempt. Order of the writes: that object, parts, manifest, `current.json` (the commit), evidence, the outcome (which
names the attempt and so the valid object); then the old object is deleted, and the Delta log follows. After an
interruption the old quarantine is valid or the next run completes this one, and no row is added twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rempart.errors import IngestError
from rempart.flows.ingestion import current_snapshot, delta_log, derived_run, ingest_run, rejudge, source_state
from rempart.flows.ingestion.current_snapshot import AcceptedLoss
from rempart.flows.ingestion.ingest import IngestResult, ingest, result_of
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.ingestion.quarantine import HeldDelivery, user_number
from rempart.flows.ingestion.quarantine import held as held_rows
from rempart.flows.shared.platform import Platform
from rempart.ingestion import acceptance, deliveries, erasing, landing, snapshots
from rempart.ingestion.engine.again import only_quarantined
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.landing import fetch
from rempart.ingestion.reading import LINE
from rempart.ingestion.refused import JOINED, REASONS, Refused
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder


def take_in(
    platform: Platform,
    pipeline: Pipeline,
    again: str | None,
    *,
    accept: bool = False,
    accept_loss: str | None = None,
    by: str | None = None,
) -> IngestResult:
    """Ingest all waiting deliveries, or `again` the one with this SHA-256 or "all"; `accept` too many refused rows.

    `accept_loss`: the newest recorded snapshot, to continue although the site does not show it. `by`: the Airflow user
    name; evidence stores the number. Raises the errors of `ingest` and `reingest`.
    """
    if refused := acceptance.contradiction(again, accept=accept, accept_loss=accept_loss):
        raise IngestError(f"Pipeline '{pipeline.name}': {refused[0]}", refused[1])
    if again == rejudge.ALL:
        return rejudge.rejudge(platform, pipeline)
    person = partial(user_number, platform.config.access, partial(platform.database, "airflow"), by)
    accepted_loss = AcceptedLoss(accept_loss, person()) if accept_loss else None
    if again is not None:
        accepted_by = person() if accept else None
        return reingest(platform, pipeline, again, accepted_by=accepted_by, accepted_loss=accepted_loss)
    return ingest(platform, pipeline, accepted_loss=accepted_loss)


def reingest(
    platform: Platform,
    pipeline: Pipeline,
    sha256: str,
    *,
    accepted_by: str | None = None,
    accepted_loss: AcceptedLoss | None = None,
) -> IngestResult:
    """Judge a delivery's refused rows again and commit at most one snapshot. With the same verdicts nothing changes.

    The result counts the whole delivery, so that `check_quarantine` applies to the remaining refused rows. If they
    exceed `max_quarantined`, no row is published unless a person (`accepted_by`) accepts it, which is recorded before
    the commit. Raises IngestError if the delivery is unknown, no longer stored or unreadable, and the errors of
    `ingest`.
    """
    run = ingest_run.begin(platform, pipeline)
    before = current_snapshot.current(run, accepted_loss)
    derived_run.check_schema(before, pipeline)
    with platform.committing(run.active, alone=run.alone):
        run.check_unchanged(before)
        behind = delta_log.follow(run.site, run.lake, before)
        finished = ingest_run.finish(run, before)
    with spool_folder() as folder:
        found = held_rows(pipeline, run.site, run.lake, sha256, run.erased, run.now.date(), folder)
        # leftovers of a run that was killed at this point
        ingest_run.drop_replaced(run.site, run.lake, pipeline.name, found.outcome)
        if not len(found.rows) and not found.outcome["fault"]:
            return result_of(before, before, [found.outcome], bool(finished), table_fault=behind)
        rows = _judged(run, found, sha256, folder)
        derived = derived_run.newest(run, before)
        known = derived_run.known_again(run, before, derived, found.outcome, folder)
        late = pipeline.conflict_rule == "newest" and _others_are_later(run, found.outcome)
        taken = ingest_run.decide(run, [rows], known, folder, hold_back=False, late=late)
        (now,) = taken.deliveries
        _check_readable(run, found, sha256, now.fault)
        refused: Refused = now.refused
        delivered = deliveries.good(found.outcome) + rows.delivered
        over = len(refused) > pipeline.max_quarantined * delivered
        held = over and accepted_by is None and len(refused) < rows.delivered
        if held:
            taken, refused = replace(taken, parts=()), HeldRows.on_disk(now, ingest_run.resources(run.config, folder))
            now = replace(now, replaced=0, repeated=0)
        accepted_by = accepted_by if over else None
        if not taken.accepted and _verdicts(refused) == _verdicts(found.rows):
            return result_of(before, before, [found.outcome], bool(finished), table_fault=behind)
        snapshot, added = before, list[tuple[snapshots.Part, Path]]()
        if taken.accepted:
            snapshot, added = ingest_run.draw_up(run, before, known, taken, folder)
        outcome = deliveries.outcome_again(
            found.outcome,
            delivered=delivered,
            refused=refused,
            added=0 if held else now.good - now.repeated,
            snapshot=snapshot.id if snapshot else None,
            judged=now.judged,
            rules=[expectation.reason for expectation in pipeline.expectations],
            source=pipeline.source,
            held=held,
            replaced=now.replaced,
            repeated=found.outcome["repeated"] + now.repeated,
        )
        if len(refused):
            until = run.retain_until("quarantine") if found.outcome["fault"] else found.retain_until
            landing.quarantine(
                run.site, run.lake, pipeline.name, sha256, refused, until, again=outcome.again, folder=folder
            )
        with platform.committing(run.active, alone=run.alone):
            derived_run.check_same(run, derived)
            run.check_unchanged(before)
            if accepted_by:
                _tell_accepted(run, sha256, len(refused), delivered, accepted_by)
            if snapshot and snapshot is not before:
                snapshot = derived_run.named(replace(snapshot, deliveries=(outcome.as_json(),)), before, derived)
                source_state.drop_later(run.site, run.lake, pipeline.name, before)
                ingest_run.commit(run, snapshot, added)
            ingest_run.conclude(run.ledger, pipeline, run.site, run.lake, [outcome.as_json()])
            if snapshot and snapshot is not before:
                behind = delta_log.follow(run.site, run.lake, snapshot)
                ingest_run.append_snapshot(run, snapshot)
    return result_of(before, snapshot, [outcome.as_json()], bool(finished), accepted_by, behind)


def _tell_accepted(run: IngestionRun, sha256: str, refused: int, delivered: int, by: str) -> None:
    """Write evidence that a person accepted a delivery with more refused rows than the pipeline allows."""
    body = {"delivery": sha256, "refused": refused, "delivered": delivered, "limit": run.pipeline.max_quarantined}
    run.ledger.append("acceptance", run.pipeline.name, {**body, "by": by})


def _judged(run: IngestionRun, held_delivery: HeldDelivery, sha256: str, folder: Path) -> StagedDelivery:
    """Read the delivery as received, and judge its quarantined rows that were not erased since.

    An unreadable file is judged as a whole.
    """
    name, pipeline = held_delivery.outcome["file"], run.pipeline
    raw = landing.raw_of(run.site, run.lake, pipeline.name, sha256)
    if raw is None:
        raise IngestError(
            f"Delivery {name} ({sha256[:12]}) of '{pipeline.name}': its original file is no longer at site "
            f"'{run.site.name}'",
            "Deliver the corrected rows as a new file. Its quarantine is unchanged.",
        )
    file = folder / sha256
    fetch(run.site, run.lake, raw.key, file, raw.key.split("/")[-2])
    read = ingest_run.read(run, file, name, folder)
    _check_readable(run, held_delivery, sha256, read.fault)
    if run.erased:
        cut = erasing.cut_delivery(file, pipeline, run.erased.has)
        _check_readable(run, held_delivery, sha256, cut.fault)
        read = typed_rows.without(read, cut.lines, folder / "left")
    if not held_delivery.outcome["fault"]:
        read = only_quarantined(read, held_delivery.rows, folder / "again", ingest_run.resources(run.config, folder))
    (found,) = ingest_run.judged(run, [read], folder)
    _check_readable(run, held_delivery, sha256, found.fault)
    return found


def _check_readable(run: IngestionRun, held_delivery: HeldDelivery, sha256: str, fault: str | None) -> None:
    if fault:
        raise IngestError(
            f"Delivery {held_delivery.outcome['file']} ({sha256[:12]}) of '{run.pipeline.name}' cannot be read as "
            f"{run.pipeline.name}.yaml says: {fault}. Nothing was changed",
            "Correct `source` or `schema` there and ingest it again, or deliver a corrected file.",
        )


def _others_are_later(run: IngestionRun, outcome: Mapping[str, Any]) -> bool:
    """Return whether accepted rows may have come after the refused rows of a delivery."""
    if deliveries.good(outcome):
        return True
    return any(
        deliveries.good(other) and deliveries.in_order(other) >= deliveries.in_order(outcome)
        for other in deliveries.outcomes(run.site, run.lake, run.pipeline.name)
        if other["sha256"] != outcome["sha256"]
    )


def _verdicts(rows: Refused) -> tuple[str, ...]:
    """Return digests of lines and reasons, in order of lines; the same however many rows a table has."""
    import pyarrow.compute as pc

    lines, lengths, texts = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for table in rows.tables():
        reasons = pc.binary_join(table[REASONS], JOINED)
        lines.update(table[LINE].to_numpy())
        lengths.update(pc.binary_length(reasons).to_numpy())
        texts.update("".join(reasons.to_pylist()).encode())
    return lines.hexdigest(), lengths.hexdigest(), texts.hexdigest()
