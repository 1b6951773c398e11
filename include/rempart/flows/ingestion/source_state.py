"""Where extractions stand, stored at the site beside the data: the state of the source for each snapshot.

An extraction has three steps, each of which may be the last before a crash:

1. `pending.json` says that deliveries are being written to a folder of the landing bucket;
2. `pending.json` names all of them, and the state after them;
3. once all of them were ingested, that state is stored for the snapshot that is current then.

A state counts only for its snapshot and later ones. So a snapshot that goes back, by a restore or a failover, takes the
cursor back with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from rempart import canonical_json
from rempart.errors import IntegrityError, ObjectMissing
from rempart.flows.shared.deletion import Deleted, delete_below
from rempart.ingestion.snapshots import Snapshot
from rempart.ingestion.sources.port import Delivery, State
from rempart.ingestion.sources.row_memory import ROWS
from rempart.ingestion.sources.web.source import NEXT
from rempart.settings.pipeline import Pipeline
from rempart.sites.once import put_again
from rempart.sites.port import Site

RECENT = 10
DAYS = 30
"""States that are kept: the newest ones, and the last of each of so many days."""
_TYPE = "application/json"
_FIRST = "0001-01-01T000000.000000"
"""The time of no snapshot."""


@dataclass(frozen=True)
class Stand:
    """The state after an extraction, and when keys were last compared (ISO 8601, empty if never).

    `columns`: those of the extracted rows, in their order.
    """

    number: int = 0
    state: State = field(default_factory=dict, repr=False)
    compared_at: str = ""
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Pending:
    """An extraction whose deliveries are not all ingested. `folder`: theirs in the landing bucket.

    `whole` is False while they are being written. `after`: the stand once all are ingested.
    """

    folder: str
    whole: bool
    deliveries: tuple[Delivery, ...] = ()
    after: Stand = Stand()
    evidence: Mapping[str, Any] = field(default_factory=dict)


def folder(pipeline: str) -> str:
    return f"sources/{pipeline}/"


def forget_rows(site: Site, bucket: str, pipeline: Pipeline, snapshot: Snapshot | None, now: datetime) -> Deleted:
    """Delete all that states tell of single rows: every version but the newest of what counts, which is stored without.

    So rows within the overlap are delivered again; where the first row of a key stands (`on_conflict: refuse`) they
    would all be refused, so that their digests stay in what counts. `snapshot`: the current one; without a current
    one nothing counts. Raises IntegrityError, SiteError.
    """
    name = pipeline.name
    if pipeline.conflict_rule != "refuse":
        if pending := read_pending(site, bucket, name):
            write_pending(site, bucket, name, replace(pending, after=_forgetful(pending.after)))
        if (stand := read_stand(site, bucket, name, snapshot)) != Stand():
            write_stand(site, bucket, name, snapshot, _forgetful(stand))
    names = [info.key for info in site.list(bucket, f"{folder(name)}stands/")]
    counting = {f"{folder(name)}pending.json", newest(names, _time_of(snapshot)) or ""}
    return delete_below(site, bucket, folder(name), now, keep_newest=counting.__contains__)


def forget_all(site: Site, bucket: str, pipeline: str, now: datetime) -> Deleted:
    """Delete the states of a pipeline at a site to which replication brings what counts. Raises SiteError."""
    return delete_below(site, bucket, folder(pipeline), now)


def _forgetful(stand: Stand) -> Stand:
    """Return a stand without digests of rows and without the address of a page."""
    return replace(stand, state={name: value for name, value in stand.state.items() if name not in (ROWS, NEXT)})


def read_pending(site: Site, bucket: str, pipeline: str) -> Pending | None:
    """Return the extraction that is not finished, if any. Raises IntegrityError, SiteError."""
    key = f"{folder(pipeline)}pending.json"
    try:
        found = _json(site, bucket, key)
    except ObjectMissing:
        return None
    try:
        made = tuple(Delivery(**delivery) for delivery in found["deliveries"])
        return Pending(found["folder"], found["whole"], made, Stand(**found["after"]), found["evidence"])
    except (KeyError, TypeError) as cause:
        raise _altered(site, bucket, key) from cause


def write_pending(site: Site, bucket: str, pipeline: str, pending: Pending) -> None:
    """Store the extraction that is not finished. Raises SiteError."""
    body = canonical_json.encode(asdict(pending))
    put_again(site, bucket, f"{folder(pipeline)}pending.json", body, content_type=_TYPE)


def drop_pending(site: Site, bucket: str, pipeline: str) -> None:
    """Forget the extraction that is not finished. Raises SiteError."""
    site.delete(bucket, f"{folder(pipeline)}pending.json")


def read_stand(site: Site, bucket: str, pipeline: str, snapshot: Snapshot | None) -> Stand:
    """Return the newest stand that counts for a snapshot, or the first one. Raises IntegrityError, SiteError."""
    names = [info.key for info in site.list(bucket, f"{folder(pipeline)}stands/")]
    key = newest(names, _time_of(snapshot))
    if key is None:
        return Stand()
    found = _json(site, bucket, key)
    try:
        return Stand(**found)
    except TypeError as cause:
        raise _altered(site, bucket, key) from cause


def write_stand(site: Site, bucket: str, pipeline: str, snapshot: Snapshot | None, stand: Stand) -> None:
    """Store the stand for the current snapshot, and delete stands that no restore needs. Raises SiteError."""
    prefix, time = f"{folder(pipeline)}stands/", _time_of(snapshot)
    put_again(site, bucket, f"{prefix}{time}.json", canonical_json.encode(asdict(stand)), content_type=_TYPE)
    for key in unneeded([info.key for info in site.list(bucket, prefix)], time):
        site.delete(bucket, key)


def drop_later(site: Site, bucket: str, pipeline: str, snapshot: Snapshot | None) -> None:
    """Delete stands later than the snapshot on which the next one is built. Raises SiteError.

    They belong to snapshots that a restore or failover left behind, and would count for the next one by its time.
    """
    time = _time_of(snapshot)
    for info in list(site.list(bucket, f"{folder(pipeline)}stands/")):
        if _name(info.key) > time:
            site.delete(bucket, info.key)


def newest(keys: Sequence[str], time: str) -> str | None:
    """Return the key of the newest stand that is not later than a time. Pure."""
    return max((key for key in keys if _name(key) <= time), key=_name, default=None)


def unneeded(keys: Sequence[str], time: str) -> Iterator[str]:
    """Yield the keys of stands to delete: those of snapshots that are gone, and old ones. Pure.

    A stand later than the current snapshot's `time` belongs to a snapshot that a restore or failover left behind.
    """
    ordered = sorted(keys, key=_name, reverse=True)
    yield from (key for key in ordered if _name(key) > time)
    valid = [key for key in ordered if _name(key) <= time]
    days: list[str] = []
    for i, key in enumerate(valid):
        day = _name(key)[:10]
        last_of_day = day not in days
        if last_of_day:
            days.append(day)
        if i >= RECENT and not (last_of_day and len(days) <= DAYS):
            yield key


def _name(key: str) -> str:
    return key.rsplit("/", 1)[-1].removesuffix(".json")


def _time_of(snapshot: Snapshot | None) -> str:
    return _FIRST if snapshot is None else sortable(snapshot.created_at)


def sortable(at: datetime) -> str:
    """Return a time as text that sorts as times do. All times are UTC."""
    return at.strftime("%Y-%m-%dT%H%M%S.%f")


def _json(site: Site, bucket: str, key: str) -> dict[str, Any]:
    try:
        found = json.loads(site.read(bucket, key))
    except ValueError as cause:
        raise _altered(site, bucket, key) from cause
    if not isinstance(found, dict):
        raise _altered(site, bucket, key)
    return found


def _altered(site: Site, bucket: str, key: str) -> IntegrityError:
    return IntegrityError(
        f"read {bucket}/{key} at site '{site.name}': it does not say where the source's extraction stands",
        "Restore the object from the other site, or delete it: then the rows since the last stand are read again.",
    )
