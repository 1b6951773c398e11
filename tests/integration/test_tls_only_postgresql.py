"""Backup, restore, drill and the parts of point-in-time recovery against a PostgreSQL that accepts TLS only."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rempart.backup.databases import postgresql, processes
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import dump_into, restore_from
from rempart.backup.pitr import base_backup, receiver
from rempart.deployment.setup import environment
from rempart.errors import DatabaseUnavailable
from rempart.flows.backup.back_up import back_up
from rempart.flows.drill.drill import drill
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import Connection, read_env_file
from rempart.sites.s3.client import open_client
from tests.conftest import OwnContinuity
from tests.integration.own_servers import Servers, own_servers
from tests.repositories import FILL, contents, restic_program
from tests.tls_proxy import REFUSAL, TlsProxy, tls_only

TOOLS = postgresql.find_tools()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and a site of the module's own."""
    with own_servers(tmp_path_factory.mktemp("tls-only"), ("postgresql", "site-haven")) as made:
        yield made


@pytest.fixture
def proxy(servers: Servers, tmp_path: Path) -> Iterator[TlsProxy]:
    with tls_only(servers.superuser, tmp_path / "tls", "0.0.0.0") as made:  # noqa: S104 - for a wrong name
        yield made


@pytest.fixture
def backup(servers: Servers) -> Connection:
    """The role of backups in the ledger's database, as it is without the front."""
    return postgresql.for_database(servers.connections("pg_backup"), "ledger")


@pytest.fixture
def repository(servers: Servers) -> Repository:
    place = servers.stack.config.sites["haven"]
    bucket, connection = f"tls-{secrets.token_hex(4)}", servers.connections(place.connection)
    open_client("haven", connection, place.region).create_bucket(Bucket=bucket)
    made = Repository("haven", connection, "eu", bucket, "restic/x/0001", "a password", program=restic_program())
    made.init_if_missing()
    return made


def test_pg_dump_verifies_the_server_and_is_what_prepare_tries(backup: Connection, proxy: TlsProxy) -> None:
    assert TOOLS.check(proxy.connection(backup)).endswith("can read it (sslmode verify-full)")
    assert proxy.carried and not proxy.refused


