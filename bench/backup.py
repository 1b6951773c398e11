"""Back up and restore a database through restic, beside plain pg_dump and pg_restore; measure a manifest's cost.

make bench BENCH=backup        ARGS="--megabytes 100" for a smaller database

The database holds half random and half repetitive text. It runs on a PostgreSQL and a SeaweedFS site of the bench's
own, on the same disk as the peer's files. Our backup is encrypted, stored at the site, and read back completely before
it counts. The peer is `pg_dump --format=custom` into a file, which is neither encrypted nor read back, and `pg_restore`
of that file. Bytes are the bytes that each side adds: the growth of the bucket, and the file. Between the second and
the third backup, one row in a hundred is updated, spread over the table. After each backup, all new objects of the
repository are locked. The manifest is a manifest of that many objects, written as JSON and read again.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.report import Row, write
from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import StoredDump, dump_into, restore_from
from rempart.backup.points import points
from rempart.backup.points.sealing import SealedObject
from rempart.cli import rendering
from rempart.flows.backup import locks
from rempart.flows.backup.point_store import store_at
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.port import Site
from tests.integration.own_servers import own_servers

SITE, NAME, COPY = "haven", "drill_bench", "drill_bench_copy"
ROW_BYTES = 270
PEER, PEER_BACK = "pg_dump -Fc to a file", "pg_restore"
CODE = "import sys; from bench.backup import manifest; manifest(int(sys.argv[1]))"


class Clock:
    """Lines with the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def tell(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {line}", flush=True)


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = act()
    return time.perf_counter() - began, found


def create(owner: Connection, name: str) -> Connection:
    """A new, empty database of an ordinary role."""
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return postgresql.for_database(owner, name)


def fill(database: Connection, megabytes: int) -> int:
    """Rows of about ROW_BYTES; how large the database then is."""
    rows = megabytes * 1_000_000 // ROW_BYTES
    with psycopg.connect(database.postgresql_url(), autocommit=True) as session:
        session.execute("CREATE TABLE stay (id bigint PRIMARY KEY, code text, note text, paid numeric)")
        session.execute(
            "INSERT INTO stay SELECT n, md5(n::text) || md5((n * 7)::text) || md5((n * 13)::text),"
            " repeat('the guest asked for a quiet room ', 3), n * 1.5 FROM generate_series(1, %s) n",
            [rows],
        )
        session.execute("VACUUM (ANALYZE) stay")
        found = session.execute("SELECT pg_database_size(current_database())").fetchone()
    assert found is not None
    return int(found[0])


def ours(repository: Repository, database: Connection) -> StoredDump:
    with postgresql.frozen(database) as (_, snapshot):
        return dump_into(postgresql.find_tools(), repository, database, snapshot, 1)


def theirs(database: Connection, file: Path) -> int:
    program = postgresql.find_tools().folder / "pg_dump"
    subprocess.run(
        [program, "--format=custom", "--no-password", f"--file={file}"],
        env=postgresql.libpq_environment(database),
        check=True,
    )
    return file.stat().st_size


def their_restore(database: Connection, file: Path) -> None:
    program = postgresql.find_tools().folder / "pg_restore"
    subprocess.run(
        [program, "--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={database.schema}", file],
        env=postgresql.libpq_environment(database),
        check=True,
    )


def stored(site: Site, bucket: str) -> int:
    return sum(info.size for info in site.list(bucket))


def backups(platform: Platform, folder: Path, megabytes: int, clock: Clock) -> tuple[list[Row], dict[str, Any]]:
    """Full, unchanged and one row in a hundred changed; then the last of them restored."""
    owner, site, bucket = platform.database("drill"), platform.site(SITE, "public"), f"bench-{secrets.token_hex(4)}"
    site.ensure_bucket(bucket, versioned=True, locked=True)
    buckets = platform.config.buckets.model_copy(update={"backups": bucket})
    locking = replace(platform, config=platform.config.model_copy(update={"buckets": buckets}))
    place = platform.config.sites[SITE]
    connection = platform.connections(place.connection)
    repository = Repository(SITE, connection, place.region, bucket, "restic/bench/0001", secrets.token_hex(16))
    database = create(owner, NAME)
    size = fill(database, megabytes)
    clock.tell(f"the database is there: {size:,} bytes")
    repository.init_if_missing()
    rows: list[Row] = []
    figures: dict[str, Any] = {"database_bytes": size}
    last, before = None, stored(site, bucket)
    for number, case in enumerate(("full", "unchanged", "1 % changed")):
        if number == 2:
            with psycopg.connect(database.postgresql_url(), autocommit=True) as session:
                session.execute("UPDATE stay SET paid = paid + 1 WHERE id % 100 = 0")
        file = folder / f"{number}.dump"
        peer, peer_bytes = timed(partial(theirs, database, file))
        seconds, last = timed(lambda: ours(repository, database))
        added, before = stored(site, bucket) - before, stored(site, bucket)
        rows.append(Row(f"{case}: backup, read back", "s", seconds, peer, PEER, "lower"))
        rows.append(Row(f"{case}: bytes added", "MB", added / 1e6, peer_bytes / 1e6, PEER, "lower"))
        figures[f"{case}: seconds before it is read back"] = round(last.seconds, 1)
        took, extended = timed(lambda: locks.extend(store_at(locking, site), None))
        figures[f"{case}: locks set"], figures[f"{case}: seconds for them"] = extended.set, round(took, 2)
        clock.tell(f"{case}: {seconds:.1f} s beside {peer:.1f} s; {added:,} bytes beside {peer_bytes:,}")
    assert last is not None
    tools, snapshot = postgresql.find_tools(), last.snapshot
    copy = create(owner, COPY)
    peer, _ = timed(lambda: their_restore(copy, folder / "2.dump"))
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as session:
        postgresql.drop_database(session, COPY)
    copy = create(owner, COPY)
    seconds, _ = timed(lambda: restore_from(tools, repository, snapshot, copy, database=NAME, sha256=last.sha256))
    rows.append(Row("restore", "s", seconds, peer, PEER_BACK, "lower"))
    with postgresql.session(copy, "compare") as copied, postgresql.session(database, "compare") as other:
        assert postgresql.digests(copied) == postgresql.digests(other)
    clock.tell(f"restored and equal: {seconds:.1f} s beside {peer:.1f} s")
    return rows, figures


def manifest(objects: int) -> None:
    """Prints seconds to write and to read a manifest, its bytes, and this process's peak memory before and after."""
    now, scope = datetime(2026, 1, 1, tzinfo=UTC), "dataset-bookings-395d"

    def held(number: int) -> points.HeldObject:
        name = hashlib.sha256(str(number).encode()).hexdigest()
        sealed = SealedObject(scope, "0001", f"sealed/{scope}/{name[:2]}/{name}.age", f"v{number}", name, 900, now)
        return points.HeldObject("lake", f"snapshots/bookings/{name}.parquet", 1000, name, f"v{number}", sealed)

    whole = tuple(held(number) for number in range(objects))
    secret = points.Secrets(whole[0].sealed, "0" * 64, 10)
    name = points.new_id(now, "abcdef")
    made = points.Manifest(name, now, "primary", "0", "c" * 64, (), whole, {}, (1, None), (), 0.1, secret)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writing, body = timed(lambda: points.encode(made))
    reading, again = timed(lambda: points.decode(body))
    assert again == made
    print(writing, reading, len(body), before * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@rendering.on_terminal()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the database, about")
    parser.add_argument("--objects", type=int, default=100_000, help="of the manifest")
    chosen = parser.parse_args()
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as name,
        own_servers(Path(name) / "var", ("postgresql", f"site-{SITE}")) as servers,
    ):
        platform = Platform(config.load(), servers.connections)
        rows, figures = backups(platform, Path(name), chosen.megabytes, clock)
    told = subprocess.run(
        [sys.executable, "-c", CODE, str(chosen.objects)], capture_output=True, text=True, check=True
    ).stdout.split()
    writing, reading, size, before, after = map(float, told)
    figures["manifest"] = {
        "objects": chosen.objects,
        "seconds_to_write": round(writing, 2),
        "seconds_to_read": round(reading, 2),
        "bytes": int(size),
        "memory_mb": round((after - before) / 1e6, 1),
    }
    clock.tell(f"a manifest of {chosen.objects:,} objects: {figures['manifest']}")
    write("backup", rows, at=datetime.now(UTC).isoformat(timespec="seconds"), **figures)


if __name__ == "__main__":
    main()
