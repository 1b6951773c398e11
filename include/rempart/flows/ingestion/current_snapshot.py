"""Return a pipeline's current snapshot from its site, checked against the evidence.

A site may lose `current.json`, show an older one, or store a write late that its run had given up. A run that trusted
it would build the next snapshot, train or predict without the newest rows. So whatever reads the current snapshot of
the active site reads it here: one look at the site, one query of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rempart.coordination.active import Active
from rempart.counts import counted
from rempart.errors import IngestError, ObjectMissing
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.shared import removals
from rempart.ingestion import snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.port import Evidence, Ledger
from rempart.sites.port import Site


@dataclass(frozen=True)
class AcceptedLoss:
    """A lost snapshot that a person accepts to do without, and the person's number."""

    snapshot: str
    by: str


@dataclass(frozen=True)
class _Place:
    """Where a pipeline's current snapshot is named, and the evidence that must agree."""

    ledger: Ledger
    active: Active
    site: Site
    bucket: str
    name: str


def checked(ledger: Ledger, active: Active, site: Site, bucket: str, name: str) -> Snapshot | None:
    """Return the current snapshot of a pipeline at the active site, or None before the first.

    Raises IngestError if evidence names a newer snapshot than the site shows, SiteError, IntegrityError.
    """
    place = _Place(ledger, active, site, bucket, name)
    shown, lost = _look(place)
    if lost is None:
        return shown
    raise _behind(place, shown, lost, "Nothing was read from it")


def current(run: IngestionRun, accepted: AcceptedLoss | None = None) -> Snapshot | None:
    """Return the current snapshot that an ingestion goes on from, or None before the first.

    Raises as `checked`, unless a person accepted the loss of exactly that snapshot, which is recorded. Raises
    IngestError if a pipeline that is not derived any more still has derived rows.
    """
    place = _Place(run.ledger, run.active, run.site, run.lake, run.pipeline.name)
    shown, lost = _look(place)
    _check_kind(run, shown)
    if lost is None:
        return shown
    if accepted is None or accepted.snapshot != lost.body["snapshot"]:
        raise _behind(place, shown, lost, "Nothing was ingested")
    now = shown.id if shown else None
    body = {"lost": lost.body["snapshot"], "shown": now, "site": run.site.name, "bucket": run.lake}
    run.ledger.append("acceptance", place.name, {**body, "by": accepted.by})
    return shown


def _behind(place: _Place, shown: Snapshot | None, lost: Evidence, undone: str) -> IngestError:
    name = place.name
    return IngestError(
        f"Pipeline '{name}': site '{place.site.name}' shows {f'snapshot {shown.id}' if shown else 'no snapshot'} as "
        f"the current one of bucket {place.bucket}, but evidence {lost.seq} names {lost.body['snapshot']} "
        f"({counted(lost.body['rows'], 'row')}). {undone}",
        f"Run again, in case the site is behind. Then restore dataset:{name} from a restore point, or "
        f"{snapshots.folder(name)}current.json from its replica. To go on without the lost snapshot, run "
        f"ingest_{name} with `accept_loss: {lost.body['snapshot']}` (docs/runbooks/current-snapshot-is-gone.md).",
    )


def _look(place: _Place) -> tuple[Snapshot | None, Evidence | None]:
    """Return what the site shows, and the record of the snapshot that it should show, if that is another."""
    found = _look_once(place)
    return found if found[1] is None else _look_once(place)  # somebody may have committed between the two looks


def _look_once(place: _Place) -> tuple[Snapshot | None, Evidence | None]:
    try:
        shown = snapshots.current(place.site, place.bucket, place.name)
    except ObjectMissing:  # a reset or an erasure deleted the manifest, if evidence names another snapshot by now
        lost = _lost(place, None)
        if lost and lost.body["snapshot"] == snapshots.named(place.site, place.bucket, place.name):
            raise
        return None, lost
    return shown, _lost(place, shown)


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


def _lost(place: _Place, shown: Snapshot | None) -> Evidence | None:
    """Return the record of the snapshot that should be current, or None if the site shows it or a newer one."""
    ledger, name = place.ledger, place.name
    now = stands = shown.id if shown else None
    newest = None
    for record in ledger.each("snapshot", name):
        if record.body.get("bucket") != place.bucket:
            continue
        if stands == record.body["snapshot"] and "replaced" in record.body:
            # an erasure adds no rows: the snapshot that it replaced must have been the newest
            stands = str(record.body["replaced"])
            continue
        newest = record
        break
    if newest is None or stands == newest.body["snapshot"] or _is_accepted(place, newest, now):
        return None
    if shown is None:
        return None if removals.emptied_since(ledger, name, newest.seq) else newest
    if _went_back(place, newest):
        return None
    records = ledger.find("snapshot", name)
    before = {str(record.body["snapshot"]): record.body.get("previous") for record in records}
    if place.site.name != newest.body["site"] and newest.body["snapshot"] in _line(before, shown.id):
        return None  # a failover had left it behind
    return None if _follows(place, shown, newest, made_before=shown.id in before) else newest


def _is_accepted(place: _Place, newest: Evidence, shown: str | None) -> bool:
    """Return whether the loss of the newest snapshot on record was accepted while the site showed this one."""
    loss = (newest.body["snapshot"], shown, place.bucket)
    return any(
        record.seq > newest.seq
        and (record.body.get("lost"), record.body.get("shown"), record.body.get("bucket")) == loss
        for record in place.ledger.each("acceptance", place.name)
    )


def _follows(place: _Place, shown: Snapshot, newest: Evidence, *, made_before: bool) -> bool:
    """Return whether a snapshot was committed after the newest on record, by a run that was killed before its evidence.

    Its predecessor tells it, as clocks of two machines may differ. One that does not follow is a write that a site
    stored late: it took a run's `current.json`, did not answer, and stored it over that of the next run.
    `made_before`: the same rows were a snapshot earlier, so that a late write may bring them, too.
    """
    expected = str(newest.body["snapshot"])
    follows = (
        shown.previous == expected
        or _is_accepted(place, newest, shown.previous)
        or removals.emptied_since(place.ledger, place.name, newest.seq)
    )
    if follows and not made_before:
        return True
    try:
        recorded = snapshots.read(place.site, place.bucket, place.name, expected)
    except ObjectMissing:
        return follows
    if follows:
        return shown.created_at >= recorded.created_at
    return not made_before and shown.created_at == recorded.created_at  # an erasure keeps the time of what it replaces


def _line(before: Mapping[str, str | None], name: str | None) -> set[str]:
    """Return a snapshot and its recorded ancestors."""
    found: set[str] = set()
    while name is not None and name not in found:
        found.add(name)
        name = before.get(name)
    return found


def _went_back(place: _Place, newest: Evidence) -> bool:
    """Return whether a restore or a lossy failover reset the data set to an earlier snapshot since."""
    ledger, switchover = place.ledger, place.active.switchover
    if place.site.name != newest.body["site"] and switchover is not None and switchover.accept_loss:
        return True
    if any(
        failover.seq > newest.seq and failover.body.get("step") == "switch" and failover.body.get("accept_loss")
        for failover in ledger.each("failover")
    ):
        return True
    brought = {"all", "bucket:lake", f"dataset:{place.name}"}
    return any(
        restore.seq > newest.seq
        and not restore.body.get("aside")
        and not brought.isdisjoint(restore.body.get("parts", ()))
        for restore in ledger.each("restore")
    )
