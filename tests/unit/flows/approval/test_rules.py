"""Who may decide on a candidate, until when, and what becomes of an answer."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.approval.rules import Counted, Person, Reply, Ruling, Wait, by_right, rule_on
from rempart.flows.shared.authors import Authors, Started, made_by, started
from rempart.settings.approval.delegation import Delegation
from rempart.settings.approval.rule import Approval

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
REASON = "error is even over the seasons"
ADA, BOB, EVE = Person(3, ("operator",)), Person(5, ("admin",)), Person(7, ("viewer",))
SHARED = Person(1, ("admin",), own=True)
PEOPLE = (ADA, BOB, EVE, SHARED)
KNOWN, UNKNOWN = Authors(frozenset({3}), True, "started by user 3"), Authors(frozenset(), False, "nobody recorded it")

NUMBERS = st.integers(1, 6)
ROLES = st.lists(st.sampled_from(["viewer", "auditor", "caller", "operator", "admin"]), max_size=2).map(tuple)
PERSON = st.builds(Person, NUMBERS, ROLES, st.booleans(), st.booleans())
RULE = st.builds(
    Approval,
    by=st.one_of(st.sampled_from(["operator", "admin"]), st.lists(NUMBERS, min_size=1, max_size=3)),
    four_eyes=st.booleans(),
    within=st.sampled_from([timedelta(hours=1), timedelta(days=2)]),
)
AUTHORS = st.builds(Authors, st.frozensets(NUMBERS, max_size=2), st.booleans(), st.just("by a test"))
COUNTED = st.builds(Counted, NUMBERS, st.none() | NUMBERS)
WAIT = st.builds(Wait, RULE, st.just(AT), AUTHORS, st.lists(COUNTED, max_size=2).map(tuple))
ANSWER = st.builds(
    Reply,
    st.booleans(),
    st.none() | PERSON,
    st.sampled_from(["", "too short", REASON, "x" * 2000]),
    st.integers(0, 60).map(lambda hours: AT + timedelta(hours=hours)),
)
LENT = (
    st.tuples(NUMBERS, NUMBERS, st.integers(-1, 3))
    .filter(lambda lent: lent[0] != lent[1])
    .map(lambda lent: Delegation.model_validate({"from": lent[0], "to": lent[1], "until": AT.date() + lent[2] * DAY}))
)


def wait(authors: Authors = KNOWN, *approvals: Counted, **rule: Any) -> Wait:
    return Wait(Approval.model_validate({"by": "operator", **rule}), AT, authors, approvals)


def answer(by: Person | None, *, approves: bool = True, reason: str = REASON, hours: float = 1) -> Reply:
    return Reply(approves, by, reason, AT + timedelta(hours=hours))


def ruled(waits: Wait, given: Reply, *delegations: Delegation) -> Ruling:
    return rule_on(waits, given, delegations, PEOPLE)


@given(WAIT, ANSWER, st.lists(LENT, max_size=3), st.lists(PERSON, max_size=5, unique_by=lambda each: each.number))
def test_nobody_without_right_reason_and_time_decides_and_no_author_alone(
    waits: Wait, given: Reply, lent: list[Delegation], people: list[Person]
) -> None:
    ruling = rule_on(waits, given, lent, people)
    assert (ruling.outcome == "expired") == (given.at > waits.deadline)
    if ruling.outcome in ("promote", "reject", "first of two"):
        assert given.by is not None and given.by.active and 10 <= len(given.words) <= 1000
        assert ruling.counted is not None and ruling.counted.by == given.by.number
        place = ruling.counted.place_of
        assert by_right(waits.rule, given.by) if place is None else not by_right(waits.rule, given.by)
        if place is not None:
            assert any(by_right(waits.rule, each) for each in people if each.number == place)
            assert any(d.from_ == place and d.to == given.by.number and given.at.date() <= d.until for d in lent)
    if ruling.outcome == "promote" and waits.rule.four_eyes:
        assert ruling.counted is not None and given.by is not None and not given.by.own
        assert not ruling.counted.people & waits.authors.users
        # whoever the author is, somebody else looked
        assert waits.authors.known or any(not ruling.counted.people & each.people for each in waits.approvals)
    if ruling.outcome in ("expired", "not counted", "first of two"):
        assert ruling.why


@given(WAIT, ANSWER, st.lists(LENT, max_size=3))
def test_more_people_who_know_nothing_of_it_change_nothing(waits: Wait, given: Reply, lent: list[Delegation]) -> None:
    strangers = [Person(number, ("viewer",)) for number in (90, 91)]
    without = rule_on(waits, given, lent, ())
    assert rule_on(waits, given, lent, strangers) == without or isinstance(waits.rule.by, list)


def test_the_author_is_refused_and_somebody_else_promotes() -> None:
    refused = ruled(wait(), answer(ADA))
    assert refused.outcome == "not counted" and "user 3 is an author (started by user 3)" in refused.why
    assert ruled(wait(), answer(BOB)).outcome == "promote"
    assert ruled(wait(four_eyes=False), answer(ADA)).outcome == "promote"
    assert ruled(wait(), answer(ADA, approves=False)).outcome == "reject"  # of the own model, everybody may


def test_a_role_a_reason_and_a_person_are_needed() -> None:
    assert "user 7 is not among those who may decide: operators and admins" in ruled(wait(), answer(EVE)).why
    assert "user 3 is not among" in ruled(wait(UNKNOWN, by="admin"), answer(ADA)).why
    assert "user 5 is not among those who may decide: user 3, user 9" in ruled(wait(by=[3, 9]), answer(BOB)).why
    assert "a reason of 10" in ruled(wait(), answer(BOB, reason="  ok   ")).why
    assert "a reason of 10" in ruled(wait(), answer(BOB, reason="a \n\x00 \u202e b c d")).why
    assert answer(BOB, reason=" even\nover \x1b[31m seasons ").words == "even over [31m seasons"
    assert "nobody's eyes" in ruled(wait(), answer(SHARED)).why
    assert "nobody's eyes" in ruled(wait(UNKNOWN), answer(Person(None, ("admin",)))).why
    assert "switched off" in ruled(wait(), answer(Person(5, ("admin",), active=False))).why
    assert "who is unknown here is not among" in ruled(wait(), answer(Person(0))).why
    assert ruled(wait(UNKNOWN, four_eyes=False), answer(Person(None, ("admin",)))).outcome == "promote"


def test_after_the_last_moment_it_is_rejected_whoever_answers() -> None:
    assert ruled(wait(), answer(BOB, hours=48)).outcome == "promote"
    for late in (answer(BOB, hours=48.001), answer(None, hours=49), answer(EVE, hours=49)):
        ruling = ruled(wait(), late)
        assert ruling.outcome == "expired"
        assert "nobody decided until 2026-03-03 12:00 UTC, 48h after it passed" in ruling.why
    assert ruled(wait(), answer(None)).outcome == "not counted"


def test_of_an_unknown_author_two_people_approve() -> None:
    first = ruled(wait(UNKNOWN), answer(ADA))
    assert first.outcome == "first of two" and first.counted == Counted(3) and "nobody recorded it" in first.why
    assert ruled(wait(UNKNOWN, Counted(3)), answer(ADA)).outcome == "not counted"
    assert ruled(wait(UNKNOWN, Counted(3)), answer(BOB)).outcome == "promote"
    # some authors are known: they are not among the two
    half = Authors(frozenset({3}), False, "the trainer's is unknown")
    assert ruled(wait(half, Counted(9)), answer(ADA)).outcome == "not counted"


def test_a_lent_right_counts_until_its_day_and_never_for_an_author() -> None:
    lent = Delegation.model_validate({"from": 5, "to": 7, "until": date(2026, 3, 2)})
    assert ruled(wait(), answer(EVE), lent).counted == Counted(7, 5)
    assert ruled(wait(), answer(EVE, hours=36), lent).outcome == "not counted"  # the day after
    of_author = Delegation.model_validate({"from": 3, "to": 7, "until": date(2026, 3, 9)})
    assert "in the place of an author" in ruled(wait(), answer(EVE), of_author).why
    again = Delegation.model_validate({"from": 7, "to": 9, "until": date(2026, 3, 9)})
    assert ruled(wait(), answer(Person(9)), lent, again).outcome == "not counted"
    # one right makes one of two
    assert ruled(wait(UNKNOWN, Counted(5)), answer(EVE), lent).outcome == "not counted"
    assert ruled(wait(UNKNOWN, Counted(7, 5)), answer(BOB)).outcome == "not counted"
    assert ruled(wait(UNKNOWN, Counted(7, 5)), answer(ADA)).outcome == "promote"


FILES = {"include/pipelines/m.yaml": 3, "include/trainers/t.py": 5}


def test_authors_are_who_started_the_training_and_who_changed_its_files() -> None:
    assert made_by(Started(True, 9), {"m.yaml": 3}) == Authors(
        frozenset({3, 9}), True, "its training was started by user 9"
    )
    both_kinds = made_by(Started(True, 9), {"m.yaml": None, "t.py": 3})
    assert both_kinds.users == {3, 9} and not both_kinds.known
    assert both_kinds.how == "its training was started by user 9, and the last committer of m.yaml is unknown"
    assert made_by(Started(False), FILES).users == {3, 5} and made_by(Started(False), FILES).known
    unknown = made_by(Started(False), {**FILES, "include/trainers/t.py": None})
    assert not unknown.known and unknown.users == {3} and "include/trainers/t.py is unknown" in unknown.how
    assert not made_by(Started(True, None), FILES).known and not made_by(None, FILES).known


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": "viewer"},
        {"by": []},
        {"by": ["marie"]},
        {"by": [True]},
        {"by": "admin", "within": "0h"},
        {"by": "admin", "within": "91d"},
        {"within": "48h"},
        "person",
    ],
)
def test_a_rule_that_nobody_can_meet_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"by|within|Approval"):
        Approval.model_validate(wrong)


def test_a_rule_is_read_back_from_the_ledger() -> None:
    rule = Approval.model_validate({"by": [3, 5], "within": "36h", "notify": ["chat"]})
    assert Approval.recorded(rule.model_dump(mode="json")) == rule


@pytest.mark.parametrize(
    ("kind", "name", "begun"),
    [
        ("manual", "ada", Started(True, 3)),
        ("backfill", "ada", Started(True, 3)),
        ("asset_materialization", "ada", Started(True, 3)),
        ("operator_triggered", "ada", Started(True, 3)),
        ("asset_triggered", None, Started(False)),
        ("scheduled", None, Started(False)),
        ("operator_triggered", "rempart", Started(False)),
        ("manual", "rempart", Started(True)),
        ("backfill", None, Started(True)),
        ("operator_triggered", "somebody who left", Started(True)),
    ],
)
def test_who_starts_a_training_by_any_button_is_its_author(kind: str, name: str | None, begun: Started) -> None:
    assert started(kind, name, {"ada": 3}, {"rempart"}) == begun
