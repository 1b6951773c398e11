"""Show the newest training that a red verdict started, and whether it helped. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.monitoring import retraining
from rempart.web.facts import CockpitFacts


@dataclass(frozen=True)
class Retrained:
    """The newest training that a verdict started.

    `verdict`, `seq`: numbers of the records of the verdict and of the training. `version`: its candidate; None: none
    yet. `refused`: why it did not help; empty if it did, if nothing is decided, or if a green verdict followed.
    """

    verdict: int
    seq: int
    at: datetime
    version: str | None
    refused: tuple[str, ...] = ()


def retrained(facts: CockpitFacts) -> Mapping[str, Retrained]:
    """Return the newest training that drift started, by pipeline; pipelines without one are absent."""
    decisions = [*facts.standing("promotion"), *facts.standing("refusal")]
    verdicts, found = facts.standing("monitoring"), {}
    of_all = facts.standing("retraining")
    for name in {record.subject for record in of_all}:
        own = [record for record in of_all if record.subject == name]
        newest = max(own, key=lambda record: record.seq)
        fault = retraining.not_better(
            own,
            [record for record in decisions if record.subject == name],
            [record for record in verdicts if record.subject == name],
        )
        verdict, version = int(newest.body["verdict"]), newest.body["version"]
        found[name] = Retrained(verdict, newest.seq, newest.at, version, fault.reasons if fault else ())
    return found