def test_a_client_without_tls_is_refused(backup: Connection, proxy: TlsProxy) -> None:
    with pytest.raises(DatabaseUnavailable, match="TLS only"):
        TOOLS.check(proxy.connection(backup, sslmode="disable"))
    assert proxy.refused == 1
    with (
        pytest.raises(DatabaseUnavailable, match="refused: no encryption: this server accepts TLS only"),
        postgresql.session(proxy.connection(backup, sslmode="disable"), "look"),
    ):
        pass
    own = subprocess.run(  # the libpq that comes with the programs
        [TOOLS.folder / "pg_dump", "--schema-only"],
        env=postgresql.libpq_environment(proxy.connection(backup)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert own.returncode and "SSL support is not compiled in" in own.stderr
    assert REFUSAL.endswith("TLS only")


def test_another_name_or_authority_than_declared_is_refused(
    servers: Servers, backup: Connection, proxy: TlsProxy, tmp_path: Path
) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"so no backup is possible"):
        TOOLS.check(dataclasses.replace(proxy.connection(backup), host="127.0.0.2"))
    with tls_only(servers.superuser, tmp_path / "other") as other:
        strange = proxy.connection(backup, sslrootcert=str(other.authority))
        with pytest.raises(DatabaseUnavailable, match="SSL error"):
            TOOLS.check(strange)
        with pytest.raises(DatabaseUnavailable, match="SSL error"), postgresql.session(strange, "look"):
            pass


def test_airflow_s_asynchronous_sessions_verify_the_server_too(
    servers: Servers, proxy: TlsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg takes no TLS setting from a URL."""
    import asyncpg

    resolve = servers.connections
    monkeypatch.setattr(environment, "connections", lambda stack, secrets: lambda name: proxy.connection(resolve(name)))
    held = read_env_file(servers.stack.secrets)
    variables = environment.airflow(servers.stack, held, {}, "airflow-api-server")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    module, _, name = variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC"].rpartition(".")
    arguments = getattr(importlib.reload(importlib.import_module(module)), name)

    async def entered(url: str) -> int:
        session = await asyncpg.connect(url.replace("+asyncpg", ""), **arguments)
        try:
            return int(await session.fetchval("SELECT 1"))
        finally:
            await session.close()

    url = variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]
    assert asyncio.run(entered(url)) == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(entered(url.replace("127.0.0.1", "127.0.0.2")))


def test_a_database_is_dumped_and_restored(servers: Servers, proxy: TlsProxy, repository: Repository) -> None:
    owner = servers.connections("pg_drill")
    filled, empty = (postgresql.for_database(owner, f"drill_tls_{name}") for name in ("filled", "empty"))
    for database in (filled, empty):
        with postgresql.session(postgresql.for_database(owner, "postgres"), "make a database") as opened:
            opened.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database.schema)))
    with psycopg.connect(filled.postgresql_url(), autocommit=True) as opened:
        opened.execute(FILL)
    source = proxy.connection(postgresql.for_database(servers.connections("pg_backup"), filled.schema))
    with postgresql.frozen(source) as (opened, snapshot):
        rows = postgresql.row_counts(opened)
        stored = dump_into(TOOLS, repository, source, snapshot, len(rows))
    restore_from(TOOLS, repository, stored.snapshot, proxy.connection(empty), database=filled.schema)
    assert sum(rows.values()) == 40001 and contents(empty) == contents(filled)
    assert proxy.carried >= 3 and not proxy.refused


@pytest.mark.full
@pytest.mark.tracking
def test_a_restore_point_is_made_and_drilled(
    platform: Platform,
    proven_ledger: MemoryLedger,
    own_continuity: OwnContinuity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the stack's own ledger may have champions of other tests, of which this platform's ledger knows nothing
    monkeypatch.setattr(postgresql, "decided_champions", lambda _: {})
    with tls_only(platform.database("backup"), tmp_path / "tls") as proxy:
        encrypted = dataclasses.replace(platform, connections=proxy.connections(platform.connections))
        # the stack's own lake and artifacts, and a bucket of backups of the test's, which stays: it is locked
        buckets = encrypted.config.buckets.model_copy(update={"backups": f"tls-{secrets.token_hex(4)}"})
        for name in ("primary", "haven"):
            encrypted.site(name, "personal").ensure_bucket(buckets.backups, versioned=True, locked=True)
        settings = encrypted.config.model_copy(update={"buckets": buckets})
        standing = dataclasses.replace(encrypted, config=settings, ledger_=proven_ledger, continuity_=own_continuity)
        point = back_up(standing)
        done = drill(standing)
    assert done.ok and done.point_id == point.id, [check for check in done.checks if not check.ok]
    assert proxy.carried and not proxy.refused


@pytest.mark.full
def test_a_base_backup_is_taken_and_wal_received(
    servers: Servers, proxy: TlsProxy, repository: Repository, tmp_path: Path
) -> None:
    connection = proxy.connection(servers.superuser)
    server = receiver.look(connection)
    base, _ = base_backup.take(TOOLS, repository, connection, server, lambda: datetime.now(UTC))
    assert base.system == server.system and base.bytes > 1_000_000
    receiver.ensure_slot(TOOLS, connection, server)
    try:
        with processes.ending(receiver.receive(TOOLS, connection, tmp_path, {})):
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("0*")):
                assert time.monotonic() < deadline, "no WAL came"
                receiver.close_segment(connection)
                time.sleep(0.2)
    finally:
        deadline = time.monotonic() + 30
        while receiver.look(connection).active and time.monotonic() < deadline:
            time.sleep(0.2)
        with postgresql.session(connection, "drop the slot") as opened:
            opened.execute("SELECT pg_drop_replication_slot(%s)", [receiver.SLOT])
    assert not proxy.refused
