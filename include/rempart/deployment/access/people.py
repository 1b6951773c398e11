"""The people who may use Airflow, in the tables of its FAB auth manager: Airflow itself may be down.

A change of password or role, and a removal, end the person's logins: sessions are deleted here, and tokens carry a mark
of the password that they were got with (rempart.web.security.auth_manager).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from werkzeug.security import generate_password_hash

from rempart.deployment.servers.postgresql import connect
from rempart.errors import AccessError
from rempart.settings.access import RoleName
from rempart.settings.config import Connection

Session = psycopg.Connection[tuple[object, ...]]
SHORTEST_PASSWORD = 12
_MAKE_TABLES = "Run `rempart up`; in containers, `docker compose up --wait`."
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Person:
    """One user. `number` is what evidence calls it, for that holds no names."""

    number: int
    name: str
    roles: tuple[str, ...]
    active: bool
    last_login: datetime | None


@contextmanager
def tables(database: Connection) -> Iterator[Session]:
    """Open a session in which all changes are made, or none.

    One session at a time. Raises DatabaseUnavailable, AccessError.
    """
    with connect(database) as session, session.transaction():
        if session.execute("SELECT to_regclass('public.ab_user')").fetchone() == (None,):
            raise AccessError(
                f"open the users of Airflow: database '{database.schema}' has no tables of users",
                _MAKE_TABLES,
            )
        session.execute("SELECT pg_advisory_xact_lock(hashtext('rempart people'))")
        yield session


def listed(session: Session) -> list[Person]:
    """Return all people, by name."""
    rows = session.execute(
        "SELECT u.id, u.username, coalesce(array_agg(r.name::text ORDER BY r.name) FILTER (WHERE r.name IS NOT NULL),"
        " '{}'), coalesce(u.active, false), u.last_login FROM ab_user u LEFT JOIN ab_user_role l ON l.user_id = u.id"
        " LEFT JOIN ab_role r ON r.id = l.role_id GROUP BY u.id ORDER BY u.username"
    ).fetchall()
    return [Person(number, name, tuple(roles), active, last) for number, name, roles, active, last in rows]  # type: ignore[arg-type] # as the columns are


def find(session: Session, name: str) -> Person:
    """Return one person. Raises AccessError."""
    for person in (everybody := listed(session)):
        if person.name == name:
            return person
    raise AccessError(
        f"find user '{name}': there is no such user",
        f"Pass one of: {', '.join(person.name for person in everybody) or 'none yet'}.",
    )


def check_name(name: str) -> None:
    """Check that a name cannot be confused with another or with an address. Raises AccessError."""
    if not _NAME.fullmatch(name):
        raise AccessError(
            f"'{name}' is not a valid user name",
            "Use lower case letters, digits, '.', '_' or '-', at most 64 characters.",
        )


def check_password(password: str) -> None:
    """Check that a password is not guessed easily. Raises AccessError."""
    if len(password) < SHORTEST_PASSWORD:
        raise AccessError(
            f"set the password: it has only {len(password)} characters",
            f"Use {SHORTEST_PASSWORD} characters or more, or let Rempart generate a password.",
        )


def next_number(session: Session) -> int:
    """Return an unused number. Numbers used before a restore are unknown here."""
    row = session.execute("SELECT nextval('ab_user_id_seq')").fetchone()
    return int(str(row[0])) if row else 0


def insert(session: Session, number: int, name: str, role: RoleName, password: str) -> Person:
    """Insert a person. Raises AccessError if the name exists."""
    if any(person.name == name for person in listed(session)):
        raise AccessError(
            f"add user '{name}': a user of this name exists already",
            "To change the user's rights, run `rempart users role`.",
        )
    session.execute(
        "INSERT INTO ab_user (id, first_name, last_name, username, email, password, active, login_count,"
        " fail_login_count, created_on, changed_on) VALUES (%(number)s, %(name)s, '', %(name)s,"
        " %(email)s, %(hash)s, true, 0, 0, localtimestamp, localtimestamp)",
        # FAB wants an address, and never writes to it
        {"number": number, "name": name, "email": f"{name}@rempart.invalid", "hash": generate_password_hash(password)},
    )
    person = find(session, name)
    set_role(session, person, role)
    return person


def remove(session: Session, person: Person) -> None:
    """Remove a person with roles and sessions."""
    end_logins(session, person)
    for column in ("created_by_fk", "changed_by_fk"):
        session.execute(f"UPDATE ab_user SET {column} = NULL WHERE {column} = %s", [person.number])  # noqa: S608
    for table in ("ab_user_role", "ab_user_group"):
        session.execute(f"DELETE FROM {table} WHERE user_id = %s", [person.number])  # noqa: S608
    session.execute("DELETE FROM ab_user WHERE id = %s", [person.number])


def set_role(session: Session, person: Person, role: RoleName) -> None:
    """Set this role and no other, including roles from groups."""
    for table in ("ab_user_role", "ab_user_group"):
        session.execute(f"DELETE FROM {table} WHERE user_id = %s", [person.number])  # noqa: S608
    updated = session.execute(
        "INSERT INTO ab_user_role (id, user_id, role_id) SELECT nextval('ab_user_role_id_seq'), %s, id FROM ab_role"
        " WHERE name = %s",
        [person.number, role],
    )
    if updated.rowcount != 1:
        raise AccessError(f"set role '{role}': it does not exist in Airflow's database yet", _MAKE_TABLES)


def set_password(session: Session, person: Person, password: str) -> None:
    """Set a new password."""
    session.execute(
        "UPDATE ab_user SET password = %s, active = true, fail_login_count = 0, changed_on = localtimestamp"
        " WHERE id = %s",
        [generate_password_hash(password), person.number],
    )
    end_logins(session, person)


def password_hash(session: Session, person: Person) -> str:
    row = session.execute("SELECT password FROM ab_user WHERE id = %s", [person.number]).fetchone()
    return str(row[0] or "") if row else ""


def end_logins(session: Session, person: Person) -> None:
    """Delete a person's browser sessions, because each of them could request new tokens."""
    import msgspec

    rows = session.execute("SELECT id, data FROM session WHERE data IS NOT NULL").fetchall()
    for number, data in rows:
        try:
            held = msgspec.msgpack.decode(data)  # type: ignore[call-overload] # bytes
        except msgspec.DecodeError:
            continue
        if isinstance(held, dict) and str(held.get("_user_id")) == str(person.number):
            session.execute("DELETE FROM session WHERE id = %s", [number])
