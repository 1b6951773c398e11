"""Change the people who may use Airflow. Each change leaves an anonymous record in the ledger.

Evidence names a person by the number that `rempart users list` shows, because the ledger stores records for years.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rempart.deployment.access import people
from rempart.deployment.access.people import Person, Session
from rempart.deployment.setup.paths import external
from rempart.errors import AccessError
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.settings import access
from rempart.settings.access import LANDING_WATCH_USER, RoleName
from rempart.settings.config import Config, Connection


def new_password() -> str:
    """Return a password of 144 random bits that a person can copy."""
    return secrets.token_urlsafe(18)


@dataclass(frozen=True)
class Users:
    """Context of changes to users. `own` has the names of Rempart's own accounts; `airflow` is Airflow's database."""

    config: Config
    ledger: Callable[[], Ledger]
    own: Callable[[], Collection[str]]
    airflow: Callable[[], Connection]


def users_of(platform: Platform) -> Users:
    """Return the users of the platform's Airflow. Nothing is opened before it is needed."""
    return Users(
        platform.config,
        lambda: platform.ledger,
        lambda: (platform.connections("airflow_api").login, LANDING_WATCH_USER),
        partial(platform.database, "airflow"),
    )


def everybody(users: Users) -> list[Person]:
    """Return the users of Airflow, by name. Raises AccessError, DatabaseUnavailable."""
    _answers(users.config)
    with people.tables(users.airflow()) as session:
        return people.listed(session)


def add(users: Users, name: str, role: str, password: str) -> Person:
    """Add a person, who can log in immediately. Raises AccessError, DatabaseUnavailable, LedgerError."""
    _answers(users.config)
    people.check_name(name)
    people.check_password(password)
    known = _role(role)
    with people.tables(users.airflow()) as session:
        person = people.insert(session, _number(users.ledger(), session), name, known, password)
        _record(users.ledger(), person, "added", role=known)
    return person


def named(users: Users, name: str) -> Person:
    """Return a person whom the platform may change. Raises the errors of `remove`."""
    with _changing(users, name) as (_, person):
        return person


def remove(users: Users, name: str) -> None:
    """Remove a person with all sessions. Raises AccessError, DatabaseUnavailable, LedgerError."""
    with _changing(users, name) as (session, person):
        people.remove(session, person)
        _record(users.ledger(), person, "removed", roles=list(person.roles))


def change_password(users: Users, name: str, password: str) -> None:
    """Set another password and end sessions of the old one. Raises the errors of `remove`."""
    people.check_password(password)
    with _changing(users, name) as (session, person):
        people.set_password(session, person, password)
        _record(users.ledger(), person, "password")


def change_role(users: Users, name: str, role: str) -> None:
    """Replace a person's role. Raises the errors of `remove`."""
    known = _role(role)
    with _changing(users, name) as (session, person):
        people.set_role(session, person, known)
        _record(users.ledger(), person, "role", before=list(person.roles), role=known)


@contextmanager
def _changing(users: Users, name: str) -> Iterator[tuple[Session, Person]]:
    _answers(users.config)
    if name in users.own():
        raise AccessError(
            f"User '{name}' is Rempart's own account",
            "Run `rempart users add` to add a user of your own; `rempart stack password airflow` shows the password of "
            "this account.",
        )
    with people.tables(users.airflow()) as session:
        yield session, people.find(session, name)


def _role(role: str) -> RoleName:
    for known in access.ROLES:
        if known == role:
            return known
    meanings = "; ".join(f"{name}: {access.role(name).meaning}" for name in access.ROLES)
    raise AccessError(f"Role '{role}' does not exist", f"Choose a role: {meanings}.")


def _answers(config: Config) -> None:
    if external(config, "airflow"):
        raise AccessError(
            "rempart.yaml declares Airflow as external, so this platform does not manage its users",
            "Change the users in that Airflow.",
        )
    if config.access.auth_manager != "fab":
        raise AccessError(
            "Airflow has one user, the platform's admin: access.auth_manager is simple",
            "Set access.auth_manager to fab in rempart.yaml, then run `rempart up`.",
        )


def _number(ledger: Ledger, session: Session) -> int:
    """Return a number that no record uses: a restore resets the database, but not always the ledger."""
    number = people.next_number(session)
    while ledger.find("access", f"user {number}", limit=1):
        number = people.next_number(session)
    return number


def _record(ledger: Ledger, person: Person, change: str, **more: Any) -> None:
    ledger.append("access", f"user {person.number}", {"change": change, **more})
