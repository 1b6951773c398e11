"""Write the roles of rempart.settings.access, and Rempart's own accounts, into the tables of Airflow's FAB.

Pure: it computes the differences between the table and the database. A team's own roles stay unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql
from werkzeug.security import check_password_hash

from rempart.deployment.access import people
from rempart.deployment.access.people import Session
from rempart.deployment.setup.paths import Stack
from rempart.settings import access
from rempart.settings.access import LANDING_WATCH, Permission, RoleName
from rempart.settings.config import Connection, Connections


@dataclass(frozen=True)
class Change:
    """One permission that a role lacks and is `given`, or has by hand and is not."""

    role: str
    permission: Permission
    given: bool

    def line(self) -> str:
        action, resource = self.permission
        verb = (
            "had lost a permission, which was restored:"
            if self.given
            else ("had a permission that was granted by hand, which was removed:")
        )
        return f"role {self.role} {verb} {action} on {resource}"


def plan(
    roles: Iterable[access.Role], existing: Mapping[str, frozenset[Permission]]
) -> tuple[tuple[str, ...], tuple[Change, ...]]:
    """Return missing roles, and changes of all roles' permissions. `existing`: permissions by role."""
    missing, changes = [], []
    for role in roles:
        has = existing.get(role.name, frozenset())
        if role.name not in existing:
            missing.append(role.name)
        changes += [Change(role.name, permission, True) for permission in sorted(role.permissions - has)]
        changes += [Change(role.name, permission, False) for permission in sorted(has - role.permissions)]
    return tuple(missing), tuple(changes)


def admit(stack: Stack, resolve: Connections) -> list[str]:
    """Return the result of `synchronise` if Airflow uses FAB. Raises DatabaseUnavailable, AccessError."""
    if stack.config.access.auth_manager != "fab":
        return []
    own: dict[RoleName, Connection] = {"admin": resolve("airflow_api"), "caller": resolve(LANDING_WATCH)}
    return synchronise(resolve("pg_airflow"), own)


def synchronise(database: Connection, own: Mapping[RoleName, Connection]) -> list[str]:
    """Write roles, and Rempart's `own` accounts. Return what was corrected, and people with roles that are not ours.

    Changes nothing if all is in place. Raises DatabaseUnavailable, AccessError without the tables.
    """
    with people.tables(database) as session:
        roles = [access.role(name) for name in access.ROLES]
        missing, changes = plan(roles, _found(session))
        _names(session, "ab_role", missing)
        for given in (True, False):
            _write(session, [change for change in changes if change.given is given], given=given)
        lines = [f"created roles {', '.join(missing)}"] if missing else []
        lines += [change.line() for change in changes if change.role not in missing]
        for role, account in own.items():
            lines += _own_account(session, account, role)
        session.execute("DELETE FROM session WHERE expiry < timezone('utc', now())")  # each look at the login makes one
        for person in people.listed(session):
            if others := set(person.roles) - set(access.ROLES):
                lines.append(f"{person.name} has roles that are not Rempart's: {', '.join(sorted(others))}")
    return lines


def _own_account(session: Session, account: Connection, role: RoleName) -> list[str]:
    """Ensure a user of Rempart's own: existing, active, with its generated password and only its role."""
    person = next((person for person in people.listed(session) if person.name == account.login), None)
    if person is None:
        people.insert(session, people.next_number(session), account.login, role, account.password)
        return [f"created user {account.login}, which Rempart itself uses"]
    lines = []
    if person.roles != (role,):
        people.set_role(session, person, role)
        lines.append(f"user {account.login} had roles {', '.join(person.roles) or 'none'}; set to {role}")
    if not person.active or not check_password_hash(people.password_hash(session, person), account.password):
        people.set_password(session, person, account.password)
        lines.append(f"user {account.login} was inactive or had another password; active again with its own password")
    return lines


def _found(session: Session) -> dict[str, frozenset[Permission]]:
    rows = session.execute(
        "SELECT r.name, a.name, v.name FROM ab_role r LEFT JOIN ab_permission_view_role l ON l.role_id = r.id "
        "LEFT JOIN ab_permission_view p ON p.id = l.permission_view_id LEFT JOIN ab_permission a "
        "ON a.id = p.permission_id LEFT JOIN ab_view_menu v ON v.id = p.view_menu_id WHERE r.name = ANY(%s)",
        [list(access.ROLES)],
    ).fetchall()
    permissions_of: dict[str, set[Permission]] = {}
    for role, action, resource in rows:
        permissions_of.setdefault(str(role), set())
        if action is not None and resource is not None:
            permissions_of[str(role)].add((str(action), str(resource)))
    return {role: frozenset(permissions) for role, permissions in permissions_of.items()}


def _names(session: Session, table: str, names: Iterable[str]) -> None:
    """Return rows of one of FAB's tables of names. Existing rows are kept."""
    session.execute(
        sql.SQL(
            "INSERT INTO {0} (id, name) SELECT nextval({1}), n FROM unnest(%s::text[]) n"
            " WHERE NOT EXISTS (SELECT FROM {0} WHERE name = n) ON CONFLICT DO NOTHING"
        ).format(sql.Identifier(table), sql.Literal(f"{table}_id_seq")),
        [sorted(set(names))],
    )


_CHANGED = sql.SQL(
    "FROM unnest(%s::text[], %s::text[], %s::text[]) AS w(role, action, resource) JOIN ab_role r ON r.name = w.role"
    " JOIN ab_permission a ON a.name = w.action JOIN ab_view_menu v ON v.name = w.resource"
)
_PAIR = sql.SQL("JOIN ab_permission_view p ON p.permission_id = a.id AND p.view_menu_id = v.id")
_TAKE = sql.SQL(
    "DELETE FROM ab_permission_view_role l USING (SELECT r.id AS role, p.id AS pair {} {}) d"
    " WHERE l.role_id = d.role AND l.permission_view_id = d.pair"
).format(_CHANGED, _PAIR)
_MAKE = sql.SQL(
    "INSERT INTO ab_permission_view (id, permission_id, view_menu_id) SELECT nextval('ab_permission_view_id_seq'),"
    " d.action, d.resource FROM (SELECT DISTINCT a.id AS action, v.id AS resource {}) d WHERE NOT EXISTS (SELECT FROM"
    " ab_permission_view p WHERE p.permission_id = d.action AND p.view_menu_id = d.resource) ON CONFLICT DO NOTHING"
).format(_CHANGED)
_GIVE = sql.SQL(
    "INSERT INTO ab_permission_view_role (id, permission_view_id, role_id) SELECT"
    " nextval('ab_permission_view_role_id_seq'), p.id, r.id {} {} ON CONFLICT DO NOTHING"
).format(_CHANGED, _PAIR)


def _write(session: Session, changes: Sequence[Change], *, given: bool) -> None:
    roles = [change.role for change in changes]
    actions, resources = [change.permission[0] for change in changes], [change.permission[1] for change in changes]
    if given:
        _names(session, "ab_permission", actions)
        _names(session, "ab_view_menu", resources)
    for statement in (_MAKE, _GIVE) if given else (_TAKE,):
        session.execute(statement, [roles, actions, resources])
