"""Rule on one answer to a candidate that waits: whether it promotes, rejects, counts as the first of two, or not. Pure.

A person may approve by role, by number, or in place of somebody who may. With four eyes an author may not, and nobody
may for an author. If the authors are not all known, two people must approve: one of them at least is not the author.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from rempart.flows.shared.authors import Authors
from rempart.settings.approval.delegation import Delegation
from rempart.settings.approval.rule import Approval

SHORTEST_REASON, LONGEST_REASON = 10, 1000
"""Characters of a reason, without blanks around it."""

Outcome = Literal["promote", "reject", "first of two", "not counted", "expired"]
"""What an answer does. `first of two` and `not counted`: the candidate waits on. `expired`: it is rejected."""


@dataclass(frozen=True)
class Person:
    """Somebody who may answer in Airflow. `number` is None for the only user of Airflow's simple auth manager, and
    0 for a user who is not in Airflow's tables.

    `own`: an account that Rempart itself uses, or that several people share: nobody knows who it is.
    """

    number: int | None
    roles: tuple[str, ...] = ()
    active: bool = True
    own: bool = False

    @property
    def told(self) -> str:
        """Return what evidence calls the person: never a name."""
        if self.number is None:
            return "the platform's admin"
        return f"user {self.number}" if self.number else "a user who is unknown here"


@dataclass(frozen=True)
class Counted:
    """An approval that counts: who gave it, and in whose place, if not by an own right."""

    by: int | None
    place_of: int | None = None

    @property
    def people(self) -> frozenset[int | None]:
        return frozenset((self.by,) if self.place_of is None else (self.by, self.place_of))


@dataclass(frozen=True)
class Wait:
    """A candidate that waits: its rule, since when, its authors, and the approvals that count so far."""

    rule: Approval
    since: datetime
    authors: Authors
    approvals: tuple[Counted, ...] = ()

    @property
    def deadline(self) -> datetime:
        """Return the last moment at which an answer counts."""
        return self.since + self.rule.within

    @property
    def needed(self) -> int:
        """Return how many people must approve."""
        return 2 if self.rule.four_eyes and not self.authors.known else 1


@dataclass(frozen=True)
class Reply:
    """What somebody answered, why, and when by the clock of the server that took it. `by`: None if nobody answered."""

    approves: bool
    by: Person | None
    reason: str
    at: datetime

    @property
    def words(self) -> str:
        """Return the reason on one line, without control characters."""
        return " ".join("".join(each if each.isprintable() else " " for each in self.reason).split())


@dataclass(frozen=True)
class Ruling:
    """What an answer does, and why in words. `counted`: who and in whose place, if it counts."""

    outcome: Outcome
    why: str
    counted: Counted | None = None


def by_right(rule: Approval, person: Person) -> bool:
    """Return whether a person may decide by an own right: a role of the rule, or a number in it."""
    if not person.active:
        return False
    if isinstance(rule.by, list):
        return person.number in rule.by
    return rule.by in person.roles or "admin" in person.roles


def lenders(
    rule: Approval, person: Person, delegations: Iterable[Delegation], people: Sequence[Person], at: datetime
) -> list[int]:
    """Return the numbers of those in whose place a person may decide at a moment. A lent right is not lent again."""
    entitled = {each.number for each in people if by_right(rule, each)}
    today = at.astimezone(UTC).date()
    return sorted(
        {lent.from_ for lent in delegations if lent.to == person.number and today <= lent.until} & entitled - {None}
    )


def rule_on(wait: Wait, answer: Reply, delegations: Iterable[Delegation] = (), people: Sequence[Person] = ()) -> Ruling:
    """Rule on an answer. `people`: everybody, for the rights of those in whose place somebody answers."""
    if answer.at > wait.deadline:
        return Ruling("expired", _too_late(wait))
    if answer.by is None:
        return Ruling("not counted", f"nobody has answered yet; there is time until {moment(wait.deadline)}")
    person, four_eyes = answer.by, wait.rule.four_eyes
    if not SHORTEST_REASON <= len(answer.words) <= LONGEST_REASON:
        told = f"a reason of {SHORTEST_REASON} to {LONGEST_REASON} characters is needed"
        return Ruling("not counted", f"{told}, so that others understand the decision later")
    if not person.active:
        return Ruling("not counted", f"{person.told} is switched off")
    own_right = by_right(wait.rule, person)
    places = [] if own_right else lenders(wait.rule, person, delegations, people, answer.at)
    if not own_right and not places:
        return Ruling("not counted", f"{person.told} is not among those who may decide: {told_by(wait.rule)}")
    if not answer.approves:
        return Ruling("reject", "", Counted(person.number, None if own_right else places[0]))
    if four_eyes and (person.own or person.number is None):
        return Ruling("not counted", f"{person.told} is an account that several people may use, so it is nobody's eyes")
    if four_eyes and person.number in wait.authors.users:
        return Ruling("not counted", f"{person.told} is an author ({wait.authors.how}); somebody else must approve")
    if four_eyes:
        places = [place for place in places if place not in wait.authors.users]
        if not own_right and not places:
            return Ruling("not counted", f"{person.told} would approve in the place of an author")
    given = Counted(person.number, None if own_right else places[0])
    if wait.needed == 1:
        return Ruling("promote", "", given)
    options = [given] if own_right else [Counted(person.number, place) for place in places]
    for option in options:
        if any(not option.people & before.people for before in wait.approvals):
            return Ruling("promote", "", option)
    if wait.approvals:
        return Ruling("not counted", f"{person.told} or the person in whose place it is approved already")
    return Ruling("first of two", f"the author is unknown ({wait.authors.how}), so a second person must approve", given)


def told_by(rule: Approval) -> str:
    """Return in words who may decide."""
    if isinstance(rule.by, list):
        return ", ".join(f"user {number}" for number in rule.by)
    return "operators and admins" if rule.by == "operator" else "admins"


def moment(at: datetime) -> str:
    """Return a time in words."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _too_late(wait: Wait) -> str:
    return f"nobody decided until {moment(wait.deadline)}, {told_time(wait.rule.within)} after it passed the gate"


def told_time(within: timedelta) -> str:
    """Return a duration as the pipeline file has it: `48h`, `30m`."""
    seconds = int(within.total_seconds())
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
