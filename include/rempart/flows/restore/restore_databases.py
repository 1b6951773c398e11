"""Databases of a restore point: made anew, filled from their dumps, compared with the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace

from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import restore_from
from rempart.backup.drill.checks import Check, of_database
from rempart.backup.points.points import Dump
from rempart.backup.points.restoring import Meter
from rempart.coordination import database as continuity
from rempart.deployment.servers import postgresql as embedded
from rempart.deployment.setup import credentials
from rempart.deployment.setup.layout import Stack
from rempart.errors import BackupError, RempartError
from rempart.settings import config as configuration
from rempart.settings.config import Connection, Connections

OWNERS = {"ledger": "ledger_owner"}
"""Databases that belong to another role than that of their name; it cannot log in."""
AT_ONCE = 3
"""Databases that are restored at a time: the small ones beside the largest."""


@dataclass(frozen=True)
class Server:
    """Where databases are restored to. `administrator` may make databases and act as their owners.

    `suffix` ends the names of databases that are restored beside the platform's own. `replace`: what a database holds
    may be dropped.
    """

    administrator: Connection
    connections: Connections
    tools: postgresql.Tools
    suffix: str | None = None
    replace: bool = False

    def name(self, database: str) -> str:
        """What a database is called here."""
        return f"{database}_{self.suffix}" if self.suffix else database

    def connection(self, database: str) -> Connection:
        """Its owner's connection; the administrator's if the owner cannot log in."""
        owner = self.administrator if database in OWNERS else self.connections(f"pg_{database}")
        return replace(owner, schema=self.name(database))

    def restore(self, repository: Repository, dump: Dump) -> list[Check]:
        """Make a database anew, fill it, and compare it with what is on record. What it held is gone: see `in_place`.

        Raises BackupError, DatabaseUnavailable, IntegrityError, and what the repository raises.
        """
        self._make(dump.name)
        target = self.connection(dump.name)
        with self._as_owner(dump.name):
            restore_from(self.tools, repository, dump.snapshot, target, database=dump.name, sha256=dump.sha256)
        return self.compare(dump)

    def compare(self, dump: Dump) -> list[Check]:
        """A restored database beside its manifest: rows, and content where the manifest has its digest."""
        with postgresql.session(self.connection(dump.name), "compare what was restored") as opened:
            rows = postgresql.row_counts(opened)
            digests = postgresql.digests(opened) if dump.digests else {}
        return of_database(f"database {dump.name} has the rows on record", dump, rows, digests)

    def in_place(self, dump: Dump) -> list[Check]:
        """The checks of a database that holds exactly what is on record; none if it is not there, or holds no row.

        Raises BackupError if it holds other rows, unless they may be dropped.
        """
        full = self._filled(dump.name)
        if not full:
            return []
        checks = self.compare(dump)
        if all(check.ok for check in checks):
            return checks
        if self.replace:
            return []
        raise BackupError(
            f"Database '{self.name(dump.name)}' is not empty: {full[0]} has rows"
            + (f", and so have {len(full) - 1} other tables" if len(full) > 1 else ""),
            "Restore beside it with --aside, or say --i-know: then it is dropped, with all that it holds.",
        )

    def _filled(self, database: str) -> list[str]:
        """Its tables that have rows; none if it is not there."""
        name = self.name(database)
        with postgresql.session(self.administrator, f"look for database {name}") as opened:
            if opened.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                return []
        with postgresql.session(replace(self.administrator, schema=name), f"look into database {name}") as opened:
            return [f"{one[0]}.{one[1]}" for one in postgresql.tables(opened) if _has_rows(opened, *one)]

    def _make(self, database: str) -> None:
        """An empty database of this name, with the rights that its owner needs and no more."""
        name, owner = sql.Identifier(self.name(database)), OWNERS.get(database, database)
        with postgresql.session(self.administrator, f"make database {self.name(database)}") as opened:
            postgresql.drop_database(opened, self.name(database))
            opened.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(name, sql.Identifier(owner))
            )
            opened.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))

    @contextmanager
    def _as_owner(self, database: str) -> Iterator[None]:
        """Whatever the administrator makes there meanwhile belongs to its owner."""
        owner = OWNERS.get(database)
        if owner is None:
            yield
            return
        role, name = sql.Identifier(self.administrator.login), sql.Identifier(self.name(database))
        setting = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(role, name)
        with postgresql.session(self.administrator, f"restore as {owner}") as opened:
            # pg_restore connects by itself: a setting of the database alone makes it act as the owner
            opened.execute(setting + sql.SQL(" SET role = {}").format(sql.Literal(owner)))
            try:
                yield
            finally:
                opened.execute(setting + sql.SQL(" RESET role"))

    def drop(self, database: str) -> None:
        """Remove a database that was restored beside the platform's own. Raises BackupError for any other."""
        if not self.suffix:
            raise BackupError(
                f"Database '{database}' is the platform's own", "Only what was restored aside is removed."
            )
        with postgresql.session(self.administrator, f"drop database {self.name(database)}") as opened:
            postgresql.drop_database(opened, self.name(database))


