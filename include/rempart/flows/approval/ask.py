"""Write the question about a candidate that a person answers: the gate's reasons, who may decide, until when.

It holds no name and no data: figures, numbers, the platform's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rempart.flows.approval.decide import Desk
from rempart.flows.approval.rules import Wait, moment, told_by
from rempart.flows.approval.told import eyes
from rempart.flows.shared import approvals

SLACK = timedelta(seconds=5)
"""Added to the time that Airflow waits, so that the time in the ledger is over when Airflow stops to wait."""


@dataclass(frozen=True)
class Question:
    """What Airflow shows. `waits` is False if there is nothing to ask, and `told` says why.

    `judgement`: number of the record that is asked about; `seconds`: time left.
    """

    version: str
    waits: bool
    told: str
    judgement: int | None = None
    seconds: float = 0.0
    subject: str = ""
    body: str = ""
    notify: tuple[str, ...] = ()


def ask(desk: Desk, version: str) -> Question:
    """Return the question about a version that waits. One whose time is over is rejected instead.

    Raises LedgerError, DatabaseUnavailable, TrackingUnavailable, SiteFenced.
    """
    platform, name = desk.platform, desk.pipeline.name
    expired = desk.expire()
    if (judged := approvals.on_record(platform.ledger, name).get(version)) is None:
        why = "its time was over, so it was rejected" if version in expired else "it does not wait for an approval"
        return Question(version, False, f"Version {version} of model {name}: {why}")
    wait = desk.wait_of(judged)
    answers = [str(record.body["why"]) for record in approvals.answers_to(platform.ledger, name, judged.seq)]
    left = wait.deadline - platform.clock() + SLACK
    subject = f"Model {name}: make version {version} the champion?"
    text = body_of(name, version, judged.body, wait, judged.seq, answers)
    told = f"Version {version} of model {name} waits until {moment(wait.deadline)}"
    return Question(version, True, told, judged.seq, left.total_seconds(), subject, text, tuple(wait.rule.notify))


def body_of(name: str, version: str, judged: Mapping[str, Any], wait: Wait, number: int, answers: list[str]) -> str:
    """Return the question's text in Markdown. Pure. `answers`: why earlier answers did not decide."""
    before = judged["previous"]
    lines = [
        f"Version {version} passed the gate (evidence {number}). "
        + (f"The champion is version {before}." if before else "The model has no champion yet."),
        "",
        *(f"- {reason}" for reason in judged["reasons"]),
        "",
        f"**Who may decide:** {told_by(wait.rule)}{eyes(wait)}.",
        "",
        f"**Until:** {moment(wait.deadline)}. Without a decision the version is rejected.",
        "",
        f"All figures: `rempart model show {name}`, or the cockpit's page *Models*.",
        f"What the version reads, where it errs, its limits: its model card, or `rempart model card {name} {version}`.",
        "Your reason goes into the evidence: write no names.",
    ]
    if answers:
        lines += ["", "**Answers so far that did not decide:**", "", *(f"- {why}" for why in answers)]
    return "\n".join(lines)
