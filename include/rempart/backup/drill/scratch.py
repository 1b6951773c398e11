"""Manage the scratch space of a drill: databases, a bucket and a server that exist only while it runs.

A drill records at the backup site what it will create, so that the next drill removes leftovers of a killed one. One
drill runs at a time, so everything recorded at its start is a leftover.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.drill.tracking_server import end_marked
from rempart.backup.points.points import HeldObject
from rempart.errors import BackupError, IntegrityError, ObjectMissing
from rempart.settings.config import Connection
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

_LOCK = 7_216_504_181  # any constant: the advisory lock that a running drill holds
_CHUNK = 1 << 20
WORKERS = 8


@dataclass(frozen=True)
class Scratch:
    """Names of one drill's scratch space."""

    id: str
    bucket: str
    databases: tuple[str, ...]

    def database(self, name: str) -> str:
        """Return the scratch database that replaces a platform database."""
        return f"drill_{self.id.replace('-', '_')}_{name}"


def name_scratch(now: datetime, suffix: str, databases: Iterable[str]) -> Scratch:
    """Return scratch names with the drill's time and a random suffix of hex digits."""
    drill_id = f"{now.astimezone(UTC):%Y%m%dt%H%M%S}-{suffix}"
    names = Scratch(drill_id, f"drill-{drill_id}", ())
    return Scratch(drill_id, names.bucket, tuple(names.database(name) for name in databases))


@contextmanager
def only_drill(connection: Connection) -> Iterator[None]:
    """Hold the right to drill; PostgreSQL gives it back if this process dies. Raises BackupError when another runs."""
    with postgresql.session(connection, "begin a drill") as opened:
        row = opened.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        if not (row and row[0]):
            raise BackupError(
                "Another drill is running on this PostgreSQL server", "Wait until it has ended, then run again."
            )
        yield


def _record_key(drill_id: str) -> str:
    return f"drills/{drill_id}.json"


def prepare(site: Site, backups: str, connection: Connection, scratch: Scratch) -> None:
    """Record the scratch space, then create its bucket and its databases, which only the drill's role may enter."""
    plain = {"id": scratch.id, "bucket": scratch.bucket, "databases": list(scratch.databases)}
    site.write(backups, _record_key(scratch.id), json.dumps(plain).encode(), content_type="application/json")
    site.ensure_bucket(scratch.bucket, versioned=False)
    with postgresql.session(connection, "create scratch databases") as opened:
        for name in scratch.databases:
            database = sql.Identifier(name)
            opened.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(database))
            opened.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def leftovers(site: Site, backups: str) -> tuple[Scratch, ...]:
    """Return recorded scratch space that was never removed. Raises IntegrityError for an unreadable record."""
    found = []
    for info in tuple(site.list(backups, "drills/")):
        try:
            plain = json.loads(site.read(backups, info.key))
            scratch = Scratch(str(plain["id"]), str(plain["bucket"]), tuple(str(name) for name in plain["databases"]))
        except (ValueError, KeyError, TypeError) as cause:
            raise IntegrityError(
                f"{backups}/{info.key} at site '{site.name}' is no record of a drill's scratch space",
                "Remove scratch databases and buckets named drill… by hand, then delete this object.",
            ) from cause
        safe = scratch.bucket.startswith("drill-") and all(name.startswith("drill_") for name in scratch.databases)
        if not safe or info.key != _record_key(scratch.id):
            raise IntegrityError(
                f"{backups}/{info.key} at site '{site.name}' names what no drill creates: nothing was removed",
                "Find out who wrote it, then delete this object.",
            )
        found.append(scratch)
    return tuple(found)


def remove(site: Site, backups: str, connection: Connection, scratch: Scratch) -> None:
    """Remove a drill's server, databases, bucket and record, whichever of them exist."""
    end_marked(scratch.id)
    with postgresql.session(connection, "drop scratch databases") as opened:
        for name in scratch.databases:
            postgresql.drop_database(opened, name)
    with _ignoring_missing():
        site.drop_bucket(scratch.bucket)
    site.delete(backups, _record_key(scratch.id))


@contextmanager
def _ignoring_missing() -> Iterator[None]:
    try:
        yield
    except ObjectMissing:
        return


def fetch(site: Site, bucket: str, key: str, sha256: str, file: Path, *, version_id: str | None = None) -> None:
    """Bring an object into a file, checked. Raises IntegrityError, ObjectMissing."""
    digest = hashlib.sha256()
    with site.open(bucket, key, version_id=version_id) as stream, file.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != sha256:
        raise IntegrityError(
            f"{bucket}/{key} at site '{site.name}': SHA-256 {digest.hexdigest()[:12]}…, on record {sha256[:12]}…",
            "Do not use this restore point; choose another, and find out what altered the object.",
        )


def restore_objects(
    site: Site, held_objects: Iterable[HeldObject], physical: Callable[[str], str], target_bucket: str
) -> tuple[int, int]:
    """Copy objects of a point, each in the version on record and checked, into a bucket; how many and their bytes."""

    def restore_one(number: int, held_object: HeldObject, folder: Path) -> int:
        file = folder / str(number)
        fetch(
            site,
            physical(held_object.bucket),
            held_object.key,
            held_object.sha256,
            file,
            version_id=held_object.version,
        )
        site.write_file(target_bucket, held_object.key, file)
        file.unlink()
        return held_object.size

    with spool_folder() as folder, ThreadPoolExecutor(WORKERS, thread_name_prefix="drill") as pool:
        sizes = [
            size.result() for size in [pool.submit(restore_one, n, item, folder) for n, item in enumerate(held_objects)]
        ]
    return len(sizes), sum(sizes)
