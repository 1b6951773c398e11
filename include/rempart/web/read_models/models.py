"""Models as the ledger knows them: champions with their margin at the gate, refusals and why, lineage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from rempart.flows.approval.told import reasons
from rempart.flows.training.champions import ALARM, TimeAsChampion, champion_times
from rempart.ledger.port import Evidence, Kind
from rempart.models.gates.reasons import is_kept
from rempart.models.gates.verdict import baseline_bound, champion_bound
from rempart.settings.gates.metrics import LOWER_IS_BETTER
from rempart.web.facts import CockpitFacts
from rempart.web.read_models.gate.rules import RuleRow, rules
from rempart.web.read_models.lineage import Lineage, lineages
from rempart.web.read_models.messages import Moment, State, moment


@dataclass(frozen=True)
class Champion:
    """The champion by the recorded decisions, with the figures of its promotion, record `seq`.

    Without that record (it was altered) the figures are unknown, and `seq` is the rollback that names the version.
    `since`: when a decision made it champion last, which may be a rollback.
    `margin`: its improvement over the strictest bound, as a share of that bound; None if the record lacks a needed
    value.
    """

    model: str
    version: str
    since: datetime
    seq: int
    metric: str | None
    value: float | None
    bound: float | None
    margin: float | None
    state: State
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Bound:
    """One rule of the gate as a number, and whether the version kept it. `rule`: limit, baseline or champion."""

    rule: Literal["limit", "baseline", "champion"]
    value: float
    kept: bool


@dataclass(frozen=True)
class Plot:
    """The deciding metric of a version, with each bound with which it was compared."""

    metric: str
    lower_is_better: bool
    value: float
    bounds: tuple[Bound, ...]


@dataclass(frozen=True)
class Judgement:
    """Verdict of the gate, or of a rollback, on a version."""

    seq: int
    at: datetime
    kind: str
    model: str
    version: str
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, float | None]
    reasons: tuple[str, ...]
    plot: Plot | None
    rules: tuple[RuleRow, ...] = ()


JUDGEMENTS: tuple[Kind, ...] = ("approval", "promotion", "refusal", "rollback")
"""Kinds of evidence that decide on a version. `approval`: it passed the gate, and waits for a person."""
ALARMS = timedelta(days=30)
"""Alarms of aliases are shown for so long."""


@dataclass(frozen=True)
class Alarm:
    """MLflow's alias stood at version `found` and was put back to `champion` (None: none)."""

    seq: int
    at: datetime
    model: str
    found: str | None
    champion: str | None
    reason: str


@dataclass(frozen=True)
class Models:
    """The page's content, each newest first."""

    moment: Moment
    champions: tuple[Champion, ...]
    alarms: tuple[Alarm, ...]
    judgements: tuple[Judgement, ...]
    lineages: tuple[Lineage, ...]


def models(facts: CockpitFacts, now: datetime) -> Models:
    """Return the page's content."""
    judged = [record for kind in JUDGEMENTS for record in facts.of(kind)]
    return Models(
        moment(facts, now),
        champions(facts),
        tuple(
            _alarm(denial)
            for denial in facts.of("denial")
            if denial.body.get("what") == ALARM and now - denial.at <= ALARMS
        ),
        tuple(_judgement(judgement) for judgement in sorted(judged, key=lambda record: -record.seq)),
        lineages(facts),
    )


def _alarm(record: Evidence) -> Alarm:
    body = record.body
    reason = "; ".join(str(reason) for reason in body["reasons"])
    return Alarm(record.seq, record.at, record.subject, body.get("found"), body.get("champion"), reason)


