"""Objects that are written once, many of them under lock: stored, read back, and read by the SHA-256 on record.

A version under lock cannot be replaced, so a body that a site stored wrong stays. The right bytes are then put as
another version, and readers choose the version by its SHA-256, never by being the newest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing, SiteError, SiteUnavailable
from rempart.sites.digests import copied
from rempart.sites.port import ObjectInfo, Site

TRIES = 3
AT_ONCE = 8 << 20
"""Maximum size in bytes of a file that is written in one request."""
LOOKED_AT = 200
"""Limit of versions of one key that are read, because an attacker may write any number of newer versions."""
MOST_BYTES = 1 << 30
"""Size limit of a version. A larger version is not ours and could fill the memory, so it is not read."""
_LONG_AGO = datetime.fromtimestamp(0, UTC)


def bodies(site: Site, bucket: str, key: str, size: int | None = None) -> Iterator[tuple[ObjectInfo, bytes]]:
    """Yield the versions of a key with their bodies, oldest first: the first is its writer's.

    With `size`, only versions of that many bytes.
    """
    listed = (version for version in site.versions(bucket, key) if version.key == key and not version.marker)
    versions = [version for version in listed if (version.size <= MOST_BYTES if size is None else version.size == size)]
    versions.reverse()
    half = LOOKED_AT // 2
    for version in versions if len(versions) <= LOOKED_AT else [*versions[:half], *versions[-half:]]:
        try:
            yield version, site.fetch(bucket, key, version_id=version.version_id)[1]
        except (ObjectMissing, IntegrityError):  # a damaged version does not hide the others
            continue


def read_named(site: Site, bucket: str, key: str, sha256: str) -> bytes:
    """Return the body with the recorded SHA-256, from whichever version has it.

    Raises ObjectMissing if readers find no version, IntegrityError if no existing version matches, SiteError.
    """
    try:
        return site.read(bucket, key, sha256=sha256)
    except IntegrityError:
        for _, body in bodies(site, bucket, key):
            if hashlib.sha256(body).hexdigest() == sha256:
                return body
        raise


def store_once(
    site: Site,
    bucket: str,
    key: str,
    body: bytes,
    *,
    content_type: str,
    retain_until: datetime | None = None,
) -> ObjectInfo | None:
    """Store a body under a key that only this body uses, read it back and lock it. Return None if another body exists.

    If the answer to the put was lost and the body exists, that is a success. Raises IntegrityError if the site returns
    other bytes, SiteError.
    """
    new, unanswered = False, None
    try:
        new = site.write_new(bucket, key, body, content_type=content_type, retain_until=retain_until)
    except SiteUnavailable as error:
        unanswered = error
    if info := _version(site, bucket, key, body):
        return _locked(site, bucket, info, retain_until)
    if unanswered:
        raise unanswered
    return put_again(site, bucket, key, body, content_type=content_type, retain_until=retain_until) if new else None


def keep(site: Site, bucket: str, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
    """Ensure that readers find this body under its key: write it if missing, read it back, put it again if wrong.

    Raises IntegrityError if the site returns other bytes, SiteError.
    """
    site.write_new(bucket, key, body, metadata=metadata, content_type=content_type)
    if not gives_back(site, bucket, key, body):
        put_again(site, bucket, key, body, metadata=metadata, content_type=content_type)


def keep_file(
    site: Site, bucket: str, key: str, file: Path, sha256: str, *, metadata: Mapping[str, str], content_type: str
) -> None:
    """Ensure that readers find this file under its key, as `keep` does; a large file in constant memory.

    `sha256` is that of the file. Raises IntegrityError if the site returns other bytes, SiteError.
    """
    if file.stat().st_size <= AT_ONCE:
        keep(site, bucket, key, file.read_bytes(), metadata=metadata, content_type=content_type)
    elif not _has(site, bucket, key, sha256):
        put_file(site, bucket, key, file, sha256, metadata=metadata, content_type=content_type)


def put_file(
    site: Site, bucket: str, key: str, file: Path, sha256: str, *, metadata: Mapping[str, str], content_type: str
) -> None:
    """Put a file as the newest version of a key, and read it back. Raises IntegrityError, SiteError."""
    if file.stat().st_size <= AT_ONCE:
        put_again(site, bucket, key, file.read_bytes(), metadata=metadata, content_type=content_type)
        return
    for _ in range(TRIES):
        site.write_file(bucket, key, file, metadata=metadata, content_type=content_type)
        if _has(site, bucket, key, sha256):
            return
    raise _other_bytes(site, bucket, key)


def _has(site: Site, bucket: str, key: str, sha256: str) -> bool:
    try:
        with site.open(bucket, key) as stream:
            return copied(stream) == sha256
    except (ObjectMissing, IntegrityError):
        return False


def put_again(
    site: Site,
    bucket: str,
    key: str,
    body: bytes,
    *,
    content_type: str,
    metadata: Mapping[str, str] | None = None,
    retain_until: datetime | None = None,
) -> ObjectInfo:
    """Put the right bytes as another version of a key, read them back, and lock them.

    If the site stored an unlocked version wrong, that version is deleted, so that readers find the previous version.
    Raises IntegrityError if the site returns other bytes, SiteError.
    """
    for _ in range(TRIES):
        stored = site.write(bucket, key, body, metadata=metadata, content_type=content_type)
        if gives_back(site, bucket, key, body, stored.version_id):
            return _locked(site, bucket, stored, retain_until)
        if retain_until is None and stored.version_id:
            with suppress(SiteError):
                site.delete(bucket, key, version_id=stored.version_id)
    raise _other_bytes(site, bucket, key)


def _other_bytes(site: Site, bucket: str, key: str) -> IntegrityError:
    return IntegrityError(
        f"write {bucket}/{key} at site '{site.name}': in {TRIES} tries it returned other bytes than were written",
        "The object does not count as stored, because the site alters bodies. Use another site, and ask the "
        "operator of this one.",
    )


def gives_back(site: Site, bucket: str, key: str, body: bytes, version_id: str | None = None) -> bool:
    """Return whether a version (default: the newest) equals a body. Raises SiteError."""
    try:
        return site.fetch(bucket, key, version_id=version_id)[1] == body
    except (ObjectMissing, IntegrityError):
        return False


def _version(site: Site, bucket: str, key: str, body: bytes) -> ObjectInfo | None:
    return next((info for info, stored_body in bodies(site, bucket, key, len(body)) if stored_body == body), None)


def _locked(site: Site, bucket: str, info: ObjectInfo, until: datetime | None) -> ObjectInfo:
    """Lock a version. Raises SiteError if no version was made."""
    if until is None:
        return info
    if info.version_id is None:
        raise SiteError(
            f"lock {bucket}/{info.key} at site '{site.name}': the put made no version, so nothing can be locked",
            "Create the bucket with object lock, or set another bucket under `buckets` in rempart.yaml.",
        )
    retained_until = site.retained_until(bucket, info.key, info.version_id) or _LONG_AGO
    if retained_until < until.replace(microsecond=0):
        site.retain(bucket, info.key, info.version_id, until)
    return info
