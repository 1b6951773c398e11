"""Take in a delivery once more, after a fix of its pipeline: the rows that were refused are judged by today's rules.

What was accepted stays as it is. Rows that are accepted now join a new snapshot; the others stay in quarantine, in an
object of this attempt. Order of the writes: that object, parts, manifest, `current.json` (the commit), evidence, the
outcome (which names the attempt, and so the object that counts), and only then the object before it goes. A run that
is cut off anywhere leaves the old quarantine valid or is completed by the next one, and none adds a row twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rempart.errors import IngestError
from rempart.flows.ingestion import current_snapshot, ingest_run
from rempart.flows.ingestion.current_snapshot import AcceptedLoss
from rempart.flows.ingestion.ingest import IngestResult, ingest, result_of
from rempart.flows.ingestion.ingest_run import Run
from rempart.flows.ingestion.judge_rows import judge
from rempart.flows.ingestion.quarantine import Held, user_number
from rempart.flows.ingestion.quarantine import held as held_rows
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, isolated, landing, snapshots
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.landing import fetch
from rempart.ingestion.reading import RefusedRow, Rows
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
    """All waiting deliveries, or the one with this SHA-256 `again`; `accept` that too many of its rows are refused.

    `accept_loss`: the newest snapshot on record, to go on although the site does not show it. `by`: the user's name in
    Airflow; evidence has the number. Raises as `ingest` and `reingest`.
    """
    accepted_loss = AcceptedLoss(accept_loss, user_number(platform, by)) if accept_loss else None
    if again is not None:
        accepted_by = user_number(platform, by) if accept else None
        return reingest(platform, pipeline, again, accepted_by=accepted_by, accepted_loss=accepted_loss)
    if accept:
        raise IngestError(
            f"Pipeline '{pipeline.name}': accept_quarantined without `again` names no delivery: nothing was started",
            "Look at a delivery on the cockpit's page of this pipeline first, and give its SHA-256 as `again`.",
        )
    return ingest(platform, pipeline, accepted_loss=accepted_loss)


def reingest(
    platform: Platform,
    pipeline: Pipeline,
    sha256: str,
    *,
    accepted_by: str | None = None,
    accepted_loss: AcceptedLoss | None = None,
) -> IngestResult:
    """Judge a delivery's refused rows anew and commit at most one snapshot; with the same verdicts, nothing changes.

    The result counts the whole delivery, so that `check_quarantine` holds for what is still refused of it. Where that
    is more than `max_quarantined` allows, no row is published, unless a person (`accepted_by`) accepts it; that is
    evidence before anything is committed. Raises IngestError where it is not on record, no longer kept, or cannot be
    read; besides as `ingest`.
    """
    run = ingest_run.begin(platform, pipeline)
    before = current_snapshot.current(run, accepted_loss)
    with platform.committing(run.active):
        finished = ingest_run.finish(run, before)
    found = held_rows(platform, pipeline, run.site, sha256, run.erased)
    ingest_run.drop_replaced(run.site, run.lake, pipeline.name, found.outcome)  # by a run that was cut off there
    if not found.rows and not found.outcome["fault"]:
        return result_of(before, before, [found.outcome], bool(finished))
    rows = to_judge(found, _read(run, found, sha256))
    current, changed = ingest_run.accepted_before(run, before)
    found_now = judge(pipeline, current, [rows])
    _check_readable(run, found, sha256, found_now.read[0])
    accepted, refused, (judged,) = found_now.accepted, found_now.refused[0], found_now.judged
    delivered = found.outcome["accepted"] + rows.delivered
    over = len(refused) > pipeline.max_quarantined * delivered
    held = over and accepted_by is None and len(refused) < rows.delivered
    if held:
        accepted, refused = accepted.slice(0, 0), refused.with_all_others(HELD)
    accepted_by = accepted_by if over else None
    if not accepted.num_rows and _verdicts(refused) == _verdicts(found.rows):
        return result_of(before, before, [found.outcome], bool(finished))
    snapshot, added = before, list[tuple[snapshots.Part, bytes]]()
    if accepted.num_rows:
        snapshot, added = ingest_run.draw_up(run, before, current, accepted, changed)
    outcome = deliveries.outcome_again(
        found.outcome,
        delivered=delivered,
        refused=refused,
        added=accepted.num_rows,
        snapshot=snapshot.id if snapshot else None,
        judged=judged,
        rules=[one.reason for one in pipeline.expectations],
        held=held,
    )
    if refused:
        until = run.retain_until("quarantine") if found.outcome["fault"] else found.retain_until
        landing.quarantine(run.site, run.lake, pipeline.name, sha256, refused, until, again=outcome.again)
    with platform.committing(run.active):
        erasures.check_same(platform, pipeline.name, run.erased)
        if accepted_by:
            _tell_accepted(run, sha256, len(refused), delivered, accepted_by)
        if snapshot and snapshot is not before:
            snapshot = replace(snapshot, deliveries=(outcome.as_json(),))
            snapshots.commit(run.site, run.lake, snapshot, added)
        ingest_run.conclude(platform, pipeline, run.site, [outcome.as_json()])
        if snapshot and snapshot is not before:
            ingest_run.append_snapshot(run, snapshot)
    return result_of(before, snapshot, [outcome.as_json()], bool(finished), accepted_by)


def _tell_accepted(run: Run, sha256: str, refused: int, delivered: int, by: str) -> None:
    """Evidence that a person accepted a delivery of which more rows are refused than the pipeline allows."""
    body = {"delivery": sha256, "refused": refused, "delivered": delivered, "limit": run.pipeline.max_quarantined}
    run.platform.ledger.append("acceptance", run.pipeline.name, {**body, "by": by})


def _read(run: Run, found: Held, sha256: str) -> Rows:
    """The delivery as it was received, less what was erased since, read by today's schema."""
    name, what = found.outcome["file"], f"Delivery {found.outcome['file']} ({sha256[:12]}) of '{run.pipeline.name}'"
    raw = landing.raw_of(run.site, run.lake, run.pipeline.name, sha256)
    if raw is None:
        raise IngestError(
            f"{what}: its file as received is no longer at site '{run.site.name}'",
            "Deliver the corrected rows as a new file. Its quarantine stands as it was.",
        )
    with spool_folder() as folder:
        file = folder / "delivery"
        fetch(run.site, run.lake, raw.key, file, raw.key.split("/")[-2])
        rows = isolated.read(file, name, run.pipeline.source, list(run.pipeline.columns))
        _check_readable(run, found, sha256, rows)
        if run.erased:
            lines = erasing.cut_delivery(file, run.pipeline, run.erased.has).lines
            rows = replace(erasing.strike(rows, lines), refused=[r for r in rows.refused if r.line not in lines])
    return rows


