"""The restore points at a site: which there are, why each is kept, and holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from rempart.backup.keys import domains
from rempart.backup.points import chain, holds, locking, points, retention
from rempart.backup.points.holds import Hold
from rempart.coordination.active import backup_site
from rempart.errors import IntegrityError
from rempart.flows.shared.platform import Platform, classification_of
from rempart.ledger.port import Evidence
from rempart.settings.pipelines import load_all
from rempart.sites.once import bodies
from rempart.sites.port import Site

WORKERS = 8
ALL = 100_000
"""More records than a ledger holds of holds, or of drills."""


@dataclass(frozen=True)
class PointStatus:
    """One point: `bytes` of all that stands under its prefix; databases in its manifest, objects in its evidence.

    `reasons` say why it is kept; without any, the next prune deletes it. `doubts` say why nobody should count on it.
    `proof` is the newest drill: its verdict and when it was.
    """

    id: str
    created_at: datetime
    bytes: int
    databases: int
    objects: int
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    hold: Hold | None
    proof: tuple[bool, datetime] | None


@dataclass(frozen=True)
class Survey:
    """What a site holds at a moment, newest first, and the plan that follows from it.

    `needed` are keys, and `snapshots` dumps in repositories, that the points which are kept cannot do without; what the
    `unreadable` of them need is not known.
    `leftovers` are folders of no point, with their bytes; of the `hidden` points somebody deleted the manifest, and the
    site still has it. `sealed_for`: how long each point's sealed objects were locked from its moment on, if it has any.
    """

    site: str
    at: datetime
    points: tuple[PointStatus, ...]
    plan: retention.RetentionPlan
    needed: frozenset[str]
    snapshots: frozenset[retention.Snapshot]
    unreadable: tuple[str, ...]
    leftovers: dict[str, int]
    hidden: tuple[str, ...]
    sealed_for: dict[str, timedelta | None]


@dataclass(frozen=True)
class _Told:
    """What a manifest says, or the `fault` for which nobody can tell, and the SHA-256 that its writer gave the site."""

    sha256: str | None
    needs: retention.Needs | None
    fault: str = ""


def survey(platform: Platform, where: str | None = None) -> Survey:
    """Look at every restore point of a site (by default where backups go now); nothing is changed.

    Raises SiteError, PlacementDenied, LedgerError, DatabaseUnavailable.
    """
    return survey_of(platform, open_site(platform, where))


def open_site(platform: Platform, where: str | None) -> Site:
    """The site of the restore points: where backups go now, unless another is named. Raises PlacementDenied."""
    active = platform.active().site
    where = where or backup_site(platform.config, active)
    beside = active if active != where else None
    return platform.site(where, classification_of(load_all()), "restore-point", beside=beside)


def survey_of(platform: Platform, site: Site) -> Survey:
    """The same of a site that is open."""
    bucket, now = platform.config.buckets.backups, platform.clock()
    folders = retention.folders(site.versions(bucket, "points/"))
    ids = sorted((one.id for one in folders.values() if one.manifest == "current"), reverse=True)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="points") as pool:
        told = dict(zip(ids, pool.map(partial(_read, site, bucket), ids), strict=True))
    records = {point: next(iter(platform.ledger.find("restore-point", point, limit=1)), None) for point in ids}
    held, proved = _held(platform, site), proofs(platform)
    failed = {point for point, (ok, _) in proved.items() if not ok}
    doubts = _doubts(site, bucket, told, records, failed)
    plan = retention.plan(
        ids,
        platform.config.backup.keep,
        now,
        doubtful={point for point in ids if doubts[point]},
        held=held.keys(),
        locked=locking.span(platform.config.backup.locked),
    )
    needs = {point: one.needs for point, one in told.items() if one.needs}
    return Survey(
        site.name,
        now,
        tuple(
            PointStatus(
                point,
                points.created_at(point),
                folders[point].bytes,
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
        frozenset().union(*(one.keys for point, one in needs.items() if point in plan.keep)),
        frozenset().union(*(one.snapshots for point, one in needs.items() if point in plan.keep)),
        tuple(point for point in plan.keep if point not in needs),
        {point: folders[point].bytes for point in retention.leftovers(folders.values())},
        tuple(sorted(one.id for one in folders.values() if one.manifest == "hidden")),
        {point: domains.shortest({snapshot.domain for snapshot in one.snapshots}) for point, one in needs.items()},
    )


def _read(site: Site, bucket: str, point: str) -> _Told:
    key = _manifest_key(point)
    sha256 = site.head(bucket, key).sha256
    with site.open(bucket, key) as stream:
        beginning = retention.begin(stream)
    try:
        return _Told(sha256, retention.needs(beginning))
    except ValueError as error:
        return _Told(sha256, None, str(error))


def _doubts(
    site: Site, bucket: str, told: Mapping[str, _Told], records: Mapping[str, Evidence | None], failed: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Why nobody should count on each point. Only the newest that nothing else speaks against is read as a whole.

    `told` is newest first. The others are held against what their writer gave the site: a drill or a restore reads all.
    """
    doubts: dict[str, tuple[str, ...]] = {}
    for point, one in told.items():
        found, record = [], records[point]
        if one.needs is None:
            found.append(f"its manifest cannot be read: {one.fault}")
        elif one.needs.format != points.FORMAT:
            found.append(f"it is of format {one.needs.format}, which this release cannot restore")
        elif one.needs.dangling:
            found.append(f"inconsistent: {one.needs.dangling} of the objects that its dumps refer to are missing")
        if point in failed:
            found.append("the last drill of it failed")
        if record is None:
            found.append("the ledger has no record of it")
        else:
            newest_good = not found and all(doubts.values())
            recorded = str(record.body["manifest_sha256"])
            if recorded != one.sha256 or (newest_good and not _is_stored(site, bucket, point, recorded)):
                found.append("its manifest is not the one on record")
            elif newest_good and not _is_vouched_for(site, bucket, record):
                found.append("its link of the chain is altered or gone: `rempart points repair` puts it back")
        doubts[point] = tuple(found)
    return doubts


