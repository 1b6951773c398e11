"""Every kind of source on real servers, killed by SIGKILL at random points while its rows change.

The points are drawn with a fixed seed, among the effects that a whole run has: requests to the site, statements and
rows of a database, requests and blocks of a service. So a failure comes again.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psycopg
import pyarrow.parquet as pq
import pytest

from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection
from rempart.sites.port import Site
from tests import killed_ingestion, mariadb_server
from tests.faults import killed_places as places
from tests.integration.own_servers import Servers, own_servers
from tests.killed_ingestion import Job, Point, Runner

ROUNDS = int(os.environ.get("REMPART_TEST_ROUNDS") or 1)
KILLS = 4
"""Attempts that are killed in each round, with a change before each: one at any effect, the others at a write."""
QUIET = 12
"""Runs by which an extraction in parts has ended."""
SERVICES = ("postgresql", "site-primary", "site-haven")
NAMES = ("s3_primary", "s3_haven", "pg_ledger", "pg_continuity", "ledger_key", "backup_key")
LOCAL = {"operator": "this-machine", "service": "machine", "region": "local", "hosts": ["127.0.0.1"]}
THEIRS = "theirs"


@dataclass
class World:
    """Servers, a runner of attempts, and what both sides hold."""

    servers: Servers
    runner: Runner
    job: Job
    place: places.Place

    @property
    def platform(self) -> Platform:
        return Platform(self.job.config, self.job.connections.__getitem__)

    @property
    def site(self) -> Site:
        return self.platform.site("primary", "personal")

    @property
    def name(self) -> str:
        return self.job.pipeline.name

    def attempt(self, at: Point | None = None) -> dict[str, Any] | None:
        return self.runner.attempt(self.job, at)

    def settle(self) -> dict[str, int]:
        """Run until nothing is new. Return the counts of effects and writes of the first of these runs."""
        counts: dict[str, int] = {}
        for _ in range(QUIET):
            found = self.attempt()
            assert found is not None
            counts = counts or found["counts"]
            if found["complete"] and not found["new"]:
                assert not found["changed"]
                return counts
        raise AssertionError(f"after {QUIET} runs something is still new")

    def rows(self) -> list[tuple[Any, ...]]:
        """Read the current snapshot as a stranger would: the pointer, the manifest, the Parquet files."""
        site, folder = self.site, f"snapshots/{self.name}/"
        current = json.loads(site.read("lake", f"{folder}current.json"))["id"]
        manifest = json.loads(site.read("lake", f"{folder}{current}.json"))
        keys = {info.key.rpartition("/")[2].partition(".")[0]: info.key for info in site.list("lake", folder)}
        found = []
        for _, sha256, count, _ in manifest["parts"]:
            table = pq.read_table(io.BytesIO(site.read("lake", keys[sha256])))
            assert table.num_rows == count
            found += [tuple(row[name] for name in ("meter", "day", "kwh", "seen")) for row in table.to_pylist()]
        return found

    def refused(self) -> list[list[str]]:
        """The meters in quarantine, for each of its files."""
        return [
            [_meter(text) for text in pq.read_table(io.BytesIO(self.site.read("lake", info.key)))["raw"].to_pylist()]
            for info in self.site.list("lake", f"quarantine/{self.name}/")
        ]

    def check(self, *, repeats: bool) -> None:
        """Nothing is lost, nothing came twice, and nothing is left. `repeats`: each delivery holds all rows."""
        rows = self.rows()
        assert Counter(rows) == Counter(self.place.good())
        refused = self.refused()
        found = {meter for file in refused for meter in file}
        # a row that was refused in an earlier delivery of all rows, and is good now, stays in that one's quarantine
        assert found >= self.place.bad() if repeats else found == self.place.bad()
        assert all(len(file) == len(set(file)) for file in refused)
        assert repeats or sum(map(len, refused)) == len(self.place.bad())
        assert list(self.site.list("landing", self.job.pipeline.source.prefix)) == []
        assert [info.key for info in self.site.list("lake", f"sources/{self.name}/pending")] == []
        told = [record.body["snapshot"] for record in self.platform.ledger.find("snapshot", self.name, limit=999)]
        assert len(told) == len(set(told))
        outcomes = [
            delivery["sha256"]
            for record in self.platform.ledger.find("deliveries", self.name, limit=999)
            for delivery in record.body["deliveries"]
        ]
        assert len(outcomes) == len(set(outcomes))


def _meter(text: str) -> str:
    """The meter of a refused row: the first value of its text."""
    return str(json.loads(text)["meter"]) if text.startswith("{") else text.partition(",")[0]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("killed") / "var", SERVICES) as running:
        platform = Platform(running.stack.config, running.connections)
        for bucket in ("landing", "lake"):
            platform.site("primary", "personal").ensure_bucket(bucket, versioned=bucket == "lake")
        platform.site("haven", "personal").ensure_bucket(THEIRS, versioned=False)
        yield running


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with killed_ingestion.running(tmp_path_factory.mktemp("attempts")) as found:
        yield found


def postgresql(
    servers: Servers, job: Callable[..., Job], stack: ExitStack, name: str, **cursor: Any
) -> tuple[Job, places.Place]:
    owner = replace(servers.superuser, schema=name)
    with psycopg.connect(servers.superuser.postgresql_url(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}".encode())
        session.execute(f"CREATE ROLE {name}_reader LOGIN PASSWORD 'a reader'".encode())
    with psycopg.connect(owner.postgresql_url()) as session:
        session.execute(places.TABLE.format(number="double precision", time="timestamptz").encode())
        session.execute(f"GRANT SELECT ON readings TO {name}_reader".encode())
    reader = replace(owner, name="shop", conn_type="postgres", login=f"{name}_reader", password="a reader")
    rule = "" if cursor else places.NEWEST
    spec = places.pipeline(name, rule, kind="sql", connection="shop", table="readings", **cursor)
    return job(spec, {"shop": reader}, connections={"shop": LOCAL}), places.PostgresqlTable(spec, owner=owner)


def by_cursor(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    return postgresql(servers, job, stack, "by_cursor", cursor={"column": "seen", "overlap": "10m"})


def read_whole(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    return postgresql(servers, job, stack, "read_whole")


def mariadb(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    running = stack.enter_context(mariadb_server.running_mariadb(folder))
    running.execute(places.TABLE.format(number="double", time="timestamp(6) NOT NULL"))
    cursor = {"column": "seen", "overlap": "10m"}
    spec = places.pipeline("mariadb", kind="sql", connection="shop", table="readings", cursor=cursor)
    found = job(spec, {"shop": running.reader}, connections={"shop": LOCAL})
    return found, places.MariadbTable(spec, server=running)


def landing(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    spec = places.pipeline("landing", places.NEWEST)
    primary = Platform(servers.stack.config, servers.connections).site("primary", "personal")
    return job(spec), places.Bucket(spec, site=primary, bucket="landing")


def other_bucket(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    spec = places.pipeline("bucket", places.NEWEST, kind="site", site="acme", bucket=THEIRS, folder="bucket/")
    haven = Platform(servers.stack.config, servers.connections).site("haven", "personal")
    origin = servers.stack.config.sites["haven"].model_dump(include={"operator", "service", "region"})
    acme = replace(servers.connections("s3_haven"), name="acme")
    found = job(spec, {"acme": acme}, origins={"acme": origin | {"connection": "acme"}})
    return found, places.Bucket(spec, site=haven, bucket=THEIRS)


def http(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    return _http(job, stack, places.Api)


def download(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    return _http(job, stack, places.File)


def _http(job: Callable[..., Job], stack: ExitStack, kind: type[places.Api]) -> tuple[Job, places.Place]:
    place, running = stack.enter_context(places.service(kind, random.Random(1)))  # noqa: S311 - a fixed seed
    origin = {**LOCAL, "hosts": [f"127.0.0.1:{running.port}"]}
    return job(place.pipeline, origins={"meters": origin}), place


def derived(servers: Servers, job: Callable[..., Job], stack: ExitStack, folder: Path) -> tuple[Job, places.Place]:
    primary = Platform(servers.stack.config, servers.connections).site("primary", "personal")
    runner = stack.enter_context(killed_ingestion.running(folder))
    base = places.Bucket(places.pipeline("base", places.NEWEST), site=primary, bucket="landing")

    def take(spec: Any) -> None:
        assert runner.attempt(replace(job(spec), home=folder))

    place = places.derived(folder, base, take)
    return replace(job(place.pipeline), home=folder), place


KINDS = [
    by_cursor,
    read_whole,
    pytest.param(
        mariadb,
        marks=[
            pytest.mark.full,
            mariadb_server.needs_mariadb,
        ],
    ),
    landing,
    other_bucket,
    http,
    download,
    derived,
]
REPEATING = (download, derived)
"""Kinds whose deliveries each hold all rows, refused ones included."""


@pytest.mark.parametrize("opened", KINDS, ids=lambda kind: kind.__name__)
def test_x1_a_source_that_is_killed_anywhere_loses_nothing_and_gives_nothing_twice(
    servers: Servers, runner: Runner, tmp_path: Path, opened: Callable[..., tuple[Job, places.Place]]
) -> None:
    def job(spec: Any, more: dict[str, Connection] | None = None, **declared: Any) -> Job:
        known = {name: servers.connections(name) for name in NAMES} | (more or {})
        return Job(places.declared(servers.stack.config, **declared), spec, known)

    draw, killed, points = random.Random(opened.__name__), 0, list[Point]()  # noqa: S311 - a fixed seed
    with ExitStack() as stack:
        made, place = opened(servers, job, stack, tmp_path)
        world = World(servers, runner, made, place)
        place.change(draw)
        counts = world.settle()
        world.check(repeats=opened in REPEATING)
        for _ in range(ROUNDS):
            for number in range(KILLS):
                place.change(draw)
                of: Literal["effects", "writes"] = "effects" if number == 0 else "writes"
                points.append((of, draw.randint(1, counts[of])))
                killed += world.attempt(points[-1]) is None
            counts = world.settle()
            world.check(repeats=opened in REPEATING)
    assert killed >= ROUNDS * KILLS // 2, f"{killed} attempts were killed, of those at {points}"
