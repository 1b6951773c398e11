"""List the restore points at a site with the reasons to keep each, and manage holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from rempart.backup.keys import encryption_scopes
from rempart.backup.points import chain, holds, locking, points, retention
from rempart.backup.points.holds import Hold
from rempart.counts import counted
from rempart.errors import IntegrityError
from rempart.flows.backup.point_store import PointStore, open_store
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence, Ledger
from rempart.sites.once import bodies
from rempart.sites.port import Site

WORKERS = 8


@dataclass(frozen=True)
class PointStatus:
    """One restore point: `bytes` under its prefix, databases in its manifest, objects in its evidence.

    `restores`: bytes of the databases and objects that it brings back, which points share at the site; None without
    evidence.

    `reasons` tell why it is kept; without any, the next prune deletes it. `doubts` tell why it may be unusable. `proof`
    is the newest drill: its verdict and time.
    """

    id: str
    created_at: datetime
    bytes: int
    restores: int | None
    databases: int
    objects: int
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    hold: Hold | None
    proof: tuple[bool, datetime] | None


@dataclass(frozen=True)
class Survey:
    """Restore points of a site at one moment, newest first, and the resulting prune plan.

    `needed` keys and `snapshots` (dumps) are required by kept points; the needs of `unreadable` points are unknown.
    `leftovers` are folders without a point, with their bytes. `hidden` points have a deleted manifest that the site
    still holds. `sealed_for` tells how long each point's sealed objects were locked from its creation.
    """

    site: str
    at: datetime
    points: tuple[PointStatus, ...]
    plan: retention.RetentionPlan
    needed: frozenset[str]
    snapshots: frozenset[retention.DumpSnapshot]
    unreadable: tuple[str, ...]
    leftovers: dict[str, int]
    hidden: tuple[str, ...]
    sealed_for: dict[str, timedelta | None]


@dataclass(frozen=True)
class _ReadManifest:
    """Content of a manifest, or the `fault` that makes it unreadable, and the SHA-256 that its writer gave the site."""

    sha256: str | None
    needs: retention.Needs | None
    fault: str = ""


def survey(platform: Platform, where: str | None = None) -> Survey:
    """Survey every restore point of a site (default: the current backup site) without changes.

    Raises SiteError, PlacementDenied, LedgerError, DatabaseUnavailable.
    """
    return survey_of(open_store(platform, where))


def _restores(record: Evidence | None) -> int | None:
    """Return the bytes that a restore point brings back, by its evidence."""
    if record is None or "object_bytes" not in record.body:
        return None
    return int(record.body["bytes"]) + int(record.body["object_bytes"])


def survey_of(store: PointStore) -> Survey:
    """Survey the restore points of a site."""
    site, bucket, now = store.site, store.bucket, store.clock()
    folders = retention.folders(site.versions(bucket, "points/"))
    ids = sorted((folder.id for folder in folders.values() if folder.manifest == "current"), reverse=True)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="points") as pool:
        told = dict(zip(ids, pool.map(partial(_read, site, bucket), ids), strict=True))
    records = {point: next(iter(store.ledger.find("restore-point", point, limit=1)), None) for point in ids}
    held, proved = _held(store), proofs(store.ledger)
    failed = {point for point, (ok, _) in proved.items() if not ok}
    doubts = _doubts(site, bucket, told, records, failed)
    plan = retention.plan(
        ids,
        store.rules.keep,
        now,
        doubtful={point for point in ids if doubts[point]},
        held=held.keys(),
        locked=locking.span(store.rules.locked),
    )
    needs = {point: read.needs for point, read in told.items() if read.needs}
    return Survey(
        site.name,
        now,
        tuple(
            PointStatus(
                point,
                points.created_at(point),
                folders[point].bytes,
                _restores(records[point]),
                needs[point].databases if point in needs else 0,
                int(record.body.get("objects", 0)) if (record := records[point]) else 0,
                plan.keep.get(point, ()),
                doubts[point],
                held.get(point),
                proved.get(point),
            )
            for point in ids
        ),
        plan,
        frozenset().union(*(need.keys for point, need in needs.items() if point in plan.keep)),
        frozenset().union(*(need.snapshots for point, need in needs.items() if point in plan.keep)),
        tuple(point for point in plan.keep if point not in needs),
        {point: folders[point].bytes for point in retention.leftovers(folders.values())},
        tuple(sorted(folder.id for folder in folders.values() if folder.manifest == "hidden")),
        {
            point: encryption_scopes.shortest({snapshot.scope for snapshot in need.snapshots})
            for point, need in needs.items()
        },
    )


def _read(site: Site, bucket: str, point: str) -> _ReadManifest:
    key = _manifest_key(point)
    sha256 = site.head(bucket, key).sha256
    with site.open(bucket, key) as stream:
        beginning = retention.begin(stream)
    try:
        return _ReadManifest(sha256, retention.needs(beginning))
    except ValueError as error:
        return _ReadManifest(sha256, None, str(error))


def _doubts(
    site: Site,
    bucket: str,
    told: Mapping[str, _ReadManifest],
    records: Mapping[str, Evidence | None],
    failed: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """Return findings against each point. Only the newest point without findings is read completely.

    `told` is newest first. The others are compared by their writer's SHA-256; drills and restores read everything.
    """
    doubts: dict[str, tuple[str, ...]] = {}
    for point, told_point in told.items():
        found, record = [], records[point]
        if told_point.needs is None:
            found.append(f"its manifest cannot be read: {told_point.fault}")
        elif told_point.needs.format != points.FORMAT:
            found.append(f"it has format {told_point.needs.format}, which this release cannot restore")
        elif told_point.needs.dangling:
            missing = counted(told_point.needs.dangling, "object is missing", "objects are missing")
            found.append(f"inconsistent: {missing}, to which its dumps refer")
        if point in failed:
            found.append("its last drill failed")
        if record is None:
            found.append("the ledger has no record of it")
        else:
            newest_good = not found and all(doubts.values())
            recorded = str(record.body["manifest_sha256"])
            if recorded != told_point.sha256 or (newest_good and not _is_stored(site, bucket, point, recorded)):
                found.append("its manifest differs from its record")
            elif newest_good and not _is_vouched_for(site, bucket, record):
                found.append("its chain link is altered or missing: run `rempart backup repair`")
        doubts[point] = tuple(found)
    return doubts


def _is_stored(site: Site, bucket: str, point: str, sha256: str) -> bool:
    try:
        site.read(bucket, _manifest_key(point), sha256=sha256)
    except IntegrityError:
        return False
    return True


def _is_vouched_for(site: Site, bucket: str, record: Evidence) -> bool:
    """Return whether some version of the point's link has the recorded bytes."""
    file = record.body.get("link_file")
    if not isinstance(file, str):  # a record without these fields
        return True
    return any(body == file.encode() for _, body in bodies(site, bucket, chain.key_of(int(record.body["link"]))))


