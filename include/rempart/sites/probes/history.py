"""Probe what a bucket keeps: versions, delete markers, effective locks, and reported locks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.sites.probes.scratch import LOCKED_FOR, Absent, FalseClaim, Scratch, busy, proves


@proves("versions")
def versions(at: Scratch) -> str:
    if not at.versioned:
        raise Absent("the bucket keeps no versions")
    first = at.put("kept", b"first").get("VersionId")
    second = at.put("kept", b"second").get("VersionId")
    if not first or not second or first == second:
        raise FalseClaim("versions are switched on, but two writes did not make two versions")
    if at.get("kept", VersionId=first) != b"first" or at.get("kept") != b"second":
        raise FalseClaim("an overwritten body cannot be read by its version")
    listed = [(version["VersionId"], version["IsLatest"]) for version in at.versions("kept").get("Versions", ())]
    if listed != [(second, True), (first, False)]:
        raise FalseClaim("the versions of one key are not listed from newest to oldest")
    return "an overwritten body can be read by its version; both versions are listed, newest first"


@proves("delete markers")
def delete_markers(at: Scratch) -> str:
    if not at.versioned:
        raise Absent("the bucket keeps no versions")
    version = at.put("hidden", b"still here")["VersionId"]
    at.delete("hidden")
    markers = at.versions("hidden").get("DeleteMarkers", ())
    if at.is_there("hidden") or at.names("hidden") or len(markers) != 1:
        raise FalseClaim("a delete made no marker, or the object is still shown")
    if at.get("hidden", VersionId=version) != b"still here":
        raise FalseClaim("a deleted body cannot be read by its version")
    at.delete("hidden", VersionId=markers[0]["VersionId"])
    if at.get("hidden") != b"still here":
        raise FalseClaim("the delete marker was removed, and the object is still hidden")
    return "a delete hides the object and keeps its versions; without the delete marker the object is shown again"


@proves("object lock")
def object_lock(at: Scratch) -> str:
    """Attack a version under a compliance lock in five ways."""
    from botocore.exceptions import ClientError

    if not at.locks:
        raise Absent("the bucket was made without object lock, or the site has none")
    until = datetime.now(UTC) + LOCKED_FOR
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    kept = at.put("locked", b"evidence", ContentMD5=_md5(b"evidence"), **lock)  # S3 wants a checksum on what is locked
    version = kept["VersionId"]
    where: dict[str, Any] = {"Bucket": at.bucket, "Key": at.key("locked"), "VersionId": version}

    def retain(mode: str, moment: datetime, **extra: Any) -> Any:
        wanted = {"Mode": mode, "RetainUntilDate": moment}
        return at.client.put_object_retention(**where, Retention=wanted, **extra)

    def suspend() -> Any:
        return at.client.put_bucket_versioning(Bucket=at.bucket, VersioningConfiguration={"Status": "Suspended"})

    soon = datetime.now(UTC) + timedelta(seconds=1)
    attacks: dict[str, Callable[[], Any]] = {
        "delete": lambda: at.client.delete_object(**where),
        "a shorter retention": lambda: retain("COMPLIANCE", soon),
        "a weaker mode": lambda: retain("GOVERNANCE", until),
        "bypass": lambda: at.client.delete_object(**where, BypassGovernanceRetention=True),
        "versioning off": suspend,
    }
    fell = []
    for name, attack in attacks.items():
        try:
            attack()
            fell.append(name)
        except ClientError as error:
            if busy(error):
                raise
    if "versioning off" in fell:
        at.client.put_bucket_versioning(Bucket=at.bucket, VersioningConfiguration={"Status": "Enabled"})
    try:
        stands = at.get("locked", VersionId=version) == b"evidence"
    except FalseClaim:
        stands = False
    except ClientError as error:
        if busy(error):
            raise
        stands = False
    if fell or not stands:
        outcome = f"accepted: {', '.join(fell)}" if fell else "every attack was refused"
        raise FalseClaim(f"{outcome}; the locked version {'stands' if stands else 'IS GONE'}")
    return f"the locked version survived {len(attacks)} attacks: {', '.join(attacks)}"


@proves("retention told")
def retention_told(at: Scratch) -> str:
    """Probe what the site reports about a lock and its extension; evidence and restore points read both."""
    if not at.locks:
        raise Absent("the bucket was made without object lock, or the site has none")
    until = (datetime.now(UTC) + LOCKED_FOR).replace(microsecond=0)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = at.put("locked-and-told", b"evidence", ContentMD5=_md5(b"evidence"), **lock).get("VersionId")
    if not version:
        raise FalseClaim("a write to a bucket with versions returned no version")
    where: dict[str, Any] = {"Bucket": at.bucket, "Key": at.key("locked-and-told"), "VersionId": version}
    for what, end in (("set", until), ("extended", until + timedelta(seconds=10))):
        if what == "extended":
            wanted = {"Mode": "COMPLIANCE", "RetainUntilDate": end}
            at.client.put_object_retention(**where, Retention=wanted)
        retention = at.client.get_object_retention(**where).get("Retention", {})
        ends = retention.get("RetainUntilDate")
        if retention.get("Mode") != "COMPLIANCE" or ends is None or abs(ends - end) > timedelta(seconds=1):
            raise FalseClaim(
                f"a lock that was {what} until {end:%H:%M:%S} is reported as {retention.get('Mode')} until {ends}"
            )
    return "mode and end of a lock are returned as set and as extended"


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