def administrator(stack: Stack, connections: Connections = configuration.environment_connections) -> Connection:
    """Who may make databases on the stack's server: its own superuser, or whom `services` names. Raises ConfigError."""
    if declared := stack.external("postgresql"):
        return connections(declared.connection)
    return credentials.superuser(stack, configuration.read_env_file(stack.secrets))


def give_rights(stack: Stack, say: Callable[[str], object]) -> None:
    """Rights and triggers as they must be, which no dump holds; roles as well on the stack's own server.

    Raises DatabaseUnavailable.
    """
    if stack.external("postgresql"):
        embedded.give_rights(stack, administrator(stack))
        say("rights: the roles have theirs")
        return
    resolve = credentials.connections(stack, configuration.read_env_file(stack.secrets))
    embedded.bootstrap(stack, administrator(stack), resolve)


def restore_all(
    server: Server,
    dumps: Sequence[Dump],
    repository: Callable[[Dump], Repository],
    done: Callable[[Dump, list[Check]], object],
    say: Callable[[str], object],
) -> None:
    """Restore those that are not in place, several at a time; `done` gets the checks of each.

    One that fails does not stop the others; afterwards the first error is raised. Nothing is dropped before every one
    was looked at. Raises as `Server.in_place` and `Server.restore` do.
    """
    found = {dump.name: server.in_place(dump) for dump in dumps}
    todo = [dump for dump in dumps if not found[dump.name]]
    for dump in dumps:
        if found[dump.name]:
            done(dump, found[dump.name])
    meter, failures = Meter("databases", sum(one.bytes for one in todo), time.monotonic()), list[RempartError]()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="databases") as pool:
        running = {pool.submit(server.restore, repository(dump), dump): dump for dump in todo}
        for outcome in as_completed(running):
            dump = running[outcome]
            try:
                done(dump, outcome.result())
            except RempartError as error:
                failures.append(error)
                continue
            if line := meter.add(dump.bytes, time.monotonic()):
                say(line)
    if failures:
        raise failures[0]


def _has_rows(opened: postgresql.Session, schema: str, table: str) -> bool:
    found = opened.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, table))).fetchone()
    return found is not None


def forget_replicas(connection: Connection, site: str) -> int:
    """Forget what replication knew of a site whose objects were restored; how many replicas.

    Their versions have other names now, and the old ones would look like objects that vanished. It is learnt anew at
    the next run, and nothing is copied twice for it.
    """
    with continuity.session(connection, "forget the replicas of a restored site") as opened, opened.transaction():
        gone = opened.execute("DELETE FROM replica WHERE source = %s OR target = %s", [site, site]).rowcount
        opened.execute("DELETE FROM comparison WHERE source = %s OR target = %s", [site, site])
    return gone
