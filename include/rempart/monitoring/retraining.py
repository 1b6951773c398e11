"""Decide whether a red verdict starts a training, and tell when the training did not help. Pure.

Everything follows from records of the ledger. A record of kind `retraining` is written when a verdict starts a
training (`version` is None), and again when the training registered a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rempart.ledger.port import Evidence
from rempart.models.gates.reasons import is_kept
from rempart.settings.champions.retraining import Retraining


@dataclass(frozen=True)
class TrainingDecision:
    """Whether a run trains. `why`: a sentence; empty where nothing had to be decided.

    `verdict`: number of the record of the verdict that is the cause; None: another cause, or no training.
    """

    train: bool
    why: str = ""
    verdict: int | None = None


@dataclass(frozen=True)
class NotBetter:
    """A training that a verdict started, and whose candidate did not become champion."""

    verdict: int
    version: str
    reasons: tuple[str, ...]


def body(verdict: int, champion: str, version: str | None = None) -> dict[str, Any]:
    """Return the record of a training that a verdict on `champion` started; `version`: the candidate, once trained."""
    return {"verdict": verdict, "champion": champion, "version": version}


def starts(retrainings: Sequence[Evidence]) -> dict[int, datetime]:
    """Return when each verdict started its training, by the number of the verdict. Records in any order."""
    found: dict[int, datetime] = {}
    for record in retrainings:
        verdict = int(record.body["verdict"])
        found[verdict] = min(record.at, found.get(verdict, record.at))
    return found


def cause(version: str, recorded: int | None, retrainings: Sequence[Evidence]) -> int | None:
    """Return the number of the newest verdict whose training gave a version: an equal job gives the version again.

    `recorded`: the number in the version's own record, if any.
    """
    return max((int(r.body["verdict"]) for r in retrainings if str(r.body["version"]) == version), default=recorded)


def decide(
    rules: Retraining,
    champion: str | None,
    newest: Evidence | None,
    retrainings: Sequence[Evidence],
    now: datetime,
) -> TrainingDecision:
    """Return whether the newest verdict starts a training. The same verdict gets the same answer until another comes.

    `champion`: version by the recorded decisions; `newest`: the newest verdict; `retrainings`: of this pipeline.
    """
    if not rules.on_drift:
        return TrainingDecision(False, "`retrain.on_drift` is off")
    if champion is None or newest is None:
        return TrainingDecision(False, "the model has no champion with a verdict")
    told, version = f"verdict {newest.seq}", str(newest.body["version"])
    if newest.body["outcome"] != "red":
        return TrainingDecision(False, f"the newest, {told}, is {newest.body['outcome']}")
    if version != champion:
        return TrainingDecision(False, f"{told} is on version {version}, and the champion is version {champion} now")
    known = starts(retrainings)
    if newest.seq not in known and (refusal := _too_often(rules, known, now)):
        return TrainingDecision(False, f"{told} is red, but {refusal}")
    return TrainingDecision(True, f"{told} on version {version} is red", newest.seq)


def _too_often(rules: Retraining, known: Mapping[int, datetime], now: datetime) -> str:
    """Return why no further training may start now; empty if it may."""
    if known:
        last = max(known, key=lambda verdict: known[verdict])
        if (until := known[last] + rules.cool_down) > now:
            return f"verdict {last} started a training on {_day(known[last])}: the cool-down ends on {_day(until)}"
    budget = rules.at_most
    begin = now - timedelta(days=budget.days)
    counted = sorted(at for at in known.values() if at > begin)
    if len(counted) >= budget.trainings:
        free = counted[-budget.trainings] + timedelta(days=budget.days)
        return (
            f"drift started {len(counted)} trainings within {budget.days} days, as many as `retrain.at_most` allows: "
            f"the next is possible on {_day(free)}"
        )
    return ""


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def not_better(
    retrainings: Sequence[Evidence], decisions: Sequence[Evidence], verdicts: Sequence[Evidence]
) -> NotBetter | None:
    """Return the newest training that drift started, if its candidate is not better; None after a promotion or a green
    verdict since. Records of one pipeline in any order; `decisions`: promotions and refusals.
    """
    done = [record for record in retrainings if record.body["version"] is not None]
    if not done:
        return None
    last = max(done, key=lambda record: record.seq)
    verdict, version = int(last.body["verdict"]), str(last.body["version"])
    cleared = [record for record in decisions if record.kind == "promotion"]
    cleared += [record for record in verdicts if record.body["outcome"] == "green"]
    if any(record.seq > last.seq for record in cleared):
        return None
    if version == str(last.body["champion"]):
        return NotBetter(
            verdict, version, ("the training gave the champion again: there was nothing new to learn from",)
        )
    judged = [record for record in decisions if str(record.body["version"]) == version]
    newest = max(judged, key=lambda record: record.seq, default=None)
    if newest is None or newest.kind != "refusal":
        return None
    reasons = tuple(str(reason) for reason in newest.body["reasons"])
    return NotBetter(verdict, version, tuple(reason for reason in reasons if not is_kept(reason)) or reasons)
