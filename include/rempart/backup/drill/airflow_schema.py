"""Check the schema of a restored Airflow database: this release works on it, or can migrate it.

The module does not import Airflow. It reads the revisions from Airflow's migration files, and runs `airflow db migrate`
as a process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.drill.tracking_server import MARK
from rempart.errors import BackupError
from rempart.settings.config import Connection
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.spool import spool_folder

MIGRATE_SECONDS = 300.0
AIRFLOW = ("alembic_version", "migrations/versions")
PEOPLE = ("alembic_version_fab", "providers/fab/migrations/versions")
"""Schemas of Airflow's database: the table with the revision, and the folder of its migrations."""
_REVISION = re.compile(r"^(down_revision|revision)\b[^=\n]*=\s*(?:\(\s*)?(None|[\"'][\w, \"']+[\"'])", re.M)
_INHERITED = ("PATH", "LANG")


def revisions(package: str = "airflow", versions: str = "migrations/versions") -> dict[str, str | None]:
    """Return each revision of an installed package's schema with its predecessor. Raises BackupError."""
    installed = find_spec(package)  # finds the package without importing it
    folders = [Path(folder) / versions for folder in (installed and installed.submodule_search_locations) or ()]
    found: dict[str, str | None] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        stated = {name: value.strip("\"'") for name, value in _REVISION.findall(file.read_text(encoding="utf-8"))}
        if "revision" in stated:
            before = stated.get("down_revision", "None")
            found[stated["revision"]] = None if before == "None" else before
    if not found:
        raise BackupError(
            f"The migrations of package {package} were not found", "Install the locked packages again: `make setup`."
        )
    return found


def head(known: Mapping[str, str | None]) -> str:
    """Return the newest revision, which has no successor. Raises BackupError unless there is exactly one."""
    ends = sorted(known.keys() - {before for before in known.values() if before})
    if len(ends) != 1:
        raise BackupError(
            f"The migrations end in {len(ends)} revisions, not in one",
            "Install the locked packages again: `make setup`.",
        )
    return ends[0]


def migrates(connection: Connection, drill_id: str) -> RestoreCheck:
    """Check that a sandbox's copy of Airflow's database has the schemas of this release, or migrates to them.

    The schema of people and roles may be missing; the migration creates it. Raises BackupError, DatabaseUnavailable.
    """
    what = "Airflow's restored database migrates to this release"
    known = {table: revisions("airflow", versions) for table, versions in (AIRFLOW, PEOPLE)}
    found, wanted = _revisions(connection), {table: head(those) for table, those in known.items()}
    if not found[AIRFLOW[0]]:
        return RestoreCheck(what, None, "not run: the database held no schema when the restore point was created")
    if found == wanted:
        return RestoreCheck(what, True, f"the database is at revision {_told(found)}, the newest")
    if later := [
        found_revision
        for table, found_revision in found.items()
        if found_revision and found_revision not in known[table]
    ]:
        return RestoreCheck(
            what, False, f"this release does not know revision {later[0][:40]}: a later release created it"
        )
    migrate(connection, drill_id)
    after = _revisions(connection)
    detail = f"migrated from revision {_told(found)} to {_told(after)}; this release works on {_told(wanted)}"
    return RestoreCheck(what, after == wanted, detail)


def _revisions(connection: Connection) -> dict[str, str]:
    return {table: revision(connection, table) for table, _ in (AIRFLOW, PEOPLE)}


def _told(found: Mapping[str, str]) -> str:
    return f"{found[AIRFLOW[0]]} (people: {found[PEOPLE[0]] or 'none'})"


def revision(connection: Connection, table: str = "alembic_version") -> str:
    """Return the revision of a database's schema; empty if there is none. Raises DatabaseUnavailable."""
    with postgresql.session(connection, "read the revision of its schema") as opened:
        there = opened.execute("SELECT to_regclass(%s)", [f"public.{table}"]).fetchone()
        if not there or there[0] is None:
            return ""
        row = opened.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier("public", table))).fetchone()
    return str(row[0]) if row else ""


def migrate(connection: Connection, drill_id: str) -> None:
    """Run `airflow db migrate` on a database. Raises BackupError, which quotes nothing of the output."""
    with spool_folder() as folder:
        environment = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            MARK: drill_id,
            "HOME": str(folder),
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": connection.postgresql_url("postgresql+psycopg"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": connection.postgresql_url("postgresql+asyncpg"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **TELEMETRY_OFF,
        }
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        try:
            ended = subprocess.run(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=MIGRATE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackupError(
                f"airflow db migrate of the restored database did not end within {MIGRATE_SECONDS:.0f} s",
                "Run the drill when the machine is less busy.",
            ) from None  # its output may hold the database's URL
    if ended.returncode:
        raise BackupError(
            f"airflow db migrate of the restored database failed with exit code {ended.returncode}",
            "Restore the database aside, run `airflow db migrate` on it, and read its output.",
        )
