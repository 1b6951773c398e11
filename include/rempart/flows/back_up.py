"""Write a restore point: every database dumped as of one moment each, every object replicated, the manifest last."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from rempart import __version__
from rempart.backup import points, postgresql
from rempart.config import DATABASES, Config
from rempart.errors import IntegrityError
from rempart.flows.doctor_site import require
from rempart.flows.pairs import BUCKETS, PATIENCE, catalogue, classification_of, physical_bucket
from rempart.flows.platform import Platform
from rempart.flows.reconcile import before_bringing
from rempart.flows.replicate import bring
from rempart.pipeline import load_all
from rempart.replication.active import backup_site, is_open
from rempart.replication.transfer import stored_sha256
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

DIGESTED = ("feast_online", "ledger")
"""Databases whose content, not only its row counts, a drill compares."""


@dataclass(frozen=True)
class RestorePoint:
    """One restore point: `bytes` of its dumps and manifest, how many databases and objects, ISO time of creation."""

    id: str
    bytes: int
    databases: int
    objects: int
    created_at: str


def config_sha256(config: Config) -> str:
    """SHA-256 of the configuration's canonical JSON."""
    plain = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def random_suffix() -> str:
    return secrets.token_hex(4)


def back_up(
    platform: Platform, *, suffix: Callable[[], str] = random_suffix, tools: postgresql.Tools | None = None
) -> RestorePoint:
    """Dump the databases to the backup site, replicate the objects there, and write the manifest that names both.

    While the backup site is itself the active one, restore points go to the other site of its pair.

    The dumps come first: what they refer to was stored before, so the replica that follows holds it. A step that fails
    leaves no manifest, and the previous point stays the newest. Writes evidence of kind `restore-point` with the
    manifest's SHA-256. Raises BackupError, DatabaseUnavailable, SiteError, PlacementDenied, ConfigError, SiteFenced.
    """
    config, source = platform.config, is_open(platform.active()).site
    where = backup_site(config, source)
    site = platform.site(where, classification_of(load_all()), "restore-point", beside=source)
    require(platform, site, "restore points")
    bucket = config.buckets.backups
    tools = tools or postgresql.find_tools()
    began = platform.clock()
    point_id = points.new_id(began, suffix())
    dumps: list[points.Dump] = []
    champions: dict[str, str] = {}
    for name in DATABASES:
        dump, found = _dump(platform, tools, name, site, bucket, point_id)
        dumps.append(dump)
        champions |= found
    before_bringing(platform, source, where)
    bring(platform, source, where, BUCKETS, whenever=True, patience=PATIENCE)
    known = catalogue(platform, source, where)
    held = tuple(
        points.HeldObject(name, replica.key, replica.size, replica.sha256, replica.target_version or None)
        for name in BUCKETS
        for replica in known.current(physical_bucket(config, name))
    )
    manifest = points.Manifest(
        point_id, began, source, __version__, config_sha256(config), tuple(dumps), held, champions
    )
    digest = points.write(site, bucket, manifest)
    point = RestorePoint(
        point_id,
        sum(dump.bytes for dump in dumps) + len(points.encode(manifest)),
        len(dumps),
        len(held),
        began.isoformat(),
    )
    platform.ledger.append(
        "restore-point",
        point_id,
        {
            "site": site.name,
            "manifest_sha256": digest,
            "created_at": point.created_at,
            "seconds": round((platform.clock() - began).total_seconds(), 3),
            "bytes": point.bytes,
            "databases": {dump.name: dump.sha256 for dump in dumps},
            "objects": point.objects,
            "object_bytes": sum(one.size for one in held),
            "champions": champions,
        },
    )
    return point


def _dump(
    platform: Platform, tools: postgresql.Tools, name: str, site: Site, bucket: str, point_id: str
) -> tuple[points.Dump, dict[str, str]]:
    """Dump one database and store it, read back; and the champions that it knows, if it is MLflow's."""
    connection = postgresql.for_database(platform.database("backup"), name)
    key = f"{points.prefix(point_id)}{name}.dump"
    with spool_folder() as folder:
        file = folder / f"{name}.dump"
        with postgresql.frozen(connection) as (session, snapshot):
            postgresql.check_versions(tools, session)
            rows = postgresql.row_counts(session)
            digests = postgresql.digests(session) if name in DIGESTED else {}
            champions = postgresql.champions(session) if name == "mlflow" else {}
            postgresql.dump(tools, connection, snapshot, len(rows), file)
        size = file.stat().st_size
        stored = site.write_file(bucket, key, file)
    if stored.sha256 is None or stored_sha256(site, bucket, key, version_id=stored.version_id) != stored.sha256:
        raise IntegrityError(
            f"read back {bucket}/{key} at site '{site.name}': it is not what was stored",
            "No restore point was written. Run again; if it lasts, ask the site's operator.",
        )
    return points.Dump(name, key, stored.sha256, size, rows, digests), champions