def champions(facts: CockpitFacts) -> tuple[Champion, ...]:
    """Return each model's champion by the recorded decisions, by the model's name."""
    decisions: dict[str, list[Evidence]] = {}
    for record in sorted([*facts.standing("promotion"), *facts.standing("rollback")], key=lambda record: record.seq):
        decisions.setdefault(record.subject, []).append(record)
    found = []
    for model, known in sorted(decisions.items()):
        times = champion_times(known)
        if times and times[-1].until is None:
            now = times[-1]
            promoted = [
                record for record in known if record.kind == "promotion" and str(record.body["version"]) == now.version
            ]
            # the promotion may be altered, or older than what is read: then a rollback alone names the version
            found.append(_champion(model, now, promoted[-1] if promoted else None))
    return tuple(found)


def _champion(model: str, time: TimeAsChampion, record: Evidence | None) -> Champion:
    body = record.body if record else {}
    gate = body.get("gate") or {}
    metric: str | None = gate.get("metric")
    value = (body.get("metrics") or {}).get(metric)
    bound = strictest(gate, body.get("baselines") or {}, body.get("champion_metrics"))
    margin = None
    if metric is not None and value is not None and bound:
        margin = round((bound - value if LOWER_IS_BETTER[metric] else value - bound) / abs(bound), 4)
    state: State = "unknown" if margin is None else "good" if margin >= 0 else "bad"
    return Champion(
        model,
        time.version,
        time.since,
        record.seq if record else time.seq,
        metric,
        value,
        bound,
        margin,
        state,
        tuple(body.get("reasons") or ()),
    )


def strictest(
    gate: Mapping[str, Any], baselines: Mapping[str, float | None], champion: Mapping[str, float | None] | None
) -> float | None:
    """Return the strictest bound of the gate; None if unknown."""
    metric, found = gate.get("metric"), bounds(gate, baselines, champion)
    if metric not in LOWER_IS_BETTER or "baseline" not in found:
        return None
    return min(found.values()) if LOWER_IS_BETTER[metric] else max(found.values())


def bounds(
    gate: Mapping[str, Any], baselines: Mapping[str, float | None], champion: Mapping[str, float | None] | None
) -> dict[Literal["limit", "baseline", "champion"], float]:
    """Return the bounds of the metric by the short form of the gate's rules; a bound that is not known is absent."""
    metric = gate.get("metric")
    if metric not in LOWER_IS_BETTER or "limit" not in gate:
        return {}
    lower, found = LOWER_IS_BETTER[metric], dict[Literal["limit", "baseline", "champion"], float]()
    found["limit"] = float(gate["limit"])
    known = [base for name in (metric, f"overall_{metric}") if (base := baselines.get(name)) is not None]
    if baselines.get(metric) is not None:
        margin = float(gate["baseline_margin"])
        found["baseline"] = float(baseline_bound(min(known) if lower else max(known), margin, lower=lower))
    if champion and (theirs := champion.get(metric)) is not None:
        tolerance = float(gate["champion_tolerance"])
        found["champion"] = float(champion_bound(theirs, tolerance, lower=lower))
    return found


def plot(body: Mapping[str, Any]) -> Plot | None:
    """Return a decision's metric with its bounds; None if the record lacks a field."""
    gate, metrics = body.get("gate") or {}, body.get("metrics") or {}
    metric = str(gate.get("metric"))
    found = bounds(gate, body.get("baselines") or {}, body.get("champion_metrics"))
    if not found or (value := metrics.get(metric)) is None:
        return None
    lower = LOWER_IS_BETTER[metric]
    kept = {rule: value <= bound if lower else value >= bound for rule, bound in found.items()}
    return Plot(metric, lower, value, tuple(Bound(rule, bound, kept[rule]) for rule, bound in found.items()))


def _judgement(record: Evidence) -> Judgement:
    body = record.body
    version = body.get("champion") if record.kind == "rollback" else body.get("version")
    return Judgement(
        record.seq,
        record.at,
        record.kind,
        record.subject,
        str(version),
        dict(body.get("metrics") or {}),
        dict(body.get("baselines") or {}),
        tuple(sorted(reasons(record), key=lambda reason: record.kind == "refusal" and is_kept(reason))),
        None if record.kind == "rollback" else plot(body),
        rules(body),
    )
