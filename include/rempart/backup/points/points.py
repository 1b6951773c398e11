"""Read and write restore points at a site: `points/<id>/manifest.json`, written last. Without a manifest there is no
point.

Its dumps are in restic repositories (`backup.databases.stored_dumps`), its objects are replicas and sealed objects
(`backup.points.sealing`); `backup.points.chain` attests it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rempart.backup.databases import not_held
from rempart.backup.databases.not_held import NotHeld
from rempart.backup.points.sealing import SealedObject, as_json, from_json
from rempart.errors import BackupError, IntegrityError
from rempart.ledger.canonical import canonical
from rempart.sites.once import read_named, store_once
from rempart.sites.port import Site

FORMAT = 5
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6,16}")


@dataclass(frozen=True)
class Dump:
    """One database: where its dump is, and what was in it at the dump's moment (rows and digests by `schema.table`).

    It is in the restic repository of an encryption scope and the key `serial` of it; `sha256` and `bytes` are of the
    dump as it comes out.
    """

    name: str
    scope: str
    serial: str
    snapshot: str
    sha256: str
    bytes: int
    tables: Mapping[str, int]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class HeldObject:
    """One object of a restore point: its replica and its sealed form at the backup site.

    `bucket` is the logical name, `version` the replica's.
    """

    bucket: str
    key: str
    size: int
    sha256: str
    version: str | None
    sealed: SealedObject


@dataclass(frozen=True)
class Secrets:
    """The platform's secrets (`backup.keys.platform_secrets`) as they are sealed; SHA-256 and size of what comes
    out."""

    sealed: SealedObject
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """All that is needed to rebuild the platform as it was at `created_at`, when writers were waited for.

    `ledger_head`: number and hash of the newest evidence in its dump. `dangling`: what the dumps refer to and no object
    of the point answers. `barrier_seconds`: how long writers waited while the snapshots were opened. `not_held`: stores
    that the platform uses and the point has no copy of.
    """

    id: str
    created_at: datetime
    source: str
    code_version: str
    config_sha256: str
    databases: tuple[Dump, ...]
    objects: tuple[HeldObject, ...]
    champions: Mapping[str, str]
    ledger_head: tuple[int, str | None]
    dangling: tuple[str, ...]
    barrier_seconds: float
    secrets: Secrets
    not_held: tuple[NotHeld, ...] = ()

    @property
    def consistent(self) -> bool:
        return not self.dangling

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return what the point cannot restore: missing references, and stores that champions need."""
        return (*self.dangling, *(str(store) for store in self.not_held if store.needed_by))

    def database(self, name: str) -> Dump:
        """Return the dump of one database. Raises BackupError."""
        for dump in self.databases:
            if dump.name == name:
                return dump
        raise BackupError(f"restore point {self.id} contains no database '{name}'", "Choose another restore point.")


def new_id(now: datetime, suffix: str) -> str:
    """Return an id that sorts by time: `20250131T235959Z-` and a random suffix of hex digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{suffix}"


def valid_id(point_id: str) -> str:
    """Return the id if valid. Raises BackupError (the id becomes part of keys and names)."""
    if not _ID.fullmatch(point_id):
        raise BackupError(
            f"'{point_id[:60]}' is not a valid id of a restore point",
            "Choose a restore point from `rempart backup list`.",
        )
    return point_id


def created_at(point_id: str) -> datetime:
    """Return the moment in an id, to the second."""
    return datetime.strptime(valid_id(point_id).split("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def prefix(point_id: str) -> str:
    """Return the prefix of a point's objects in the backup bucket."""
    return f"points/{valid_id(point_id)}/"


def encode(manifest: Manifest) -> bytes:
    """Return canonical JSON (RFC 8785): equal manifests give equal bytes."""
    plain = {
        "format": FORMAT,
        **asdict(manifest),
        "created_at": manifest.created_at.isoformat(),
        "objects": [{**obj.__dict__, "sealed": as_json(obj.sealed)} for obj in manifest.objects],
        "not_held": [store.as_json() for store in manifest.not_held],
        "secrets": {**manifest.secrets.__dict__, "sealed": as_json(manifest.secrets.sealed)},
    }
    return (canonical(plain) + "\n").encode()


def decode(body: bytes) -> Manifest:
    """Return a manifest from its bytes. Raises ValueError for invalid bytes or an unknown format."""
    try:
        plain: dict[str, Any] = json.loads(body)
        if plain.pop("format") != FORMAT:
            raise ValueError("it has another format version")
        plain["created_at"] = datetime.fromisoformat(plain["created_at"])
        plain["databases"] = tuple(Dump(**dump) for dump in plain["databases"])
        plain["objects"] = tuple(
            HeldObject(**{**held, "sealed": from_json(held["sealed"])}) for held in plain["objects"]
        )
        plain["secrets"] = Secrets(**{**plain["secrets"], "sealed": from_json(plain["secrets"]["sealed"])})
        plain["ledger_head"], plain["dangling"] = tuple(plain["ledger_head"]), tuple(plain["dangling"])
        plain["not_held"] = tuple(not_held.from_json(store) for store in plain["not_held"])
        return Manifest(**plain)
    except (KeyError, TypeError, AttributeError) as cause:
        raise ValueError(f"it is not a manifest ({type(cause).__name__})") from cause


def write(site: Site, bucket: str, manifest: Manifest, retain_until: datetime | None = None) -> str:
    """Store the manifest under lock, which creates the point, and read it back. Return its SHA-256.

    If the answer was lost and the manifest exists, that is a success. Raises BackupError if the id is taken,
    IntegrityError if the site returns other bytes.
    """
    body = encode(manifest)
    key = f"{prefix(manifest.id)}manifest.json"
    if store_once(site, bucket, key, body, content_type="application/json", retain_until=retain_until) is None:
        raise BackupError(
            f"write restore point {manifest.id}: it already exists at site '{site.name}'", "Run the backup again."
        )
    return hashlib.sha256(body).hexdigest()


def read(site: Site, bucket: str, point_id: str, sha256: str) -> Manifest:
    """Return the manifest with the recorded SHA-256. Raises IntegrityError, ObjectMissing."""
    key = f"{prefix(point_id)}manifest.json"
    body = read_named(site, bucket, key, sha256)
    try:
        manifest = decode(body)
    except ValueError as cause:
        raise IntegrityError(
            f"read {bucket}/{key} at site '{site.name}': {cause}",
            "Choose another restore point, or use the release that wrote it.",
        ) from cause
    if manifest.id != point_id:
        raise IntegrityError(
            f"read {bucket}/{key} at site '{site.name}': it is the manifest of point {manifest.id[:40]}",
            "Choose another restore point.",
        )
    return manifest


def list(site: Site, bucket: str) -> tuple[str, ...]:  # noqa: A001 - read as points.list(...)
    """Return the ids of points with a manifest, newest first."""
    keys = (info.key.split("/") for info in site.list(bucket, "points/") if info.key.endswith("/manifest.json"))
    return tuple(sorted((k[1] for k in keys if len(k) == 3 and _ID.fullmatch(k[1])), reverse=True))
