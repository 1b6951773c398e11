"""Return a pipeline's current snapshot from its site, checked against the evidence.

A site may lose `current.json`, show an older one, or store a write late that its run had given up. A run that trusted
it would build the next snapshot, train or predict without the newest rows. So whatever reads the current snapshot of
the active site reads it here: one look at the site, one query of the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rempart.coordination.active import Active
from rempart.counts import counted
from rempart.errors import IngestError, IntegrityError, ObjectMissing
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.shared import erasures, removals
from rempart.ingestion import snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.port import Evidence, Ledger
from rempart.sites.port import Site

_STEPS = 200
"""Manifests that are read to find out whether a snapshot follows the newest on record."""


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

    Raises IngestError if evidence names a newer snapshot than the site shows, ObjectMissing if the manifest of the one
    that the site names is gone, SiteError, IntegrityError.
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
        lost, named = _lost(place, None), snapshots.named(place.site, place.bucket, place.name)
        if lost.body["snapshot"] == named if lost else not _is_known_to_be_gone(place, named):
            raise
        return None, lost
    return shown, _lost(place, shown)


def _is_known_to_be_gone(place: _Place, named: str | None) -> bool:
    """Return whether evidence explains why a manifest is missing, if it asks for no snapshot: it may know none."""
    return removals.emptied_since(place.ledger, place.name, 0) or any(
        (record.body["snapshot"], record.body.get("bucket")) == (named, place.bucket)  # a person accepted the loss
        for record in place.ledger.each("snapshot", place.name)
    )


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
    return None if _follows(place, shown, newest, records) else newest


def _is_accepted(place: _Place, newest: Evidence, shown: str | None) -> bool:
    """Return whether the loss of the newest snapshot on record was accepted while the site showed this one."""
    loss = (newest.body["snapshot"], shown, place.bucket)
    return any(
        record.seq > newest.seq
        and (record.body.get("lost"), record.body.get("shown"), record.body.get("bucket")) == loss
        for record in place.ledger.each("acceptance", place.name)
    )


def _follows(place: _Place, shown: Snapshot, newest: Evidence, records: Sequence[Evidence]) -> bool:
    """Return whether a snapshot was committed after the newest on record.

    Its run was killed before its evidence, or the ledger is older than the site: it was restored alone. The predecessor
    tells it, as clocks of two machines may differ. A snapshot that does not follow is a write that a site stored late:
    it took a run's `current.json`, did not answer, and stored it over that of the next run.
    """
    expected = str(newest.body["snapshot"])
    standing = _replacements(place, expected)
    if shown.id in standing:
        return True  # the erasure was killed before its evidence
    follows = (
        shown.previous in (expected, *standing)
        or _is_accepted(place, newest, shown.previous)
        or removals.emptied_since(place.ledger, place.name, newest.seq)
    )
    # the same rows were a snapshot earlier, so that a late write may bring them, too
    made_before = any(record.body["snapshot"] == shown.id for record in records)
    if not made_before and (follows or _was_restored(place.ledger, newest.seq, {"database:ledger"})):
        return True
    if shown.previous == expected and _is_first(expected, shown, records):
        return True
    try:
        recorded = snapshots.read(place.site, place.bucket, place.name, expected)
    except ObjectMissing:  # perhaps deleted by an erasure that an older ledger does not know
        return follows or not made_before
    if follows or _leads_to(place, shown, {expected, *standing}, if_unknown=not made_before):
        return shown.created_at >= recorded.created_at
    return not made_before and shown.created_at == recorded.created_at  # an erasure keeps the time of what it replaces


def _replacements(place: _Place, snapshot: str) -> list[str]:
    """Return the snapshots that erasures made of a snapshot, one of another. They record that before they commit it."""
    folder, found = snapshots.folder(place.name), [snapshot]
    rewritten = erasures.rewritten(place.ledger)
    while to := rewritten.get((place.bucket, f"{folder}{found[-1]}.json")):
        name = to[0].removeprefix(folder).removesuffix(".json")
        if name in found:
            break
        found.append(name)
    return found[1:]


def _is_first(expected: str, shown: Snapshot, records: Sequence[Evidence]) -> bool:
    """Return whether these rows were never current before, so that their successor was made after them."""
    made = [(record.body["snapshot"], record.body.get("previous")) for record in records]
    return [name for name, _ in made].count(expected) == 1 and (shown.id, shown.previous) not in made


def _leads_to(place: _Place, shown: Snapshot, wanted: Collection[str], *, if_unknown: bool) -> bool:
    """Return whether one of these is an ancestor of a snapshot; `if_unknown` if a manifest on the way is missing."""
    name, seen = shown.previous, {shown.id}
    while name is not None and name not in seen:
        if name in wanted:
            return True
        if len(seen) == _STEPS:
            return if_unknown
        seen.add(name)
        try:
            name = snapshots.read(place.site, place.bucket, place.name, name).previous
        except (ObjectMissing, IntegrityError):
            return if_unknown
    return False


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
    return _was_restored(ledger, newest.seq, {"all", "bucket:lake", f"dataset:{place.name}"})


def _was_restored(ledger: Ledger, seq: int, parts: Collection[str]) -> bool:
    """Return whether one of these parts was restored in place after a record."""
    return any(
        restore.seq > seq and not restore.body.get("aside") and not set(parts).isdisjoint(restore.body.get("parts", ()))
        for restore in ledger.each("restore")
    )
