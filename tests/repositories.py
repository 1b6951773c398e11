"""Fixtures for databases in restic: a repository of the test's own, a filled database, an empty one to restore to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository, find_program
from rempart.backup.databases.stored_dumps import StoredDump, dump_into
from rempart.errors import BackupError
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection

FILL = """
CREATE TABLE bookings (id int PRIMARY KEY, guest text, paid numeric);
INSERT INTO bookings SELECT n, md5(n::text), n * 1.5 FROM generate_series(1, 40000) n;
CREATE INDEX ON bookings (guest);
CREATE TABLE "odd Name; --" (id int);
INSERT INTO "odd Name; --" VALUES (1);
CREATE TABLE empty_one (id int);
COMMENT ON TABLE bookings IS 'kept';
GRANT SELECT ON bookings TO backup;
"""


def restic_program() -> Path:
    try:
        return find_program()
    except BackupError as why:
        pytest.skip(why.what)


def repository_at(platform: Platform, bucket: str, *, site: str = "haven") -> Repository:
    """A repository at a site of the stack, whose bucket is there."""
    connection = platform.connections(platform.config.sites[site].connection)
    return Repository(site, connection, "eu", bucket, "restic/x/0001", "a password", program=restic_program())


@pytest.fixture
def repository(platform: Platform) -> Iterator[Repository]:
    """An empty repository in a bucket of its own."""
    haven, bucket = platform.site("haven", "personal"), f"restic-{secrets.token_hex(4)}"
    haven.ensure_bucket(bucket, versioned=True)
    made = repository_at(platform, bucket)
    made.init_if_missing()
    yield made
    haven.drop_bucket(bucket)


@contextmanager
def scratch_database(platform: Platform) -> Iterator[Connection]:
    """An empty database that belongs to an ordinary role."""
    owner, name = platform.database("drill"), f"drill_restic_{secrets.token_hex(4)}"
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        yield postgresql.for_database(owner, name)
    finally:
        with psycopg.connect(owner.postgresql_url(), autocommit=True) as server:
            postgresql.drop_database(server, name)


@pytest.fixture
def empty_database(platform: Platform) -> Iterator[Connection]:
    with scratch_database(platform) as made:
        yield made


@pytest.fixture
def filled_database(platform: Platform) -> Iterator[Connection]:
    """A database with three tables, as its owner reaches it."""
    with scratch_database(platform) as made:
        with psycopg.connect(made.postgresql_url(), autocommit=True) as session:
            session.execute(FILL)
        yield made


def store(
    platform: Platform,
    repository: Repository,
    database: Connection,
    *,
    tools: postgresql.Tools | None = None,
    tags: tuple[str, ...] = (),
) -> tuple[StoredDump, dict[str, int]]:
    """Dump a database as the role `backup` does, and the rows of its tables at that moment."""
    source = postgresql.for_database(platform.database("backup"), database.schema)
    with postgresql.frozen(source) as (session, snapshot):
        rows = postgresql.row_counts(session)
        chosen = tools or postgresql.find_tools()
        return dump_into(chosen, repository, source, snapshot, len(rows), tags=tags), rows


def contents(database: Connection) -> tuple[dict[str, int], dict[str, str]]:
    """Rows and digests of every table."""
    with postgresql.session(database, "look at what was restored") as opened:
        return postgresql.row_counts(opened), postgresql.digests(opened)


@pytest.fixture
def tools_with(tmp_path: Path) -> Callable[..., postgresql.Tools]:
    """PostgreSQL's tools of which `pg_dump` or `pg_restore` first runs lines of shell; `$real` is the real one."""
    real = postgresql.find_tools().folder

    def make(**lines: str) -> postgresql.Tools:
        folder = tmp_path / f"tools-{secrets.token_hex(2)}"
        folder.mkdir()
        for name in ("pg_dump", "pg_restore"):
            script = folder / name
            script.write_text(f'#!/bin/sh\nreal={real / name}\n{lines.get(name, "")}\nexec "$real" "$@"\n')
            script.chmod(0o755)
        return postgresql.Tools(folder)

    return make


def wrapped(repository: Repository, folder: Path, lines: str) -> Repository:
    """The repository, used by a restic that first runs lines of shell."""
    script = folder / f"restic-{secrets.token_hex(2)}"
    script.write_text(f'#!/bin/sh\n{lines}\nexec {repository.program} "$@"\n')
    script.chmod(0o755)
    return Repository(
        repository.site,
        repository.connection,
        repository.region,
        repository.bucket,
        repository.prefix,
        repository.password,
        program=script,
    )


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
