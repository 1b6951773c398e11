"""The current snapshot of a pipeline, as its site shows it and as evidence knows it.

A site may lose `current.json`, or show an earlier one. Whoever believed that would make the next snapshot without the
rows of the lost one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rempart.errors import IngestError
from rempart.flows.ingestion.ingest_run import Run
from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.port import Evidence

ALL = 100_000
"""Records of a pipeline's snapshots among which an earlier one is looked for."""
_RECENT = 50
"""Records among which the newest ones are looked for that concern the run's own bucket."""


@dataclass(frozen=True)
class AcceptedLoss:
    """The snapshot that a person goes on without, and the person's number."""

    snapshot: str
    by: str


def current(run: Run, accepted: AcceptedLoss | None = None) -> Snapshot | None:
    """Return the current snapshot, None before the first one.

    Raises IngestError where evidence names a newer snapshot than the site shows, unless a person accepted the loss of
    that very snapshot: then that is evidence. Raises SiteError, IntegrityError.
    """
    shown = snapshots.current(run.site, run.lake, run.pipeline.name)
    lost = _lost(run, shown)
    if lost is not None:  # an erasure may have committed between the look at the site and the look at evidence
        shown = snapshots.current(run.site, run.lake, run.pipeline.name)
        lost = _lost(run, shown)
    if lost is None:
        return shown
    name, now = run.pipeline.name, shown.id if shown else None
    if accepted is None or accepted.snapshot != lost.body["snapshot"]:
        raise IngestError(
            f"Pipeline '{name}': site '{run.site.name}' shows {f'snapshot {now}' if now else 'no snapshot'} as the "
            f"current one of bucket {run.lake}, evidence {lost.seq} names {lost.body['snapshot']} "
            f"({lost.body['rows']} rows). Nothing was taken in",
            f"Run again, in case the site is behind. Then restore dataset:{name} from a restore point, or "
            f"{snapshots.folder(name)}current.json from its replica. To go on without the lost snapshot, run "
            f"ingest_{name} with `accept_loss: {lost.body['snapshot']}` (docs/runbooks/current-snapshot-is-gone.md).",
        )
    body = {"lost": lost.body["snapshot"], "shown": now, "site": run.site.name, "bucket": run.lake}
    run.platform.ledger.append("acceptance", name, {**body, "by": accepted.by})
    return shown


def _lost(run: Run, shown: Snapshot | None) -> Evidence | None:
    """Return the record of the snapshot that should be current, None where the site shows it or a newer one."""
    ledger, name = run.platform.ledger, run.pipeline.name
    now = stands = shown.id if shown else None
    newest = None
    for record in ledger.find("snapshot", name, limit=_RECENT):
        if record.body.get("bucket") != run.lake:
            continue
        if stands == record.body["snapshot"] and "replaced" in record.body:
            stands = str(record.body["replaced"])  # an erasure adds no rows: what it replaced must have been the newest
            continue
        newest = record
        break
    if newest is None or stands == newest.body["snapshot"]:
        return None
    loss = (newest.body["snapshot"], now, run.lake)
    if any(
        one.seq > newest.seq and (one.body.get("lost"), one.body.get("shown"), one.body.get("bucket")) == loss
        for one in ledger.find("acceptance", name, limit=_RECENT)
    ):
        return None
    if shown is None:
        return newest
    if _went_back(run, newest):
        return None
    records = ledger.find("snapshot", name, limit=ALL)
    before = {str(one.body["snapshot"]): one.body.get("previous") for one in records}
    if run.site.name != newest.body["site"] and newest.body["snapshot"] in _line(before, shown.id):
        return None  # a failover had left it behind
    return newest if shown.id in before else None


def _line(before: Mapping[str, str | None], name: str | None) -> set[str]:
    """A snapshot and those that it follows on, as far as they are on record."""
    found: set[str] = set()
    while name is not None and name not in found:
        found.add(name)
        name = before.get(name)
    return found


def _went_back(run: Run, newest: Evidence) -> bool:
    """Return whether a person brought the dataset back to an earlier snapshot since: a restore or a lossy failover."""
    ledger, switchover = run.platform.ledger, run.active.switchover
    if run.site.name != newest.body["site"] and switchover is not None and switchover.accept_loss:
        return True
    if any(
        one.seq > newest.seq and one.body.get("step") == "switch" and one.body.get("accept_loss")
        for one in ledger.find("failover", limit=_RECENT)
    ):
        return True
    brought = {"all", "bucket:lake", f"dataset:{run.pipeline.name}"}
    restores = ledger.find("restore", limit=_RECENT)
    return any(
        one.seq > newest.seq and not one.body.get("aside") and not brought.isdisjoint(one.body.get("parts", ()))
        for one in restores
    )
