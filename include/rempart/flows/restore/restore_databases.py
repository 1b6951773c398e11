"""Restore the databases of a restore point: create, fill from the dump, compare with the manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace

from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import restore_from
from rempart.backup.drill.checks import RestoreCheck, of_database, restored_as_recorded
from rempart.backup.points.points import Dump
from rempart.backup.points.restore_plan import Meter
from rempart.coordination import database as continuity
from rempart.deployment.servers import postgresql as embedded
from rempart.deployment.setup import credentials
from rempart.deployment.setup.paths import Stack
from rempart.errors import BackupError, RempartError
from rempart.flows.restore.targets import Target
from rempart.settings import config as configuration
from rempart.settings.config import Connection, Connections

logger = logging.getLogger(__name__)

AT_ONCE = 3
"""Number of databases restored in parallel: the small ones run along with the largest."""


@dataclass(frozen=True)
class Server:
    """The databases of a target: creates, fills and compares them."""

    target: Target
    tools: postgresql.Tools

    def restore(self, repository: Repository, dump: Dump) -> list[RestoreCheck]:
        """Create a database, fill it from its dump, and compare it with the manifest. Existing data is lost; see
        `in_place`.

        Raises BackupError, DatabaseUnavailable, IntegrityError, and the errors of the repository.
        """
        self._make(dump.name)
        target = self.target.connection(dump.name)
        with self._as_owner(dump.name):
            restore_from(self.tools, repository, dump.snapshot, target, database=dump.name, sha256=dump.sha256)
        return self.compare(dump)

    def compare(self, dump: Dump) -> list[RestoreCheck]:
        """Compare a restored database with its manifest: row counts, and content if the manifest has its digest."""
        with postgresql.session(self.target.connection(dump.name), "compare the restored data") as opened:
            rows = postgresql.row_counts(opened)
            digests = postgresql.digests(opened) if dump.digests else {}
        return of_database(restored_as_recorded(dump.name), dump, rows, digests)

    def in_place(self, dump: Dump) -> list[RestoreCheck]:
        """Return the checks of a database that equals its record; empty if it is missing or has no rows.

        Raises BackupError if it holds other rows and may not be dropped.
        """
        full = self._filled(dump.name)
        if not full:
            return []
        checks = self.compare(dump)
        if all(check.ok for check in checks):
            return checks
        if self.target.may_replace:
            return []
        raise BackupError(
            f"Database '{self.target.database(dump.name)}' is not empty: {full[0]} has rows"
            + (f", and so have {len(full) - 1} other tables" if len(full) > 1 else ""),
            "Restore side by side with --aside, or pass --force to drop the database and all its data.",
        )

    def _filled(self, database: str) -> list[str]:
        """Return the tables that have rows; empty if the database is missing."""
        name, administrator = self.target.database(database), self.target.administrator
        with postgresql.session(administrator, f"check whether database {name} exists") as opened:
            if opened.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                return []
        with postgresql.session(replace(administrator, schema=name), f"read the tables of database {name}") as opened:
            return [f"{table[0]}.{table[1]}" for table in postgresql.tables(opened) if _has_rows(opened, *table)]

    def _make(self, database: str) -> None:
        """Create an empty database with only the rights that its owner needs."""
        physical, owner = self.target.database(database), self.target.owner(database)
        name = sql.Identifier(physical)
        owned = sql.SQL(" OWNER {}").format(sql.Identifier(owner)) if owner else sql.SQL("")
        with postgresql.session(self.target.administrator, f"make database {physical}") as opened:
            postgresql.drop_database(opened, physical)
            opened.execute(sql.SQL("CREATE DATABASE {}{} TEMPLATE template0").format(name, owned))
            opened.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))

    @contextmanager
    def _as_owner(self, database: str) -> Iterator[None]:
        """Give new objects of the administrator in this database to the database's owner."""
        owner, administrator = self.target.acts_as(database), self.target.administrator
        if owner is None:
            yield
            return
        role, name = sql.Identifier(administrator.login), sql.Identifier(self.target.database(database))
        setting = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(role, name)
        with postgresql.session(administrator, f"restore as {owner}") as opened:
            # pg_restore connects by itself: a setting of the database alone makes it act as the owner
            opened.execute(setting + sql.SQL(" SET role = {}").format(sql.Literal(owner)))
            try:
                yield
            finally:
                opened.execute(setting + sql.SQL(" RESET role"))


def administrator(stack: Stack, connections: Connections = configuration.environment_connections) -> Connection:
    """Return a role that may create databases: the stack's superuser, or the role in `services`. Raises ConfigError."""
    if declared := stack.external("postgresql"):
        return connections(declared.connection)
    return credentials.superuser(stack, configuration.read_env_file(stack.secrets))


def give_rights(stack: Stack) -> None:
    """Set the rights and triggers that dumps do not hold, and create the roles on the stack's own server.

    Raises DatabaseUnavailable.
    """
    if stack.external("postgresql"):
        embedded.give_rights(stack, administrator(stack))
        logger.info("set the rights of the roles")
        return
    resolve = credentials.connections(stack, configuration.read_env_file(stack.secrets))
    embedded.bootstrap(stack, administrator(stack), resolve)


def restore_all(
    server: Server,
    dumps: Sequence[Dump],
    repository: Callable[[Dump], Repository],
    done: Callable[[Dump, list[RestoreCheck]], object],
) -> dict[str, RempartError]:
    """Restore several databases in parallel, except those already in place. `done` gets the checks of each.

    Return the errors by database, in the order in which they occurred: a failure does not stop the others. Every
    database is inspected before any is dropped. Raises the errors of `Server.in_place`.
    """
    found = {dump.name: server.in_place(dump) for dump in dumps}
    todo = [dump for dump in dumps if not found[dump.name]]
    for dump in dumps:
        if found[dump.name]:
            done(dump, found[dump.name])
    meter = Meter("databases", sum(database.bytes for database in todo), time.monotonic())
    failures = dict[str, RempartError]()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="databases") as pool:
        running = {pool.submit(lambda dump: server.restore(repository(dump), dump), dump): dump for dump in todo}
        try:
            for outcome in as_completed(running):
                dump = running[outcome]
                try:
                    done(dump, outcome.result())
                except RempartError as error:
                    failures[dump.name] = error
                    continue
                if line := meter.add(dump.bytes, time.monotonic()):
                    logger.info("%s", line)
        except BaseException:  # Ctrl-C or a time limit: those that wait must not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _has_rows(opened: postgresql.Session, schema: str, table: str) -> bool:
    found = opened.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, table))).fetchone()
    return found is not None


def forget_replicas(connection: Connection, site: str) -> int:
    """Delete the replication catalogue's rows about a site with restored objects. Return the number of replicas.

    Restored versions have new ids, so the old rows would look like lost objects. The next run catalogues the new
    versions and copies nothing twice.
    """
    with continuity.session(connection, "forget the replicas of a restored site") as opened, opened.transaction():
        gone = opened.execute("DELETE FROM replica WHERE source = %s OR target = %s", [site, site]).rowcount
        opened.execute("DELETE FROM comparison WHERE source = %s OR target = %s", [site, site])
    return gone
