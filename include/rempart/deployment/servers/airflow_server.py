"""Airflow's components: their database, their user, and the answers that prove them. No import of Airflow here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from psycopg import sql

from rempart import private_files
from rempart.airflow_api import last_words
from rempart.backup.drill import airflow_schema
from rempart.counts import counted
from rempart.deployment.servers import rest
from rempart.deployment.servers.postgresql import connect
from rempart.deployment.setup import environment
from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError
from rempart.settings.access import LANDING_WATCH
from rempart.settings.config import Connection, Connections

ERRORS = 20
"""Limit of import errors that are reported one by one."""
FAB = "apache-airflow-providers-fab"
"""Package with its own tables in Airflow's database, which `airflow db migrate` makes and migrates too."""


def write_users(stack: Stack, resolve: Connections) -> None:
    """Write the passwords of the admin and of the landing watch for Airflow's simple auth manager.

    With FAB their hashes are in the database.
    """
    stack.airflow_home.mkdir(parents=True, exist_ok=True)
    file = stack.airflow_home / "passwords.json"
    if stack.config.access.auth_manager != "simple":
        file.unlink(missing_ok=True)
        return
    accounts = [resolve(name) for name in ("airflow_api", LANDING_WATCH)]
    text = json.dumps({account.login: account.password for account in accounts})
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        private_files.write(file, text)


def database_revision(database: Connection, table: str = "alembic_version") -> str:
    """Return the schema's revision, or an empty text without a schema. Raises DatabaseUnavailable."""
    with connect(database) as session:
        if session.execute("SELECT to_regclass(%s)", [f"public.{table}"]).fetchone() == (None,):
            return ""
        row = session.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(table))).fetchone()
    return str(row[0]) if row else ""


def begin_migration(stack: Stack, secrets: Mapping[str, str], database: Connection) -> subprocess.Popen[bytes] | None:
    """Start `airflow db migrate` unless this version has already migrated this very schema."""
    if (stack.state / "airflow-migrated").is_file() and database_revision(database):
        recorded = (stack.state / "airflow-migrated").read_text(encoding="utf-8")
        if recorded == _migrated(database):
            return None
    variables = environment.airflow(stack, secrets, os.environ, "airflow-migrate") | {
        environment.MARKER: f"{stack.id}:airflow-migrate"
    }
    with (stack.logs / "airflow-migrate.log").open("wb") as log:
        return subprocess.Popen(
            [stack.python, "-m", "airflow", "db", "migrate"],
            env=variables,
            cwd=stack.var,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _migrated(database: Connection) -> str:
    users = f"{version(FAB)} {database_revision(database, airflow_schema.PEOPLE[0])}"
    return f"{version('apache-airflow-core')} {database_revision(database)} {users}\n"


def end_migration(stack: Stack, code: int, database: Connection) -> None:
    """Record a finished migration. Raises StackError if it failed."""
    log = stack.logs / "airflow-migrate.log"
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise StackError(
            f"migrate Airflow's database: `airflow db migrate` ended with exit code {code}:\n{tail}", f"Read {log}."
        )
    (stack.state / "airflow-migrated").write_text(_migrated(database), encoding="utf-8")


@dataclass(frozen=True)
class Health:
    """Health of Airflow: how many DAGs it parsed, and files that it could not import."""

    dags: int
    import_errors: tuple[str, ...] = field(default=())


def token(connection: Connection) -> str:
    """Return a bearer token for the REST API. Raises StackError."""
    answer = rest.call(
        "POST",
        f"{connection.http_url()}/auth/token",
        body={"username": connection.login, "password": connection.password},
    )
    return str(answer["access_token"])


def stale(monitor: Mapping[str, Any], since: Mapping[str, datetime]) -> list[str]:
    """Return components that are unhealthy, or whose last heartbeat is older than their process."""
    late = []
    if monitor["metadatabase"]["status"] != "healthy":
        late.append("metadata database")
    for name in ("scheduler", "triggerer", "dag_processor"):
        answer = monitor.get(name) or {}
        beat = answer.get(f"latest_{name}_heartbeat")
        started = since.get(f"airflow-{name.replace('_', '-')}", datetime.min.replace(tzinfo=UTC))
        if answer.get("status") != "healthy" or not beat or datetime.fromisoformat(beat) < started:
            late.append(name.replace("_", " "))
    return late


def check(connection: Connection, since: Mapping[str, datetime], expects_dags: bool) -> Health:
    """Check heartbeats of all components, the API login, and a parsed DAG if the project has any. Raises StackError."""
    url = connection.http_url()
    if late := stale(rest.call("GET", f"{url}/api/v2/monitor/health"), since):
        raise StackError(
            f"start Airflow: no heartbeat yet from {', '.join(late)}", "Read their logs (`rempart stack logs`)."
        )
    bearer = token(connection)
    dags = rest.call("GET", f"{url}/api/v2/dags?limit=1", bearer=bearer)["total_entries"]
    listed = rest.call("GET", f"{url}/api/v2/importErrors?limit={ERRORS}", bearer=bearer)
    broken = tuple(f"{e['filename']}: {last_words(str(e['stack_trace']))[:2000]}" for e in listed["import_errors"])
    if (more := listed["total_entries"] - len(broken)) > 0:
        broken += (f"{counted(more, 'more file has', 'more files have')} import errors",)
    if expects_dags and not dags:
        raise StackError(
            "start Airflow: no DAG is parsed yet" + "".join(f"\n{line}" for line in broken),
            "Correct the DAG files, or read the log of airflow-dag-processor.",
        )
    return Health(dags, broken)


def expects_dags(stack: Stack) -> bool:
    """Return whether the project has DAG files."""
    return any((stack.root / "dags").glob("*.py"))


def check_external(connection: Connection) -> str:
    """Check an external Airflow: it is healthy, and accepts the connection. Raises StackError, DatabaseUnavailable."""
    health = check(connection, {}, expects_dags=False)
    return f"{health.dags} DAGs"
