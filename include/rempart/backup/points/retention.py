"""Choose the restore points to keep: the newest of each hour, day, week and month, as in rempart.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Literal

from rempart.backup.points import points
from rempart.errors import BackupError
from rempart.settings.retention_rules import Keep
from rempart.sites.port import ObjectInfo

FLOOR = 3
"""So many newest points are kept whatever the rules say."""
GRACE = timedelta(hours=2)
"""A point so young is kept: a drill or a restore may have just chosen it."""
SKEW = timedelta(minutes=15)
"""Two clocks may differ by this. A point from later than that is dated by a clock that is wrong, or ours is."""
LEFTOVER_AGE = timedelta(days=1)
"""Age of the newest write after which a folder without a manifest is no running backup."""
HELD, YOUNG, FUTURE, LOCKED = "legal hold", "young", "dated in the future", "under lock"
MANIFEST = "manifest.json"
_OBJECTS = re.compile(rb'"objects":\s*\[')
_CHUNK = 1 << 17
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class RetentionPlan:
    """Ids to keep with the reasons, and ids to prune; each newest first."""

    keep: dict[str, tuple[str, ...]]
    prune: tuple[str, ...]


def plan(
    point_ids: Iterable[str],
    keep: Keep,
    now: datetime,
    *,
    doubtful: Collection[str] = (),
    held: Collection[str] = (),
    locked: timedelta = timedelta(0),
) -> RetentionPlan:
    """Keep the newest point of each of the last N hours, days, weeks and months that have one.

    Always kept are the FLOOR newest, the newest that is not `doubtful`, points with a legal hold, those younger than
    GRACE, and those younger than `locked`, whose first lock nobody can remove. A doubtful point (inconsistent, or
    different from its record) represents its period only if no other can. Periods are counted by existing points, not
    back from `now`: neither a pause nor a wrong clock prunes the last good points. A point from the future is kept and
    not counted, because it would be the newest for ever. So an earlier `now` never prunes more, and a later one only
    what is no longer young or locked. All times are UTC.
    """
    made = {point: points.created_at(point) for point in sorted(set(point_ids), reverse=True)}
    reasons: dict[str, list[str]] = {point: [] for point in made}
    counted = [point for point, at in made.items() if at <= now + SKEW]
    for point in counted[:FLOOR]:
        reasons[point].append("newest")
    for point in [candidate for candidate in counted if candidate not in doubtful][:1]:
        reasons[point].append("newest good")
    for rule, length in keep.periods().items():
        stands: dict[str, str] = {}
        for point in counted:
            period = made[point].astimezone(UTC).strftime(length.pattern)
            if period not in stands or (stands[period] in doubtful and point not in doubtful):
                stands[period] = point
        for point in list(stands.values())[: getattr(keep, rule)]:
            reasons[point].append(rule)
    for point, at in made.items():
        if at > now + SKEW:
            reasons[point].append(FUTURE)
        elif now - at < GRACE:
            reasons[point].append(YOUNG)
        elif now - at < locked:
            reasons[point].append(LOCKED)
        if point in held:
            reasons[point].append(HELD)
    return RetentionPlan(
        {point: tuple(why) for point, why in reasons.items() if why},
        tuple(point for point, why in reasons.items() if not why),
    )


def check_floor(wanted: RetentionPlan) -> None:
    """Raises BackupError for a plan that would leave fewer than FLOOR points."""
    if wanted.prune and len(wanted.keep) < FLOOR:
        raise BackupError(
            f"prune the restore points: only {len(wanted.keep)} of {len(wanted.keep) + len(wanted.prune)} would "
            f"remain, but at least {FLOOR} must",
            "Make the plan with rempart.backup.points.retention.plan. To give up a backup site, empty its bucket "
            "by hand.",
        )


@dataclass(frozen=True)
class DumpSnapshot:
    """A dump in the restic repository of a scope and of one of its keys."""

    scope: str
    serial: str
    id: str


@dataclass(frozen=True)
class Needs:
    """Header of a manifest: its format, what its point needs, and its number of missing references.

    `keys` are in the backup bucket (dumps of the first formats), `snapshots` in the databases' repositories.
    """

    format: int
    databases: int
    dangling: int
    keys: frozenset[str]
    snapshots: frozenset[DumpSnapshot]


def needs(beginning: bytes) -> Needs:
    """Return what a point needs, from the beginning of its manifest, which `begin` separated from the objects.

    This also works for formats that can no longer be restored, because their data stays while the point does. Raises
    ValueError for an invalid manifest or one of a later release.
    """
    try:
        plain = json.loads(beginning)
        if plain["format"] > points.FORMAT:
            raise ValueError("a later release wrote it")
        dumps = plain["databases"]
        stored = [dump for dump in dumps if "key" not in dump]
        return Needs(
            plain["format"],
            len(dumps),
            len(plain.get("dangling", ())),
            frozenset(str(dump["key"]) for dump in dumps if "key" in dump),
            frozenset(
                DumpSnapshot(str(snapshot["scope"]), str(snapshot["serial"]), str(snapshot["snapshot"]))
                for snapshot in stored
            ),
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise ValueError(f"it is not a manifest ({type(cause).__name__})") from cause


def unneeded(stored: Mapping[str, str], needed: Collection[str], standing: Collection[str]) -> tuple[str, ...]:
    """Return the snapshots of a repository (id, point in the tag) that are no longer needed.

    That is: no kept point names it, its own point does not exist, and it is older than LEFTOVER_AGE against the newest
    point there, because a running backup has snapshots and no manifest yet. Snapshots without a point are never
    removed.
    """
    made = {folder: points.created_at(point) for folder, point in stored.items() if _is_id(point)}
    newest = max((points.created_at(point) for point in standing), default=None)
    return tuple(
        sorted(
            folder
            for folder, at in made.items()
            if folder not in needed and stored[folder] not in standing and newest and newest - at > LEFTOVER_AGE
        )
    )


def begin(stream: BinaryIO) -> bytes:
    """Return a manifest as JSON without its objects, of which there may be a hundred thousand. They are its second last
    field.

    In JSON no text can contain the searched mark, because quotes are escaped.
    """
    read = b""
    while chunk := stream.read(_CHUNK):
        read += chunk
        if matched := _OBJECTS.search(read):
            return read[: matched.start()] + b'"objects":[]}'
    return read


@dataclass(frozen=True)
class Folder:
    """Content of a point's prefix, in every version: `bytes`, and the site's time of the `newest` write.

    The manifest is `current` (it is a point), `hidden` under a delete marker, or `none`: not written, or pruned.
    """

    id: str
    bytes: int = 0
    newest: datetime = _LONG_AGO
    manifest: Literal["current", "hidden", "none"] = "none"


def folders(listed: Iterable[ObjectInfo]) -> dict[str, Folder]:
    """Return the folders under `points/` by id, from a listing of all versions (each key's newest first)."""
    found: dict[str, Folder] = {}
    hidden: set[str] = set()
    for info in listed:
        parts = info.key.split("/", 2)
        if len(parts) != 3 or parts[0] != "points" or not _is_id(parts[1]):
            continue  # not ours: never touched
        folder = found.get(parts[1], Folder(parts[1]))
        if parts[2] == MANIFEST and folder.manifest == "none":
            if info.marker:
                hidden.add(folder.id)
            else:
                folder = replace(folder, manifest="hidden" if folder.id in hidden else "current")
        found[folder.id] = replace(folder, bytes=folder.bytes + info.size, newest=max(folder.newest, info.modified))
    return found


def _is_id(text: str) -> bool:
    try:
        return bool(points.created_at(text))
    except (BackupError, ValueError):
        return False


def leftovers(listed_folders: Iterable[Folder]) -> tuple[str, ...]:
    """Return ids of folders that will never be a point, oldest first: leftovers of killed backups and prunes.

    Their age is relative to the newest write by the site's clock, because ours may be wrong. A hidden manifest is no
    leftover: pruning hides nothing, so somebody else hid it.
    """
    known = tuple(listed_folders)
    newest = max((folder.newest for folder in known), default=None)
    return tuple(
        sorted(
            folder.id
            for folder in known
            if newest and folder.manifest == "none" and newest - folder.newest > LEFTOVER_AGE
        )
    )
