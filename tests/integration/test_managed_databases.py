"""databases.sql on a real PostgreSQL, run by a role that may create roles and databases but is no superuser."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from rempart.deployment.kubernetes import cluster
from rempart.deployment.servers import postgresql
from rempart.deployment.setup import services
from rempart.errors import DatabaseUnavailable
from rempart.settings.config import DATABASES, Connection, parse_connection
from tests.integration.own_servers import own_servers
from tests.unit.deploy.platform_files import given, stack


def test_an_operators_first_role_makes_the_databases_twice_and_each_role_enters_its_own(tmp_path: Path) -> None:
    inside = cluster.in_cluster(stack(tmp_path))
    script, operator = tmp_path / "databases.sql", "operators_first"
    with own_servers(tmp_path / "var") as servers:
        with postgresql.connect(servers.superuser) as session:  # as bare as an operator hands it over
            for name in DATABASES:
                session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            session.execute("REVOKE CONNECT ON DATABASE postgres FROM drill, backup")
            for role in (*inside.config.roles, "ledger_owner"):
                session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
            session.execute(f"CREATE ROLE {operator} LOGIN CREATEROLE CREATEDB PASSWORD 'first'")
            session.execute(f"GRANT CONNECT ON DATABASE postgres TO {operator}")
            session.execute(f"GRANT pg_read_all_data TO {operator} WITH ADMIN OPTION")
        place = servers.superuser
        environment = {**os.environ, "PGPASSWORD": "first"}
        command = [
            services.postgresql_binary("psql"),
            "--quiet",
            "--no-psqlrc",
            "--host",
            place.host,
            "--port",
            str(place.port),
        ]
        command += ["--username", operator, "--dbname", "postgres", "--file", script]
        for _ in range(2):  # the second time with renewed passwords
            secrets = cluster.plan(inside, {}, given())
            script.write_text(cluster.files(inside, secrets)["databases.sql"])
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr

        def resolve(name: str) -> Connection:
            made = parse_connection(name, secrets[f"AIRFLOW_CONN_{name.upper()}"])
            schema = "airflow" if made.schema == "postgres" else made.schema
            return replace(made, host=place.host, port=place.port, schema=schema, extra={})  # this one has no TLS

        assert postgresql.check_roles(resolve, [*DATABASES, "backup"]) == "all 8 roles can log in"
        with pytest.raises(DatabaseUnavailable, match="CONNECT privilege"):
            postgresql.connect(replace(resolve("pg_mlflow"), schema="airflow"))
        with postgresql.connect(resolve("pg_ledger")) as session:
            session.execute("SELECT count(*) FROM evidence")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("DROP TABLE evidence")
        with postgresql.connect(replace(resolve("pg_backup"), schema="continuity")) as session:
            session.execute("SELECT count(*) FROM active_site")
