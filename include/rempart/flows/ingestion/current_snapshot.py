"""Return a pipeline's current snapshot from its site, checked against the evidence.

A site may lose `current.json`, or show an older one. A run that trusted it would build the next snapshot without the
rows of the lost one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rempart.counts import counted
from rempart.errors import IngestError, ObjectMissing
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.shared import removals
from rempart.ingestion import snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.port import Evidence, Ledger


@dataclass(frozen=True)
class AcceptedLoss:
    """A lost snapshot that a person accepts to do without, and the person's number."""

    snapshot: str
    by: str


def current(run: IngestionRun, accepted: AcceptedLoss | None = None) -> Snapshot | None:
    """Return the current snapshot, or None before the first.

    Raises IngestError if evidence names a newer snapshot than the site shows, unless a person accepted the loss of
    exactly that snapshot, which is recorded. Raises IngestError if a pipeline that is not derived any more still has
    derived rows. Raises SiteError, IntegrityError.
    """
    shown = snapshots.current(run.site, run.lake, run.pipeline.name)
    _check_kind(run, shown)
    lost = _lost(run, shown)
    if lost is not None:  # an erasure may have committed between the look at the site and the look at evidence
        shown = snapshots.current(run.site, run.lake, run.pipeline.name)
        lost = _lost(run, shown)
    if lost is None:
        return shown
    name, now = run.pipeline.name, shown.id if shown else None
    if accepted is None or accepted.snapshot != lost.body["snapshot"]:
        raise IngestError(
            f"Pipeline '{name}': site '{run.site.name}' shows {f'snapshot {now}' if now else 'no snapshot'} as "
            f"the current one of bucket {run.lake}, but evidence {lost.seq} names {lost.body['snapshot']} "
            f"({counted(lost.body['rows'], 'row')}). Nothing was ingested",
            f"Run again, in case the site is behind. Then restore dataset:{name} from a restore point, or "
            f"{snapshots.folder(name)}current.json from its replica. To go on without the lost snapshot, run "
            f"ingest_{name} with `accept_loss: {lost.body['snapshot']}` (docs/runbooks/current-snapshot-is-gone.md).",
        )
    body = {"lost": lost.body["snapshot"], "shown": now, "site": run.site.name, "bucket": run.lake}
    run.ledger.append("acceptance", name, {**body, "by": accepted.by})
    return shown


def _check_kind(run: IngestionRun, shown: Snapshot | None) -> None:
    """Check that derived rows get no other rows beside them: an erasure in their inputs would not reach the mixture."""
    if shown is not None and shown.derived_from and not is_derived(run.pipeline):
        raise IngestError(
            f"Snapshot {shown.id} of '{run.pipeline.name}' was derived from other pipelines, and {run.pipeline.name}."
            "yaml does not derive its rows any more. Nothing was ingested",
            f"Begin its data again: `rempart pipeline reset {run.pipeline.name}`. Or set `source` back.",
        )


def is_given_up(ledger: Ledger, bucket: str, name: str, snapshot: str) -> bool:
    """Return whether a snapshot is on record as gone: a person accepted its loss, or an erasure withdrew it."""
    records = ledger.find("snapshot", name)
    made = max((record.seq for record in records if record.body["snapshot"] == snapshot), default=0)
    return any(
        record.seq > made and (record.body.get("lost"), record.body.get("bucket")) == (snapshot, bucket)
        for record in ledger.find("acceptance", name)
    )


def _lost(run: IngestionRun, shown: Snapshot | None) -> Evidence | None:
    """Return the record of the snapshot that should be current, or None if the site shows it or a newer one."""
    ledger, name = run.ledger, run.pipeline.name
    now = stands = shown.id if shown else None
    newest = None
    for record in ledger.each("snapshot", name):
        if record.body.get("bucket") != run.lake:
            continue
        if stands == record.body["snapshot"] and "replaced" in record.body:
            # an erasure adds no rows: the snapshot that it replaced must have been the newest
            stands = str(record.body["replaced"])
            continue
        newest = record
        break
    if newest is None or stands == newest.body["snapshot"]:
        return None
    loss = (newest.body["snapshot"], now, run.lake)
    if any(
        acceptance.seq > newest.seq
        and (acceptance.body.get("lost"), acceptance.body.get("shown"), acceptance.body.get("bucket")) == loss
        for acceptance in ledger.each("acceptance", name)
    ):
        return None
    if shown is None:
        return None if removals.emptied_since(ledger, name, newest.seq) else newest
    if shown.previous == newest.body["snapshot"] or _went_back(run, newest):
        return None  # after the newest on record, the site committed one that an interrupted run did not record
    records = ledger.find("snapshot", name)
    before = {str(record.body["snapshot"]): record.body.get("previous") for record in records}
    if run.site.name != newest.body["site"] and newest.body["snapshot"] in _line(before, shown.id):
        return None  # a failover had left it behind
    return newest if shown.id in before or _is_older(run, shown, newest) else None


def _is_older(run: IngestionRun, shown: Snapshot, newest: Evidence) -> bool:
    """Return whether an unrecorded snapshot was made before the newest on record.

    A site may take a run's `current.json`, not answer, and store it over that of the next run. An erasure keeps the
    time of the snapshot that it replaces.
    """
    try:
        recorded = snapshots.read(run.site, run.lake, run.pipeline.name, str(newest.body["snapshot"]))
    except ObjectMissing:
        return False
    return shown.created_at < recorded.created_at


def _line(before: Mapping[str, str | None], name: str | None) -> set[str]:
    """Return a snapshot and its recorded ancestors."""
    found: set[str] = set()
    while name is not None and name not in found:
        found.add(name)
        name = before.get(name)
    return found


def _went_back(run: IngestionRun, newest: Evidence) -> bool:
    """Return whether a restore or a lossy failover reset the data set to an earlier snapshot since."""
    ledger, switchover = run.ledger, run.active.switchover
    if run.site.name != newest.body["site"] and switchover is not None and switchover.accept_loss:
        return True
    if any(
        failover.seq > newest.seq and failover.body.get("step") == "switch" and failover.body.get("accept_loss")
        for failover in ledger.each("failover")
    ):
        return True
    brought = {"all", "bucket:lake", f"dataset:{run.pipeline.name}"}
    return any(
        restore.seq > newest.seq
        and not restore.body.get("aside")
        and not brought.isdisjoint(restore.body.get("parts", ()))
        for restore in ledger.each("restore")
    )
