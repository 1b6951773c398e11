"""Targets of a restore: the live platform, or a sandbox beside it that holds no live name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from rempart.errors import BackupError, ConnectionMissing
from rempart.settings.config import DATABASES, Config, Connection, Connections
from rempart.sites.port import Site

OWNERS = {"ledger": "ledger_owner"}
"""Databases whose owner role has another name and cannot log in."""
_SYSTEM = frozenset({"postgres", "template0", "template1"})
_DATABASE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Target(Protocol):
    """Protocol of the place that a restore fills.

    `administrator` may create databases. `may_replace` allows dropping existing data.
    """

    @property
    def administrator(self) -> Connection: ...

    @property
    def site(self) -> Site: ...

    @property
    def may_replace(self) -> bool: ...

    def database(self, name: str) -> str:
        """Return the name that a platform database has here."""

    def connection(self, name: str) -> Connection:
        """Return the connection that fills and reads a database."""

    def owner(self, name: str) -> str | None:
        """Return the role that owns a database, or None for the administrator."""

    def acts_as(self, name: str) -> str | None:
        """Return the role that the connection must take to fill a database, or None for its own."""

    def bucket(self, logical: str) -> str:
        """Return the bucket that a logical bucket has here."""


@dataclass(frozen=True)
class LiveTarget:
    """The platform's own databases and buckets. `open_site` opens the site when the first object needs it."""

    administrator: Connection
    connections: Connections
    buckets: Mapping[str, str]
    open_site: Callable[[], Site]
    may_replace: bool = False

    @cached_property
    def site(self) -> Site:
        return self.open_site()

    def database(self, name: str) -> str:
        return name

    def connection(self, name: str) -> Connection:
        """Return the connection of the database's owner, or of the administrator if the owner cannot log in."""
        return replace(self.administrator if name in OWNERS else self.connections(f"pg_{name}"), schema=name)

    def owner(self, name: str) -> str | None:
        return OWNERS.get(name, name)

    def acts_as(self, name: str) -> str | None:
        return OWNERS.get(name)

    def bucket(self, logical: str) -> str:
        return self.buckets[logical]


@dataclass(frozen=True)
class LiveNames:
    """Databases and buckets of the running platform, which no sandbox may have."""

    databases: frozenset[str]
    buckets: frozenset[str]


def live_names(config: Config, connections: Connections) -> LiveNames:
    """Return the names of the platform's databases, by name and as its connections have them, and of its buckets."""
    databases = {*DATABASES, *_SYSTEM}
    for name in DATABASES:
        with suppress(ConnectionMissing):  # this process cannot fill a database that it cannot reach
            databases.add(connections(f"pg_{name}").schema)
    return LiveNames(frozenset(databases), frozenset(map(str, config.buckets.model_dump().values())))


@dataclass(frozen=True)
class Sandbox:
    """Databases and buckets of its own beside the platform. Raises BackupError if one of them is a live name.

    `databases` and `buckets` map the platform's names to names that exist only for this sandbox. Databases are reached
    only through `administrator`; `owners` are the roles that get them (default: the administrator keeps them).
    """

    administrator: Connection
    site: Site
    databases: Mapping[str, str]
    buckets: Mapping[str, str]
    live: LiveNames = field(repr=False)
    owners: Mapping[str, str] = field(default_factory=dict)
    may_replace: bool = False

    def __post_init__(self) -> None:
        _refuse("database", self.databases, self.live.databases, _DATABASE)
        _refuse("bucket", self.buckets, self.live.buckets, _BUCKET)
        if self.administrator.schema in self.live.databases - _SYSTEM:
            raise BackupError(
                f"Connection '{self.administrator.name}' of a sandbox leads to database '{self.administrator.schema}' "
                "of the running platform",
                "Use the connection of a role that may create databases, such as pg_drill.",
            )

    def database(self, name: str) -> str:
        return _own("database", self.databases, name)

    def connection(self, name: str) -> Connection:
        return replace(self.administrator, schema=self.database(name))

    def owner(self, name: str) -> str | None:
        return self.owners.get(name)

    def acts_as(self, name: str) -> str | None:
        return self.owners.get(name)

    def bucket(self, logical: str) -> str:
        return _own("bucket", self.buckets, logical)


def _own(what: str, names: Mapping[str, str], name: str) -> str:
    if name not in names:
        raise BackupError(
            f"The sandbox has no {what} for '{name}'", f"Build the sandbox with a {what} for each part to restore."
        )
    return names[name]


def _refuse(what: str, names: Mapping[str, str], live: frozenset[str], form: re.Pattern[str]) -> None:
    taken = list(names.values())
    for name in taken:
        if name in live:
            raise BackupError(
                f"{what.capitalize()} '{name}' belongs to the running platform, so no sandbox may use it",
                f"Give each {what} of a sandbox a name of its own.",
            )
        if not form.fullmatch(name):
            raise BackupError(
                f"'{name[:70]}' cannot be the name of a {what}", "Use lower-case letters, digits and separators."
            )
        if taken.count(name) > 1:
            raise BackupError(
                f"Two parts of a sandbox share the {what} '{name}'", f"Give each {what} of a sandbox a name of its own."
            )
