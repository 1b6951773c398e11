"""Find the stores that a backup does not cover: ask the tracking server and the databases for their identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rempart.backup.databases import not_held, postgresql
from rempart.backup.databases.not_held import NotHeld, Registry
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform
from rempart.models import registry
from rempart.settings.config import Connection
from rempart.settings.sections import StackService

RED = "NOT RESTORABLE"
"""Prefix of the line about a champion that could not be restored."""


@dataclass(frozen=True)
class StoreAnswers:
    """Answers collected before the snapshots are opened.

    `server` describes an external tracking server, or why it did not answer; None for the platform's own. `elsewhere`
    lists databases that the role `backup` does not reach, with the reason.
    """

    server: Registry | str | None
    where: str
    elsewhere: Mapping[str, str]


def ask(
    declared: StackService | None,
    tracking_of: Callable[[], Connection],
    database: Callable[[str], Connection],
    databases: Sequence[str],
) -> StoreAnswers:
    """Ask an external tracking server, and each database whose connection differs from that of the backups.

    `declared` is the MLflow service of rempart.yaml. The two functions return a connection if the policy allows it.
    """
    server: Registry | str | None = None
    where = ""
    if declared and declared.external:
        try:
            connection = tracking_of()
            where = connection.http_url()
            server = _contents(connection)
        except RempartError as error:
            server, where = error.what, where or declared.external.url
    backup, elsewhere = database("backup"), {}
    for name in databases:
        if fact := _elsewhere(database, postgresql.for_database(backup, name), name):
            elsewhere[name] = fact
    return StoreAnswers(server, where, elsewhere)


def still_there(asked: StoreAnswers, tracking_of: Callable[[], Connection]) -> StoreAnswers:
    """Return the answers without what an external tracking server shows no more, now that the snapshots are opened.

    A version that was deleted in between is in no dump, also of the right database. A server that does not answer now
    leaves the answers as they are.
    """
    if not isinstance(before := asked.server, Registry):
        return asked
    try:
        now = _contents(tracking_of())
    except RempartError:
        return asked
    return replace(asked, server=Registry(before.experiments & now.experiments, before.versions & now.versions))


def _contents(connection: Connection) -> Registry:
    return Registry(*registry.contents(connection))


def _elsewhere(database: Callable[[str], Connection], dumped: Connection, name: str) -> str | None:
    """Return why the dumped database differs from the platform's own, or None."""
    try:
        used = database(name)
        here, there = _address(dumped), _address(used)
        if here == there:
            return None
        with postgresql.session(used, "read its identity") as opened:
            identity = postgresql.identity(opened)
        with postgresql.session(dumped, "read its identity") as opened:
            same = identity == postgresql.identity(opened)
    except RempartError as error:
        return f"unknown whether its dump is of the database in use ({error.what})"
    return None if same else f"the platform uses the database at {there}, backups dump the one at {here}"


def _address(connection: Connection) -> str:
    return f"{connection.host}:{connection.port or 5432}/{connection.schema}"


def stores(
    asked: StoreAnswers,
    dump: Registry,
    located: Sequence[tuple[str, str]],
    champions: Mapping[str, str],
    buckets: Sequence[str],
) -> tuple[NotHeld, ...]:
    """Return the stores that a restore point does not cover.

    `champions` maps model to version, from the ledger's dump.
    """
    everyone = tuple(f"{name} version {version}" for name, version in sorted(champions.items()))
    found = [NotHeld(f"database {name}", fact, everyone) for name, fact in asked.elsewhere.items()]
    fact = None if asked.server is None else not_held.of_tracking(asked.server, dump, asked.where)
    if fact is not None:
        found.append(NotHeld("mlflow", fact, everyone))
    elif lacking := not_held.champions_lacking(champions, [(name, version) for name, version, _ in dump.versions]):
        found.append(lacking)
    return (*found, *not_held.of_locations(located, buckets))


def lines(platform: Platform) -> list[str]:
    """Yield the stores that the newest restore point does not cover, as lines for people."""
    try:
        newest = next(iter(platform.ledger.find("restore-point", limit=1)), None)
    except RempartError as error:
        return [f"UNKNOWN what restore points cover: {error.what}"]
    return [
        f"{RED if store.needed_by else 'not in restore points'}: {store}"
        for store in (not_held.of_record(newest.body) if newest else ())
    ]
