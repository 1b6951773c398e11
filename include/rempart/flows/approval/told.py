"""Tell in words what a recorded approval waits for, and what became of answers to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rempart.flows.approval.rules import Wait, moment, told_by
from rempart.flows.shared import authors
from rempart.ledger.port import Evidence
from rempart.settings.approval.rule import Approval


def reasons(record: Evidence, answers: Iterable[Evidence] = ()) -> tuple[str, ...]:
    """Return the reasons of a gate's record; of one that waits also for whom, until when, and the `answers` so far."""
    given = tuple(str(reason) for reason in record.body.get("reasons") or ())
    rule = (record.body.get("gate") or {}).get("approval")
    if record.kind != "approval" or not isinstance(rule, dict):
        return given
    found = Approval.recorded(rule)
    wait = Wait(found, record.at, authors.read(record.body))
    told = f"waits until {moment(wait.deadline)} for {told_by(found)}{eyes(wait)}"
    return (*given, told, *_answered(record, answers))


def eyes(wait: Wait) -> str:
    """Return in words whom four eyes exclude; empty without that rule."""
    if not wait.rule.four_eyes:
        return ""
    users = ", ".join(f"user {number}" for number in sorted(wait.authors.users))
    if wait.authors.known:
        return f", but not the author, {users}"
    return f": two people, because the author is unknown ({wait.authors.how})" + (f", and not {users}" if users else "")


def _answered(record: Evidence, answers: Iterable[Evidence]) -> Iterator[str]:
    for answer in sorted(answers, key=lambda answer: answer.seq):
        if answer.body["approval"] == record.seq:
            counts = "counts" if answer.body["counted"] else "does not count"
            body = answer.body
            yield f"{body['by']} answered '{body['answer']}' on {moment(answer.at)}, which {counts}: {body['why']}"
