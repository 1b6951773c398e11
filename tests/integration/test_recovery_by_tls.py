"""`rempart restore` and point in time, as commands, with a team's own PostgreSQL that accepts TLS only."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from rempart.deployment.setup import credentials, paths
from rempart.flows.backup.back_up import back_up
from rempart.flows.doctor.doctor_site import probe_sites
from rempart.flows.shared.keys import new_recipient
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_pem
from rempart.settings.config import DATABASES, SCORER, Connection
from tests.integration.own_servers import ROOT, free_stack, own_servers
from tests.repositories import restic_program
from tests.tls_proxy import TlsProxy, tls_only

pytestmark = pytest.mark.full

PLACE = {"operator": "this-machine", "service": "machine", "region": "local"}


@dataclass(frozen=True)
class Team:
    """A platform whose PostgreSQL is the team's own: reached by the front alone, every certificate verified."""

    stack: paths.Stack
    proxy: TlsProxy
    superuser: Connection
    given: Mapping[str, Connection]
    escrow: Path

    def environment(self, **tls: str) -> dict[str, str]:
        """Variables of a shell of the team's; `tls` replaces what its connections to PostgreSQL say."""
        place = {
            "REMPART_HOME": self.stack.root,
            "REMPART_VAR": self.stack.var,
            "REMPART_PORT_OFFSET": self.stack.offset,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PG"))}
        changed = {
            name: dataclasses.replace(connection, extra=dict(connection.extra) | tls)
            if name.startswith("pg_")
            else connection
            for name, connection in self.given.items()
        }
        connections = {f"AIRFLOW_CONN_{name.upper()}": written(connection) for name, connection in changed.items()}
        return inherited | {name: str(value) for name, value in place.items()} | connections

    def rempart(self, *words: str, **tls: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rempart.cli", *words]
        return subprocess.run(
            command, env=self.environment(**tls), cwd=self.stack.root, capture_output=True, text=True, check=False
        )

    def must(self, *words: str) -> str:
        done = self.rempart(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def platform(self) -> Platform:
        secrets = credentials.ensure(self.stack)
        resolve = credentials.connections(self.stack, secrets)
        return Platform(self.stack.config, lambda name: self.given.get(name) or resolve(name))

    def sql(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """Each statement is a transaction of its own, past the front; the rows of the last."""
        url = dataclasses.replace(self.superuser, schema=database).postgresql_url()
        with psycopg.connect(url, autocommit=True) as session:
            for statement in statements:
                cursor = session.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def archiver(self, **tls: str) -> Iterator[Path]:
        """`rempart run wal-archive`; the file of what it says."""
        command, log_file = (
            [sys.executable, "-m", "rempart.cli", "run", "wal-archive"],
            self.stack.logs / "archiver.log",
        )
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment(**tls), cwd=self.stack.root, stdout=log, stderr=log
            )
        try:
            yield log_file
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            print(log_file.read_text(encoding="utf-8"))


def written(connection: Connection) -> str:
    """A connection as a variable of Airflow holds it."""
    plain = dataclasses.asdict(connection) | {"extra": dict(connection.extra)}
    del plain["name"]
    return json.dumps(plain)


def wait_for(look: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def project(folder: Path, **changed: Any) -> Path:
    """A folder with a rempart.yaml of its own."""
    folder.mkdir()
    plain = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    plain["backup"] |= changed.pop("backup")
    plain["services"] |= changed
    (folder / "rempart.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    for name in ("include", "dags"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    restic_program()
    root = tmp_path_factory.mktemp("by-tls")
    escrow = root / "escrow.key"
    recipient = new_recipient(escrow, datetime.now(UTC))
    backup = {"recipients": [recipient], "point_in_time": {"wal_every": "1s"}}
    operator = project(root / "operator", backup=backup)  # whose server it is
    with (
        own_servers(root / "server", ("postgresql",), operator) as servers,
        tls_only(servers.superuser, root / "tls") as proxy,
    ):
        external = {"url": f"postgresql://127.0.0.1:{proxy.port}", "connection": "pg_admin"}
        home = project(root / "team", backup=backup, postgresql={"external": external | PLACE})
        names = [f"pg_{role}" for role in (*DATABASES, "backup", "drill", SCORER, "wal_archive")]
        given = {name: proxy.connection(servers.connections(name)) for name in names}
        given["pg_admin"] = proxy.connection(servers.superuser)
        given |= {name: servers.connections(name) for name in ("ledger_key", "backup_key")}
        made = Team(free_stack(root / "var", home), proxy, servers.superuser, given, escrow)
        try:
            made.must("up", "--stores")
            for name in ("primary", "haven"):
                made.platform().site(name, "personal").ensure_bucket("backups", versioned=True, locked=True)
            yield made
        finally:
            made.must("down")
        assert proxy.carried


def test_databases_are_restored_into_place_and_a_client_without_tls_is_refused(team: Team, tmp_path: Path) -> None:
    platform = team.platform()
    probe_sites(platform, [])
    team.sql("feast_offline", "CREATE TABLE kept (n int)", "INSERT INTO kept SELECT generate_series(1, 1000)")
    team.sql("feast_offline", "ALTER TABLE kept OWNER TO feast_offline")
    point = back_up(platform)
    trust = tmp_path / "public.pem"
    trust.write_text("".join(map(to_pem, platform.trusted_keys().values())), encoding="ascii")
    team.sql("feast_offline", "DROP TABLE kept")
    words = (
        "restore",
        "--only",
        "database:feast_offline",
        "--identity",
        str(team.escrow),
        "--trust",
        str(trust),
        "--yes",
    )
    refused = team.proxy.refused
    plain = team.rempart(*words, sslmode="disable")
    assert plain.returncode and team.proxy.refused > refused
    assert not team.sql("feast_offline", "SELECT FROM pg_tables WHERE tablename = 'kept'")
    refused = team.proxy.refused
    told = team.must(*words)
    assert point.id in told and team.proxy.refused == refused
    assert team.sql("feast_offline", "SELECT count(*), sum(n) FROM kept") == [(1000, 500500)]
    may = "SELECT has_database_privilege('backup', 'feast_offline', 'CONNECT')"
    assert team.sql("feast_offline", may) == [(True,)]


def test_a_server_is_archived_and_brought_back_to_a_second(team: Team, tmp_path: Path) -> None:
    team.sql("mlflow", "CREATE TABLE known (n int)", "INSERT INTO known VALUES (1)")
    refused = team.proxy.refused
    with team.archiver(sslmode="disable") as log_file:
        wait_for(lambda: bool(log_file.read_text(encoding="utf-8")), 60)
    assert team.proxy.refused > refused
    refused, known = team.proxy.refused, ("--identity", str(team.escrow))
    with team.archiver():
        wait_for(lambda: "1 base backups" in team.rempart("pitr", "status", *known).stdout)
        team.sql("mlflow", "INSERT INTO known VALUES (2)", "SELECT pg_sleep(1)")
        [(moment,)] = team.sql("mlflow", "SELECT clock_timestamp()")
        team.sql("mlflow", "SELECT pg_sleep(1)", "INSERT INTO known VALUES (3)")
        words = (
            "pitr",
            "restore",
            "--until",
            moment.astimezone(UTC).isoformat(),
            "--to",
            str(tmp_path / "copy"),
            *known,
        )
        wait_for(lambda: team.rempart(*words).returncode == 0)
    assert "database mlflow: 1 table, 2 rows" in team.must(*words, "--yes")
    assert team.proxy.refused == refused