def _check_readable(run: Run, found: Held, sha256: str, rows: Rows) -> None:
    if rows.fault:
        raise IngestError(
            f"Delivery {found.outcome['file']} ({sha256[:12]}) of '{run.pipeline.name}' cannot be read as "
            f"{run.pipeline.name}.yaml says: {rows.fault}. Nothing was changed",
            "Correct `source` or `schema` there and take it in again, or deliver a corrected file.",
        )


def to_judge(found: Held, read: Rows) -> Rows:
    """Of a delivery as read now, the rows that are in quarantine, each on the line that it was refused on. Pure.

    A file that could not be read at all is judged whole. Otherwise a row is known by its text; of equal ones the last
    are meant, for it is the later ones that are refused as duplicates. What is not among the rows read now stays
    refused as it was.
    """
    if found.outcome["fault"]:
        return read
    places: dict[str, list[int]] = {}
    for i, raw in enumerate(read.raw):
        places.setdefault(raw, []).append(i)
    chosen: list[tuple[int, RefusedRow]] = []
    left: list[RefusedRow] = []
    for one in sorted(found.rows, key=lambda row: -row.line):
        if same := places.get(one.raw):
            chosen.append((same.pop(), one))
        else:
            left.append(one)
    chosen.reverse()
    left.reverse()
    return Rows(read.pick([i for i, _ in chosen], [one.line for _, one in chosen]), tuple(left))


def _verdicts(rows: Sequence[RefusedRow]) -> list[tuple[int, str]]:
    return sorted((one.line, "; ".join(one.reasons)) for one in rows)
