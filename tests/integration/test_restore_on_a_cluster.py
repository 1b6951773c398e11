"""A restore point fills empty stores of an operator, by the commands and files of a cluster's pods."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from rempart.deployment.kubernetes import cluster
from rempart.deployment.servers import postgresql
from rempart.deployment.setup import paths, services
from rempart.flows.backup.back_up import back_up
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_pem
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import DATABASES, Connection, parse_connection, read_env_file
from rempart.sites.s3.site import S3Site
from tests.buckets import own_buckets
from tests.conftest import ROOT, OwnContinuity
from tests.integration.own_servers import Servers, own_servers

pytestmark = [pytest.mark.tracking, pytest.mark.full]

BODIES = {
    ("lake", "raw/hotel_bookings/1/a.csv"): b"a,b\n1,2\n" * 500,
    ("artifacts", "jobs/1/model.onnx"): b"\x00\x01" * 4000,
}
FIRST = "operators_first"
TODAY = date(2026, 11, 27)


@pytest.fixture(scope="module")
def house(platform: Platform, capability_records: list[dict[str, object]]) -> Iterator[Platform]:
    """The platform that is lost: the stack's databases, and buckets of the module's own."""
    ledger, site = MemoryLedger(), platform.site("primary", "personal")
    for record in capability_records:
        ledger.append("capabilities", str(record["site"]), record)
    with own_buckets(platform, "cluster") as buckets:
        for (bucket, key), body in BODIES.items():
            site.write(getattr(buckets, bucket), key, body)
        settings = platform.config.model_copy(update={"buckets": buckets})
        continuity = OwnContinuity(platform.database("continuity"))
        yield dataclasses.replace(platform, config=settings, ledger_=ledger, continuity_=continuity)


@dataclass(frozen=True)
class Operators:
    """What the team has after the loss: empty servers, the escrow identity, the public key, the backup site."""

    servers: Servers
    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, var: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of the image, with nothing in its environment but what a person, or the pod's manifest, wrote."""
        return subprocess.run(
            [sys.executable, "-m", "rempart.cli", *command],
            env=self.environment | {"REMPART_VAR": str(self.folder / var)} | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def psql(self, file: Path) -> None:
        """Run a script as a person does, as the first role that the operator handed over."""
        place = self.servers.superuser
        command = [services.postgresql_binary("psql"), "--quiet", "--no-psqlrc", f"--host={place.host}"]
        command += [f"--port={place.port}", f"--username={FIRST}", "--dbname=postgres", f"--file={file}"]
        done = subprocess.run(
            command, env={**os.environ, "PGPASSWORD": "first"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr

    def primary(self) -> S3Site:
        """The new site, which nobody has used."""
        from rempart.sovereignty.places import decide_site

        connection, place = self.servers.connections("s3_primary"), self.servers.stack.config.sites["primary"]
        endpoint = connection.extra["endpoint_url"]
        decision = decide_site(self.servers.stack.config, "personal", "data", "primary", on=TODAY, endpoint=endpoint)
        return S3Site("primary", connection, place.region, decision)


@pytest.fixture
def operators(house: Platform, tmp_path: Path) -> Iterator[Operators]:
    identity, trusted = own_identity(house.connections), house.trusted_keys()
    (tmp_path / "escrow.key").write_text(identity.secret + "\n")
    (tmp_path / "public.pem").write_text("".join(to_pem(key) for key in trusted.values()))
    with own_servers(tmp_path / "var", ("postgresql", "site-primary")) as servers:
        bare(servers)
        pg, haven = servers.superuser, house.connections("s3_haven")
        settings: dict[str, Any] = yaml.safe_load((ROOT / "rempart.yaml").read_text("utf-8"))
        here = {"operator": "this-machine", "service": "machine", "region": "local"}
        urls = {
            "primary": servers.connections("s3_primary").extra["endpoint_url"],
            "haven": haven.extra["endpoint_url"],
        }
        settings["services"] |= {
            "postgresql": {"external": {"url": f"postgresql://{pg.host}:{pg.port}", "connection": "pg_admin", **here}},
            **{name: {"external": {"url": url, "connection": f"s3_{name}"}} for name, url in urls.items()},
        }
        settings["buckets"] |= house.config.buckets.model_dump(include={"lake", "artifacts", "backups"})
        home = tmp_path / "project"
        home.mkdir()
        (home / "rempart.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (home / "include").symlink_to(ROOT / "include")
        given = {
            "S3_PRIMARY": servers.connections("s3_primary"),
            "S3_HAVEN": haven,
            "S3_WITNESS_HAVEN": house.connections("s3_witness_haven"),
            "PG_ADMIN": Connection(
                "pg_admin", "postgres", pg.host, pg.port, FIRST, "first", "postgres", {"sslmode": "prefer"}
            ),
        }
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {f"AIRFLOW_CONN_{name}": as_json(connection) for name, connection in given.items()}
        yield Operators(servers, tmp_path, environment | {"REMPART_HOME": str(home)})


def as_json(connection: Connection) -> str:
    fields = ("conn_type", "host", "port", "login", "password", "schema", "extra")
    return json.dumps({name: getattr(connection, name) for name in fields if getattr(connection, name)})


def bare(servers: Servers) -> None:
    """The server as an operator hands it over: one role that may make roles and databases, and no superuser."""
    with postgresql.connect(servers.superuser) as session:
        for name in DATABASES:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        session.execute("REVOKE CONNECT ON DATABASE postgres FROM drill, backup")
        session.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")  # as PostgreSQL has it at first
        for role in (*servers.stack.config.roles, "ledger_owner"):
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        session.execute(f"CREATE ROLE {FIRST} LOGIN CREATEROLE CREATEDB PASSWORD 'first'")
        session.execute(f"GRANT pg_read_all_data TO {FIRST} WITH ADMIN OPTION")


def test_a_point_fills_empty_stores_and_the_roles_have_their_rights(
    stack: paths.Stack, house: Platform, operators: Operators
) -> None:
    point, folder = back_up(house), operators.folder
    keys = ("--identity", str(folder / "escrow.key"), "--trust", str(folder / "public.pem"))
    # by its id: a model that another test registered makes a point incomplete, and without an id none would be chosen
    named = ("--point", point.id)
    done = operators.run("stack", "init", "--kubernetes", "--from-point", *named, *keys, var="admin")
    assert done.returncode == 0 and point.id in done.stdout, done.stderr
    made = folder / "admin" / cluster.FOLDER
    after, lost = read_env_file(made / cluster.KEY), read_env_file(stack.secrets)
    assert after["REMPART_AIRFLOW_FERNET_KEY"] == lost["REMPART_AIRFLOW_FERNET_KEY"]
    operators.psql(made / "databases.sql")

    pod = {"REMPART_CONTAINERS": "kubernetes", "PGSSLMODE": "prefer"}
    command = ("restore", "--yes", "--wait", "1", *named, "--trust", str(folder / "public.pem"))
    without = {n: v for n, v in operators.environment.items() if not n.startswith("AIRFLOW_CONN_")}
    for number, more in enumerate([(), ("--force",)]):  # the second pod begins anew, with nothing of the first one's
        var = folder / f"pod-{number}"
        var.mkdir()
        (var / "secrets.env").write_text((made / "prepare.env").read_text())
        done = dataclasses.replace(operators, environment=without).run(*command, *more, var=var.name, **pod)
        told = done.stdout + done.stderr
        assert done.returncode == 1 and "MLflow and Airflow are not running yet" in told, told
        assert "docs/how-to/kubernetes.md" in told
        for name in DATABASES:
            assert f"database {name} is restored with the rows on record (" in told and "FAILED" not in told, told
        assert ("2 in place" in told) == bool(number), told

    def role(name: str) -> Connection:
        return parse_connection(f"pg_{name}", after[f"AIRFLOW_CONN_PG_{name.upper()}"])

    with psycopg.connect(role("ledger").postgresql_url()) as session:
        assert session.execute("SELECT has_table_privilege('evidence', 'INSERT')").fetchone() == (True,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("DROP TABLE evidence")
    with psycopg.connect(dataclasses.replace(role("backup"), schema="mlflow").postgresql_url()) as session:
        assert session.execute("SELECT count(*) FROM experiments").fetchone() is not None
    with pytest.raises(psycopg.OperationalError, match="CONNECT privilege"):
        psycopg.connect(dataclasses.replace(role("drill"), schema="airflow").postgresql_url())
    for (bucket, key), body in BODIES.items():
        assert operators.primary().read(getattr(house.config.buckets, bucket), key) == body
