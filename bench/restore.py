"""Measure restores of growing size: objects and databases, each at a tenth and in full, beside standard tools.

make bench BENCH=restore        ARGS="--only databases", or objects: half an hour in all; ARGS="--scale 0.01" for a
trial

Objects of 10 KiB are replicas at one SeaweedFS site. The restore copies them to another site and compares each with its
recorded SHA-256 before and after. The peer is `rclone copy`, which compares nothing afterwards. At a tenth, the objects
are also restored from their sealed forms, as if no replica were left. Two databases of the same size are restored from
their encrypted repositories at the site, in parallel, into new databases, and their rows are counted. The peer is
`pg_restore` of plain files, one after the other, which counts nothing. All servers share the machine's cores and disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from bench.backup import NAME, Clock, create, fill, ours, their_restore, theirs, timed
from bench.replication import Bench, named
from bench.report import Row, write
from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import restore_from
from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points.object_sources import ObjectSources
from rempart.backup.points.points import HeldObject
from rempart.backup.points.sealing import Original, SealedObject
from rempart.cli import rendering
from rempart.flows.backup.seal import seal_objects
from rempart.flows.doctor import doctor_site
from rempart.flows.restore.restore_objects import Bringer
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.sites.port import Site
from tests.integration.own_servers import Servers, own_servers

SOURCE, TARGET = "haven", "primary"
SIZE = 10 << 10
OBJECTS, MEGABYTES = 100_000, 5_000
WRITERS = 8
RCLONE, PG_RESTORE = "rclone copy, unverified", "pg_restore of plain files"
COPY = ("copy", "--transfers", "16", "--checksum")
SCOPE = EncryptionScope("dataset", "bench", "30d")
NO_SEALED_FORM = SealedObject(SCOPE.id, "0001", "none", "none", "0" * 64, 0, datetime(2000, 1, 1, tzinfo=UTC))


@dataclass
class Stage:
    """The two sites, the server, and rclone between them."""

    servers: Servers
    platform: Platform
    folder: Path
    clock: Clock

    def site(self, name: str) -> Site:
        return self.platform.site(name, "public")

    def rclone(self, source: str, target: str) -> float:
        bench = Bench(self.servers, self.platform, self.folder, None, 0.0)  # type: ignore[arg-type] # draws no sample
        return bench.rclone(COPY, source, target, (SOURCE, TARGET)).seconds


def seeded(site: Site, bucket: str, count: int) -> tuple[HeldObject, ...]:
    """Write random bodies to the site. Return them as a restore point names them."""

    def put(key: str) -> HeldObject:
        body = os.urandom(SIZE)
        stored = site.write(bucket, key, body)
        digest = hashlib.sha256(body).hexdigest()
        return HeldObject("lake", key, SIZE, digest, stored.version_id, NO_SEALED_FORM)

    site.ensure_bucket(bucket, versioned=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        return tuple(pool.map(put, named(count)))


def objects(stage: Stage, count: int, *, sealed: bool) -> tuple[list[Row], dict[str, float]]:
    """Restore this many objects from their replicas and, if asked, from their sealed forms."""
    source, target, bucket = stage.site(SOURCE), stage.site(TARGET), f"bench-{count}"
    held = seeded(source, bucket, count)
    stage.clock.tell(f"{count:,} objects are at '{SOURCE}'")
    ring = Keyring((KeyPlace(source, "backups"), KeyPlace(target, "backups")), age.new_identity(), (), now)
    buckets = stage.platform.config.buckets.model_copy(update={"lake": bucket})
    platform = replace(stage.platform, config=stage.platform.config.model_copy(update={"buckets": buckets}))
    peer_bucket = f"{bucket}-peer"
    target.ensure_bucket(peer_bucket, versioned=True)
    peer = stage.rclone(bucket, peer_bucket)
    copies = ObjectSources(
        source, "backups", lambda name: bucket, lambda sealed_object: ring.open(SCOPE, sealed_object.serial)
    )
    seconds, brought = timed(lambda: Bringer(copies, target, lambda name: bucket).bring(held))
    assert brought.served == {"replica": count}, brought
    case = f"{count:,} objects of 10 KiB"
    rows = [Row(f"{case}, from replicas", "s", seconds, peer, RCLONE, "lower")]
    stage.clock.tell(f"{case}: {seconds:.1f} s beside {peer:.1f} s")
    figures = {f"{case}, seconds": round(seconds, 1)}
    if sealed:
        originals = [Original(info.bucket, info.key, info.version, info.sha256, info.size, SCOPE) for info in held]
        took, forms = timed(
            lambda: seal_objects(
                platform.ledger, platform.config, ring, source, originals, source, now() + timedelta(days=1)
            )
        )
        # replicas at the site no longer count: only the sealed forms are on record
        lost = tuple(
            HeldObject(info.bucket, f"sealed/{info.key}", info.size, info.sha256, None, form)
            for info, form in zip(held, forms, strict=True)
        )
        seconds, brought = timed(lambda: Bringer(copies, target, lambda name: bucket).bring(lost))
        assert brought.served == {"sealed": count}, brought
        rows.append(Row(f"{case}, from sealed forms", "s", seconds, peer, RCLONE, "lower"))
        figures |= {f"{case}, seconds to seal": round(took, 1)}
        stage.clock.tell(f"{case}, from sealed forms: {seconds:.1f} s; to seal them took {took:.1f} s")
    return rows, figures


def databases(stage: Stage, megabytes: int) -> tuple[list[Row], dict[str, float]]:
    """Restore two databases that together have about this size."""
    owner, site, bucket = stage.platform.database("drill"), stage.site(SOURCE), f"bench-{secrets.token_hex(4)}"
    site.ensure_bucket(bucket, versioned=True)
    place = stage.platform.config.sites[SOURCE]
    tools, made = postgresql.find_tools(), []
    for number in range(2):
        database = create(owner, f"{NAME}_{number}")
        fill(database, megabytes // 2)
        connection = stage.platform.connections(place.connection)
        prefix = f"restic/bench/{number:04}"
        repository = Repository(SOURCE, connection, place.region, bucket, prefix, secrets.token_hex(16))
        repository.init_if_missing()
        file = stage.folder / f"{megabytes}-{number}.dump"
        theirs(database, file)
        made.append((number, database, repository, ours(repository, database), file))
        stage.clock.tell(f"database {number + 1} of {megabytes // 2} MB is dumped both ways")

    def restored(task: Any) -> None:
        number, database, repository, dump, _ = task
        copy = create(owner, f"{NAME}_{number}_ours")
        restore_from(tools, repository, dump.snapshot, copy, database=database.schema, sha256=dump.sha256)
        with postgresql.session(copy, "compare") as here, postgresql.session(database, "compare") as there:
            assert postgresql.row_counts(here) == postgresql.row_counts(there)

    def all_restored() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(restored, made))

    def peers() -> None:
        for number, _, _, _, file in made:
            their_restore(create(owner, f"{NAME}_{number}_peer"), file)

    peer, _ = timed(peers)
    seconds, _ = timed(all_restored)
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as session:
        for number in range(2):
            for suffix in ("", "_ours", "_peer"):
                postgresql.drop_database(session, f"{NAME}_{number}{suffix}")
    for *_, file in made:
        file.unlink()
    stage.clock.tell(f"databases of {megabytes:,} MB: {seconds:.1f} s beside {peer:.1f} s")
    case = f"databases of {megabytes:,} MB"
    return [Row(case, "s", seconds, peer, PG_RESTORE, "lower")], {f"{case}, seconds": round(seconds, 1)}


def now() -> datetime:
    return datetime.now(UTC)


@rendering.on_terminal()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of all counts and sizes, to try the bench")
    parser.add_argument("--only", choices=("objects", "databases"), help="one of the two halves")
    chosen = parser.parse_args()
    scale, halves = chosen.scale, [chosen.only] if chosen.only else ["objects", "databases"]
    count, megabytes = max(100, round(OBJECTS * scale)), max(40, round(MEGABYTES * scale))
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=config.var_dir()) as name,
        own_servers(Path(name) / "var", ("postgresql", f"site-{SOURCE}", f"site-{TARGET}")) as servers,
    ):
        stage = Stage(servers, Platform(config.load(), servers.connections), Path(name), Clock())
        for site in (SOURCE, TARGET):
            doctor_site.probe(stage.platform, stage.site(site))
            stage.site(site).ensure_bucket("backups", versioned=True, locked=True)
        growth = {}
        for half in halves:
            if half == "objects":
                tenth, whole = objects(stage, count // 10, sealed=True), objects(stage, count, sealed=False)
            else:
                tenth, whole = databases(stage, megabytes // 10), databases(stage, megabytes)
            for found, more in (tenth, whole):
                rows += found
                figures |= more
            growth[half] = round(whole[0][0].ours / tenth[0][0].ours, 1)
    print(f"ten times as much takes so many times as long: {growth}")
    write(
        "-".join(["restore", *([chosen.only] if chosen.only else []), *(["scaled"] if scale != 1 else [])]),
        rows,
        scale=scale,
        growth=growth,
        at=now().isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began),
        **figures,
    )


if __name__ == "__main__":
    main()