def _manifest_key(point: str) -> str:
    return f"{points.prefix(point)}{retention.MANIFEST}"


def proofs(ledger: Ledger) -> dict[str, tuple[bool, datetime]]:
    """Return the newest drill of each point: whether the point passed, and when.

    A drill that failed only an objective does not count against the point.
    """
    found: dict[str, tuple[bool, datetime]] = {}
    for record in ledger.find("drill"):  # newest first
        found.setdefault(record.subject, (record.body.get("proved", record.body["ok"]) is True, record.at))
    return found


def _held(store: PointStore) -> dict[str, Hold]:
    """Return every hold at the site or in the ledger: losing either does not release a hold."""
    by_ledger: dict[str, Hold | None] = {}
    for record in store.ledger.find("hold"):  # newest first
        body = record.body
        there = Hold(str(body["role"]), str(body["why"]), record.at) if body["held"] else None
        by_ledger.setdefault(record.subject, there)
    standing = {point: known for point, known in by_ledger.items() if known}
    return standing | holds.held(store.site, store.bucket)


def hold(platform: Platform, point: str, *, role: str, why: str, where: str | None = None) -> Hold:
    """Hold a restore point against retention until it is released. Writes evidence of kind `hold`.

    Returns the existing hold if there is one. Raises BackupError if the point does not exist.
    """
    store = open_store(platform, where)
    earlier = _held(store).get(points.valid_id(point))
    wanted = earlier or Hold(role, why, store.clock())
    standing = holds.hold(store.site, store.bucket, point, wanted)
    records = store.ledger.find("hold", point, limit=1)
    if not (records and records[0].body["held"]):
        body = {"held": True, "site": store.site.name, "role": standing.who, "why": standing.why}
        store.ledger.append("hold", point, body)
    return standing


def release(platform: Platform, point: str, *, role: str, why: str, where: str | None = None) -> bool:
    """Release a hold with evidence of kind `hold`.

    Return False if there was none. The next prune may delete the point.
    """
    store = open_store(platform, where)
    if points.valid_id(point) not in _held(store):
        return False
    # evidence first: a hold may vanish only after its release is on record
    store.ledger.append("hold", point, {"held": False, "site": store.site.name, "role": role, "why": why})
    holds.release(store.site, store.bucket, point)
    return True
