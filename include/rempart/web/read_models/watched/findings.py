"""What a verdict tells beside drift: age of the data, challenger, and whether a model tells the window apart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.ledger.port import Evidence
from rempart.web.read_models.messages import State

STATES: Mapping[str, State] = {"fresh": "good", "late": "bad", "no limit": "unknown", "unknown": "unknown"}
"""How good each state of an age is."""


@dataclass(frozen=True)
class DataAge:
    """Age of rows, features or labels when the verdict was made, in seconds; None: not known, or no limit."""

    what: str
    state: State
    told: str
    age_seconds: float | None
    limit_seconds: float | None

    @property
    def is_late(self) -> bool:
        return self.told == "late"


@dataclass(frozen=True)
class ChallengerFigures:
    """Challenger and champion on the same rows. None figures: not known; `why` then says why.

    `difference`: challenger minus champion, with its 95 % interval.
    """

    version: str
    standing: str
    rows: int
    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None
    better: str | None
    why: str


@dataclass(frozen=True)
class DomainFigures:
    """How well a model tells the window from the training data. `columns`: by which it does."""

    area: float
    low: float
    high: float
    allowed: float | None
    spans: int
    moved: bool
    columns: tuple[str, ...]


@dataclass(frozen=True)
class IntervalFigures:
    """What the champion's intervals cover of the rows with a known target. `covered`: None with too few of them."""

    promised: float
    rows: int
    covered: float | None
    short: bool

    @property
    def state(self) -> State:
        return "unknown" if self.covered is None else "bad" if self.short else "good"


@dataclass(frozen=True)
class PairedMetric:
    """The metric of champion and challenger at one verdict."""

    at: datetime
    champion: float
    challenger: float
    version: str


def ages(body: Mapping[str, Any]) -> tuple[DataAge, ...]:
    """Return the ages of a verdict."""
    return tuple(
        DataAge(each["what"], STATES[each["state"]], each["state"], each["age"], each["limit"])
        for each in body["freshness"]
    )


def challenger_of(body: Mapping[str, Any]) -> ChallengerFigures | None:
    """Return the challenger of a verdict, or None without one."""
    if (found := body["challenger"]) is None:
        return None
    return ChallengerFigures(**{name: found[name] for name in ChallengerFigures.__dataclass_fields__})


def domain_of(body: Mapping[str, Any]) -> DomainFigures | None:
    """Return how well the window of a verdict is told apart, or None if no model was asked."""
    if (found := body["domain"]) is None:
        return None
    names = tuple(str(column["column"]) for column in found["columns"])
    return DomainFigures(
        found["area"], found["low"], found["high"], found["allowed"], found["spans"], found["moved"], names
    )


def intervals_of(body: Mapping[str, Any]) -> IntervalFigures | None:
    """Return what the intervals of a verdict's champion cover, or None if it gives none, or nobody looked yet."""
    if (found := body.get("intervals")) is None:
        return None
    return IntervalFigures(found["promised"], found["rows"], found["covered"], found["short"])


def paired(history: Sequence[Evidence]) -> tuple[PairedMetric, ...]:
    """Return the metric of champion and challenger over time, of the verdicts that know both."""
    found = [(record.at, record.body["challenger"]) for record in history]
    return tuple(
        PairedMetric(at, each["champion"], each["challenger"], each["version"])
        for at, each in found
        if each is not None and each["challenger"] is not None
    )