def _is_stored(site: Site, bucket: str, point: str, sha256: str) -> bool:
    try:
        site.read(bucket, _manifest_key(point), sha256=sha256)
    except IntegrityError:
        return False
    return True


def _is_vouched_for(site: Site, bucket: str, record: Evidence) -> bool:
    """Whether some version of the point's link has the bytes on record."""
    file = record.body.get("link_file")
    if not isinstance(file, str):  # a record that has them not
        return True
    return any(body == file.encode() for _, body in bodies(site, bucket, chain.key_of(int(record.body["link"]))))


def _manifest_key(point: str) -> str:
    return f"{points.prefix(point)}{retention.MANIFEST}"


def proofs(platform: Platform) -> dict[str, tuple[bool, datetime]]:
    """The newest drill of each point: whether the point proved itself, and when that was.

    A drill that is red for an objective alone says nothing against the point.
    """
    found: dict[str, tuple[bool, datetime]] = {}
    for record in platform.ledger.find("drill", limit=ALL):  # newest first
        found.setdefault(record.subject, (record.body.get("proved", record.body["ok"]) is True, record.at))
    return found


def _held(platform: Platform, site: Site) -> dict[str, Hold]:
    """Every hold that stands, at the site or by the ledger: neither a lost file nor a lost ledger lifts one."""
    by_ledger: dict[str, Hold | None] = {}
    for record in platform.ledger.find("hold", limit=ALL):  # newest first
        body = record.body
        there = Hold(str(body["role"]), str(body["why"]), record.at) if body["held"] else None
        by_ledger.setdefault(record.subject, there)
    standing = {point: one for point, one in by_ledger.items() if one}
    return standing | holds.held(site, platform.config.buckets.backups)


def hold(platform: Platform, point: str, *, role: str, why: str, where: str | None = None) -> Hold:
    """Keep a point whatever retention says, until it is released; evidence of kind `hold`.

    Returns the hold that stands: an earlier one is not replaced. Raises BackupError if there is no such point.
    """
    site = open_site(platform, where)
    earlier = _held(platform, site).get(points.valid_id(point))
    wanted = earlier or Hold(role, why, platform.clock())
    standing = holds.hold(site, platform.config.buckets.backups, point, wanted)
    records = platform.ledger.find("hold", point, limit=1)
    if not (records and records[0].body["held"]):
        body = {"held": True, "site": site.name, "role": standing.who, "why": standing.why}
        platform.ledger.append("hold", point, body)
    return standing


def release(platform: Platform, point: str, *, role: str, why: str, where: str | None = None) -> bool:
    """End a hold; evidence of kind `hold`. False if there was none. The next prune may delete the point."""
    site = open_site(platform, where)
    if points.valid_id(point) not in _held(platform, site):
        return False
    # evidence first: a hold of which the release is not on record must not be gone
    platform.ledger.append("hold", point, {"held": False, "site": site.name, "role": role, "why": why})
    holds.release(site, platform.config.buckets.backups, point)
    return True
