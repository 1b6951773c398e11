"""Store, list and open the files of a WAL archive at a site."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart.backup.keys import age
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.pitr import wal
from rempart.backup.pitr.wal import Archive, Entry
from rempart.backup.points import sealing
from rempart.backup.points.pruning import delete_unless_locked
from rempart.errors import IntegrityError, KeyWrong, LockLapses, ObjectMissing, SiteError
from rempart.sites.digests import file_sha256
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

TYPE = "application/age-encryption"
LIMIT = 1 << 30
"""PostgreSQL makes no segment larger than this."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry as the site lists it: its versions, the newest first. A delete marker hides none of them."""

    entry: Entry
    versions: tuple[ObjectInfo, ...]

    @property
    def bytes(self) -> int:
        return sum(version.size for version in self.versions)


def listed(site: Site, bucket: str, prefix: str = wal.PREFIX) -> list[StoredEntry]:
    """Return every entry under a prefix, by key; objects with other names are ignored. Raises SiteError."""
    versions_of: dict[str, list[ObjectInfo]] = {}
    for info in site.versions(bucket, prefix):
        if info.version_id and not info.marker:
            versions_of.setdefault(info.key, []).append(info)
    entries = []
    for key, versions in sorted(versions_of.items()):
        if entry := wal.parse(key):
            entries.append(StoredEntry(entry, tuple(versions)))
    return entries


def store(
    site: Site,
    bucket: str,
    key: ScopeKey,
    archive: Archive,
    name: str,
    moment: datetime | None,
    stream: age.Reader,
    retain_until: datetime,
) -> Entry:
    """Seal a stream and put it under lock until then; it was read back when this returns.

    The same again makes another version under the same key, which harms nothing. Raises IntegrityError, LockLapses,
    SiteError.
    """
    with spool_folder() as folder:
        file = folder / "sealed.age"
        with file.open("xb") as out:
            sha256, _ = sealing.seal(stream, [key.recipient], out)
        tag = wal.tag_of(key.hash_key, archive, name, moment, sha256)
        entry = Entry(archive, name, moment, tag)
        digest = file_sha256(file)
        stored = site.write_file(bucket, entry.key, file, content_type=TYPE, retain_until=retain_until)
    where = f"{bucket}/{entry.key} at site '{site.name}'"
    if stored.version_id is None:
        raise SiteError(
            f"lock {where}: the put made no version, so nothing can be locked",
            "Create the bucket with object lock, or set another bucket under `buckets` in rempart.yaml.",
        )
    site.read(bucket, entry.key, version_id=stored.version_id, sha256=digest)
    retained_until = site.retained_until(bucket, entry.key, stored.version_id)
    if retained_until is None or retained_until < retain_until.replace(microsecond=0):
        raise LockLapses(
            f"lock {where} until {retain_until:%Y-%m-%d %H:%M} UTC: the site reports a lock until {retained_until}",
            "Give the site's connection the right s3:PutObjectRetention. The file is kept here and tried again.",
        )
    return entry


def open_entry(site: Site, bucket: str, key: ScopeKey, stored: StoredEntry, file: Path) -> int:
    """Open the newest trusted version of an entry into a file, which appears once complete. Return its size.

    Raises IntegrityError if no version matches its name, KeyWrong, ObjectMissing, SiteUnavailable.
    """
    entry, partial_ = stored.entry, file.with_name(f".{file.name}.partial")
    where = f"{bucket}/{entry.key} at site '{site.name}'"
    failure: Exception | None = None
    for version in stored.versions:
        try:
            with site.open(bucket, entry.key, version_id=version.version_id) as body, partial_.open("wb") as out:
                sha256, size = sealing.open_sealed(body, key.identity, out, limit=LIMIT, where=where)
            tag = wal.tag_of(key.hash_key, entry.archive, entry.name, entry.moment, sha256)
            if hmac.compare_digest(tag, entry.tag):
                partial_.replace(file)
                return size
        except (IntegrityError, KeyWrong, ObjectMissing) as error:
            failure = error
        finally:
            partial_.unlink(missing_ok=True)
    raise IntegrityError(
        f"read {where}: it differs from what the platform stored under this name ({len(stored.versions)} versions "
        "were tried)",
        "Somebody altered it, or it is damaged. Choose a moment that does not need it (`rempart pitr status`), "
        "or replace it by your own copy.",
    ) from failure


def delete(site: Site, bucket: str, stored: StoredEntry, now: datetime) -> datetime | None:
    """Delete every version of an entry, the oldest first; until when a lock keeps the first that is locked.

    Raises SiteError when it is refused without a lock.
    """
    for version in reversed(stored.versions):
        if until := delete_unless_locked(site, bucket, version, now):
            return until
    return None
