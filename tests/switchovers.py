"""Two sites, a ledger and the generations of the active site, for tests that move a platform."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from rempart.backup.databases.postgresql import drop_database
from rempart.coordination.active import Active
from rempart.flows.failover.fail_over import SwitchoverResult, fail_back, fail_over
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity, PostgresqlContinuity
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.port import Site
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[1]
SHARED = ("lake", "artifacts")


def switch_tracking(platform: Platform, active: Active) -> str:
    """Stands in for MLflow where there is none."""
    return f"at {active.site}"


def silent(line: str) -> None:
    """For those who do not listen."""


def over(platform: Platform, target: str = "haven", **options: Any) -> SwitchoverResult:
    return fail_over(platform, target, dry_run=False, tracking=switch_tracking, **options)


def back(platform: Platform) -> SwitchoverResult:
    return fail_back(platform, dry_run=False, tracking=switch_tracking)


def connections(name: str) -> Connection:
    """A key of the ledger; for all else, the environment's."""
    if name == "ledger_key":
        return Connection(name, "", password=base64.b64encode(bytes(range(32))).decode())
    return config.environment_connections(name)


def in_memory(**more: Any) -> Platform:
    """A platform of two empty sites in memory."""
    loaded = config.load(ROOT / "rempart.yaml")
    sites: dict[str, Site] = {name: MemorySite(name) for name in loaded.sites}
    for site in sites.values():
        site.ensure_bucket(loaded.buckets.landing, versioned=False)
        for bucket in (loaded.buckets.lake, loaded.buckets.artifacts, loaded.buckets.backups):
            site.ensure_bucket(bucket, versioned=True)
    return Platform(
        loaded,
        connections,
        sites=sites,
        ledger_=MemoryLedger(),
        continuity_=MemoryContinuity(),
        **more,
    )


def content(platform: Platform, name: str, *, without: str = "conflicts/") -> dict[str, bytes]:
    """What a reader of a site finds in the shared buckets, by bucket and key."""
    site, found = platform.sites[name], {}
    for logical in SHARED:
        bucket = str(getattr(platform.config.buckets, logical))
        for info in site.list(bucket):
            if not info.key.startswith(without):
                found[f"{logical}/{info.key}"] = site.read(bucket, info.key)
    return found


def fill(platform: Platform, name: str = "primary", count: int = 6, prefix: str = "k") -> dict[str, bytes]:
    """Some objects at a site; what they are."""
    made = {}
    for number in range(count):
        logical = SHARED[number % 2]
        key, body = f"{prefix}/{number:03d}", f"{name} {prefix} {number}".encode()
        platform.sites[name].write(str(getattr(platform.config.buckets, logical)), key, body)
        made[f"{logical}/{key}"] = body
    return made


class Faulty:
    """An object of which each named call first asks `before`, and then, if it returned, `after`."""

    def __init__(self, inner: Any, names: tuple[str, ...], before: Callable[[str], None]) -> None:
        self._inner, self._names, self._before = inner, names, before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._before(f"before {name}")
            answer = found(*args, **kwargs)
            self._before(f"after {name}")
            return answer

        return call


def with_faults(platform: Platform, before: Callable[[str], None]) -> Platform:
    """The same platform; every effect on a site, the ledger or the generations may fail."""
    effects = ("write", "write_file", "write_new", "delete")
    inner = platform.continuity
    generations = Faulty(inner.active_sites("primary"), ("advance", "note"), before)

    class Continuity:
        def active_sites(self, first: str) -> Any:
            return generations

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    return replace(
        platform,
        sites={name: Faulty(site, effects, before) for name, site in platform.sites.items()},
        ledger_=Faulty(platform.ledger, ("append",), before),
        continuity_=Continuity(),
    )


@contextmanager
def generations(owner: Connection) -> Iterator[Connection]:
    """A database of the test's own with the tables of continuity.sql; `owner` may create databases (`pg_drill`)."""
    name = f"scratch_{secrets.token_hex(4)}_continuity"
    script = (ROOT / "include" / "sql" / "platform" / "continuity.sql").read_text(encoding="utf-8")
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            made = replace(owner, schema=name)
            with psycopg.connect(made.postgresql_url(), autocommit=True) as opened:
                opened.execute(script.replace("SET ROLE continuity;", "").encode())
            yield made
        finally:
            drop_database(server, name)


@contextmanager
def on_real_servers(platform: Platform, ledger: MemoryLedger) -> Iterator[Platform]:
    """The stack's sites with empty buckets of the test's own, and generations of its own in PostgreSQL."""
    mark = f"move-{secrets.token_hex(4)}"
    plain = {name: f"{mark}-{name}" for name in ("landing", "lake", "artifacts", "backups")}
    buckets = platform.config.buckets.model_copy(update=plain)
    sites = {name: platform.site(name, "personal") for name in platform.config.sites}
    with generations(config.environment_connections("pg_drill")) as connection:
        for site in sites.values():
            for name, bucket in plain.items():
                site.ensure_bucket(bucket, versioned=name != "landing")
        yield replace(
            platform,
            config=platform.config.model_copy(update={"buckets": buckets}),
            sites=sites,
            ledger_=ledger,
            continuity_=PostgresqlContinuity(connection),
        )
        for site in sites.values():
            for bucket in plain.values():
                site.drop_bucket(bucket)
