"""Models as the ledger knows them: champions with their margin at the gate, refusals and why, lineage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.flows.validate import succession
from rempart.ledger.port import Evidence
from rempart.models.metrics import LOWER_IS_BETTER
from rempart.web.facts import Facts
from rempart.web.read_models.lineage import Lineage, lineages
from rempart.web.read_models.said import Moment, State, moment


@dataclass(frozen=True)
class Champion:
    """The version that is champion by the decisions on record. `margin`: by which part of the strictest bound it is
    better than that bound; None where the record does not hold what it takes."""

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
class Judgement:
    """What the gate, or a rollback, said of a version."""

    seq: int
    at: datetime
    kind: str
    model: str
    version: str
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, float | None]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Models:
    """The page's content, each newest first."""

    moment: Moment
    champions: tuple[Champion, ...]
    judgements: tuple[Judgement, ...]
    lineages: tuple[Lineage, ...]


def models(facts: Facts, now: datetime) -> Models:
    """The page's content."""
    judged = [*facts.of("promotion"), *facts.of("refusal"), *facts.of("rollback")]
    return Models(
        moment(facts, now),
        champions(facts),
        tuple(_judgement(one) for one in sorted(judged, key=lambda one: -one.seq)),
        lineages(facts),
    )


def champions(facts: Facts) -> tuple[Champion, ...]:
    """Each model's champion by the decisions on record, by the model's name."""
    decisions: dict[str, list[Evidence]] = {}
    for record in sorted([*facts.of("promotion"), *facts.of("rollback")], key=lambda one: one.seq):
        decisions.setdefault(record.subject, []).append(record)
    found = []
    for model, known in sorted(decisions.items()):
        if versions := succession(known):
            promoted = [one for one in known if one.kind == "promotion" and str(one.body["version"]) == versions[-1]]
            found.append(_champion(model, promoted[-1]))
    return tuple(found)


def _champion(model: str, record: Evidence) -> Champion:
    body = record.body
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
        str(body["version"]),
        record.at,
        record.seq,
        metric,
        value,
        bound,
        margin,
        state,
        tuple(body.get("reasons") or ()),
    )


def strictest(
    gate: Mapping[str, Any], baselines: Mapping[str, float | None], champion: Mapping[str, float] | None
) -> float | None:
    """The bound of the gate that was the hardest to keep, by the rules of `rempart.models.gate`; None if unknown."""
    metric = gate.get("metric")
    base = baselines.get(metric) if metric else None
    if metric not in LOWER_IS_BETTER or base is None or "limit" not in gate:
        return None
    lower, margin = LOWER_IS_BETTER[metric], float(gate["baseline_margin"])
    bounds = [float(gate["limit"]), base * (1 - margin) if lower else 1 - (1 - base) * (1 - margin)]
    if champion and (theirs := champion.get(metric)) is not None:
        tolerance = float(gate["champion_tolerance"])
        bounds.append(theirs * (1 + tolerance) if lower else theirs * (1 - tolerance))
    return min(bounds) if lower else max(bounds)


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
        tuple(body.get("reasons") or ()),
    )
