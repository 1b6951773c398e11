"""Probes of what a bucket keeps: versions, delete markers, locks that withstand, and deletes of many at once."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.sites.probes.scratch import LOCKED_FOR, Absent, Lie, Scratch, code, status


def versions(at: Scratch) -> str:
    if not at.versioned:
        raise Absent("the bucket keeps no versions")
    first = at.put("kept", b"first").get("VersionId")
    second = at.put("kept", b"second").get("VersionId")
    if not first or not second or first == second:
        raise Lie("versions are switched on, and two writes have no version each")
    if at.get("kept", VersionId=first) != b"first" or at.get("kept") != b"second":
        raise Lie("an overwritten body cannot be read by its version")
    listed = [(one["VersionId"], one["IsLatest"]) for one in at.versions("kept").get("Versions", ())]
    if listed != [(second, True), (first, False)]:
        raise Lie("the versions of one key are not listed from the newest to the oldest")
    return "an overwritten body is read by its version, and both are listed, newest first"


def delete_markers(at: Scratch) -> str:
    if not at.versioned:
        raise Absent("the bucket keeps no versions")
    version = at.put("hidden", b"still here")["VersionId"]
    at.delete("hidden")
    markers = at.versions("hidden").get("DeleteMarkers", ())
    if at.is_there("hidden") or at.names("hidden") or len(markers) != 1:
        raise Lie("a delete left no marker, or does not hide")
    if at.get("hidden", VersionId=version) != b"still here":
        raise Lie("a deleted body cannot be read by its version")
    at.delete("hidden", VersionId=markers[0]["VersionId"])
    if at.get("hidden") != b"still here":
        raise Lie("the marker was deleted, and the object is not shown again")
    return "a delete hides and keeps; without its marker the object is back"


def object_lock(at: Scratch) -> str:
    """Five attacks on a version under a compliance lock."""
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
        "a shorter time": lambda: retain("COMPLIANCE", soon),
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
            if status(error) >= 500:
                raise
    if "versioning off" in fell:
        at.client.put_bucket_versioning(Bucket=at.bucket, VersioningConfiguration={"Status": "Enabled"})
    try:
        stands = at.get("locked", VersionId=version) == b"evidence"
    except ClientError:
        stands = False
    if fell or not stands:
        said = f"accepted: {', '.join(fell)}" if fell else "every attack was refused"
        raise Lie(f"{said}; the locked version {'stands' if stands else 'IS GONE'}")
    return f"withstood {len(attacks)} attacks: {', '.join(attacks)}"


def bulk_delete(at: Scratch) -> str:
    from botocore.exceptions import ClientError

    for name in ("bulk/1", "bulk/2", "bulk/3"):
        at.put(name, b"x")
    named = {"Objects": [{"Key": at.key("bulk/1")}, {"Key": at.key("bulk/3")}], "Quiet": False}
    how = ""
    try:
        answer = at.client.delete_objects(Bucket=at.bucket, Delete=named)
    except ClientError as error:
        if code(error) not in ("MissingContentMD5", "InvalidRequest", "InvalidDigest"):
            raise
        how = "; it wants Content-MD5"
        answer = _with_md5(at, named)
    if errors := answer.get("Errors"):
        raise Absent(f"refused for {len(errors)} of 2 keys ({errors[0].get('Code')})")
    if (left := at.names("bulk/")) != ["bulk/2"]:
        raise Lie(f"two of three keys were deleted by name, and {len(left)} are left")
    return f"deletes what it names, and nothing else{how}"


def _with_md5(at: Scratch, named: dict[str, Any]) -> Any:
    def add(request: Any, **_: Any) -> None:
        request.headers["Content-MD5"] = _md5(request.body)

    events, name = at.client.meta.events, "before-sign.s3.DeleteObjects"
    events.register(name, add, unique_id="rempart-md5")
    try:
        return at.client.delete_objects(Bucket=at.bucket, Delete=named)
    finally:
        events.unregister(name, unique_id="rempart-md5")


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
