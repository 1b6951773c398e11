"""Legal holds: `holds/<point id>.json` in the backup bucket. A held restore point is never pruned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from rempart.backup.points import points
from rempart.errors import BackupError, ObjectMissing
from rempart.sites.port import Site

FOLDER = "holds/"


@dataclass(frozen=True)
class Hold:
    """A hold on a restore point: role, reason, and time."""

    who: str
    why: str
    since: datetime | None


UNREADABLE = Hold("not known", "the record of the hold cannot be read", None)


def key_of(point: str) -> str:
    return f"{FOLDER}{points.valid_id(point)}.json"


def encode(hold: Hold) -> bytes:
    plain = {"who": hold.who, "why": hold.why, "since": hold.since and hold.since.isoformat()}
    return (json.dumps(plain, sort_keys=True, ensure_ascii=False) + "\n").encode()


def decode(body: bytes) -> Hold:
    """Return the hold in a record; UNREADABLE for a damaged record, because it may still be intended."""
    try:
        plain = json.loads(body)
        return Hold(str(plain["who"]), str(plain["why"]), datetime.fromisoformat(plain["since"]))
    except (ValueError, KeyError, TypeError):
        return UNREADABLE


def hold(site: Site, bucket: str, point: str, wanted: Hold) -> Hold:
    """Hold a restore point; an existing hold stays as it is. Return the hold.

    Raises BackupError if the point does not exist.
    """
    if point not in points.list(site, bucket):
        raise BackupError(
            f"hold a restore point: site '{site.name}' has no point {points.valid_id(point)}",
            "Choose a restore point from `rempart backup list`.",
        )
    if is_held(site, bucket, point):
        return decode(site.read(bucket, key_of(point)))
    site.write(bucket, key_of(point), encode(wanted), content_type="application/json")
    return wanted


def release(site: Site, bucket: str, point: str) -> None:
    """Release a hold. A missing hold is no error."""
    if is_held(site, bucket, point):
        site.delete(bucket, key_of(point))


def is_held(site: Site, bucket: str, point: str) -> bool:
    try:
        site.head(bucket, key_of(point))
    except ObjectMissing:
        return False
    return True


def held(site: Site, bucket: str) -> dict[str, Hold]:
    """Return every hold at a site, by point id."""
    found = {}
    for info in tuple(site.list(bucket, FOLDER)):
        point = info.key.removeprefix(FOLDER).removesuffix(".json")
        if info.key == f"{FOLDER}{point}.json":
            found[point] = decode(site.read(bucket, info.key))
    return found
