"""Read who may answer, with roles, from the tables of Airflow's users; and prove who sits at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from werkzeug.security import check_password_hash

from rempart.deployment.access import people
from rempart.errors import AccessError
from rempart.flows.approval.rules import Person
from rempart.flows.governance.people import Users


@dataclass(frozen=True)
class Directory:
    """Everybody who may use Airflow. `numbers`: of each user, by name."""

    people: tuple[Person, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)

    def of_user(self, user: str | None) -> Person:
        """Return the person of Airflow's user id, which is the number with FAB. An unknown one has no role.

        With the simple auth manager everybody is the platform's admin.
        """
        if not self.numbers and len(self.people) == 1 and self.people[0].number is None:
            return self.people[0]
        number = int(user) if user is not None and user.isdigit() else 0
        return next((person for person in self.people if person.number == number), Person(number))


def directory(users: Users) -> Directory:
    """Return everybody who may use Airflow. Raises AccessError, DatabaseUnavailable, ConnectionMissing."""
    if users.config.access.auth_manager != "fab":
        return Directory((Person(None, ("admin",)),))
    own = users.own()
    with people.tables(users.airflow()) as session:
        listed = people.listed(session)
    found = tuple(Person(each.number, each.roles, each.active, each.name in own) for each in listed)
    return Directory(found, {each.name: each.number for each in listed})


def proven(users: Users, name: str, password: str) -> Person:
    """Return the person of a name and password of Airflow. Raises AccessError, which does not say which is wrong."""
    if users.config.access.auth_manager != "fab":
        return Person(None, ("admin",))
    own = users.own()
    with people.tables(users.airflow()) as session:
        person = next((each for each in people.listed(session) if each.name == name), None)
        right = person is not None and check_password_hash(people.password_hash(session, person), password)
    if person is None or not right or not person.active:
        raise AccessError(
            "decide on a model: name and password are not those of a user of Airflow",
            "Use the name and password with which you log in to Airflow: see `rempart users list`.",
        )
    return Person(person.number, person.roles, person.active, person.name in own)
