"""Show the verdicts on champions: the newest of each pipeline, its worst columns, and figures over time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rempart.ledger.port import Evidence
from rempart.settings.pipeline import ModelPipeline
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.messages import Moment, State, moment
from rempart.web.read_models.models import champions
from rempart.web.read_models.watched.findings import (
    ChallengerFigures,
    DataAge,
    DomainFigures,
    IntervalFigures,
    PairedMetric,
    ages,
    challenger_of,
    domain_of,
    intervals_of,
    paired,
)
from rempart.web.read_models.watched.retraining import AlarmChain, chains

VERDICTS: Mapping[str, State] = {"green": "good", "red": "bad", "unknown": "unknown"}
CURRENT_FOR = timedelta(days=2)
"""Age at which a verdict is old, and so unknown. One is made every day."""
HISTORY = 90
"""Verdicts that a chart shows."""


@dataclass(frozen=True)
class WatchedColumn:
    """A column of a verdict. Shares of rows; None: there were too few values."""

    column: str
    moved: float | None
    allowed: float | None
    psi: float | None
    nulls: float
    findings: tuple[str, ...]


@dataclass(frozen=True)
class MetricFigure:
    """The gate's metric on the window, or on a segment of it, and its value on the reference.

    `reference`: "hold-out"; "training data" of a segment that the hold-out lacks; "none" if both lack it.
    """

    segment: str
    rows: int
    value: float | None
    recorded: float | None
    worse: bool
    reference: str

    @property
    def is_unknown(self) -> bool:
        return self.value is None or self.reference == "none"


@dataclass(frozen=True)
class Watched:
    """The watch of one pipeline's champion.

    `state`: of the newest verdict; unknown if it is old or of another version than the champion. `outcome`: as
    recorded; None if there is none. `errors` and `movements`: the metric, and the largest movement of a column, over
    time, oldest first; `pairs`: the metric beside that of the challenger. `chains`: what red verdicts led to, newest
    first.
    """

    pipeline: str
    champion: str | None
    state: State
    outcome: str | None = None
    at: datetime | None = None
    seq: int | None = None
    version: str | None = None
    reasons: tuple[str, ...] = ()
    rows: int | None = None
    first: str | None = None
    last: str | None = None
    watched: int | None = None
    moved: int | None = None
    metric: str | None = None
    measured: tuple[MetricFigure, ...] = ()
    columns: tuple[WatchedColumn, ...] = ()
    errors: tuple[tuple[datetime, float], ...] = ()
    movements: tuple[tuple[datetime, float], ...] = ()
    chains: tuple[AlarmChain, ...] = ()
    ages: tuple[DataAge, ...] = ()
    challenger: ChallengerFigures | None = None
    apart: DomainFigures | None = None
    intervals: IntervalFigures | None = None
    pairs: tuple[PairedMetric, ...] = ()

    @property
    def is_current(self) -> bool:
        """Return whether the newest verdict is of the champion, and not old."""
        return self.outcome is not None and (self.state != "unknown" or self.outcome == "unknown")

    @property
    def retrained(self) -> AlarmChain | None:
        """Return the chain of the newest training that a verdict started."""
        return next((chain for chain in self.chains if chain.started), None)


@dataclass(frozen=True)
class Monitoring:
    """The page's content."""

    moment: Moment
    pipelines: tuple[Watched, ...]


def monitoring(facts: CockpitFacts, now: datetime) -> Monitoring:
    """Return the page's content."""
    return Monitoring(moment(facts, now), all_watched(facts, now))


def all_watched(facts: CockpitFacts, now: datetime) -> tuple[Watched, ...]:
    """Return the watch of each pipeline with a model, by name."""
    files = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    promoted = {champion.model: champion.version for champion in champions(facts)}
    verdicts, led_to = facts.standing("monitoring"), chains(facts, now)
    return tuple(
        replace(
            _watched(name, promoted.get(name), [record for record in verdicts if record.subject == name], now),
            chains=led_to.get(name, ()),
        )
        for name, file in sorted(files.items())
        if isinstance(file, ModelPipeline)
    )


def _watched(name: str, champion: str | None, records: Sequence[Evidence], now: datetime) -> Watched:
    if not records:
        return Watched(name, champion, "unknown")
    newest = records[0]
    body, window, found = newest.body, newest.body["window"], newest.body["performance"]
    version = str(body["version"])
    stands = now - newest.at <= CURRENT_FOR and version == champion
    history = records[:HISTORY][::-1]
    return Watched(
        name,
        champion,
        VERDICTS[str(body["outcome"])] if stands else "unknown",
        str(body["outcome"]),
        newest.at,
        newest.seq,
        version,
        tuple(map(str, body["reasons"])),
        int(window["rows"]),
        window["first"],
        window["last"],
        int(body["watched"]),
        int(body["moved"]),
        str(found["metric"]) if found else None,
        tuple(map(_measured, (found, *found["segments"]))) if found else (),
        tuple(map(_column, body["columns"])),
        _over_time(history, _error),
        _over_time(history, _movement),
        ages=ages(body),
        challenger=challenger_of(body),
        apart=domain_of(body),
        intervals=intervals_of(body),
        pairs=paired(history),
    )


def _over_time(history: Sequence[Evidence], figure: Any) -> tuple[tuple[datetime, float], ...]:
    found = [(record.at, figure(record.body)) for record in history]
    return tuple((at, float(value)) for at, value in found if value is not None)


def _error(body: Mapping[str, Any]) -> float | None:
    found = body["performance"]
    return found["value"] if found else None


def _movement(body: Mapping[str, Any]) -> float | None:
    return max((column["moved"] for column in body["columns"] if column["moved"] is not None), default=None)


def _measured(found: Mapping[str, Any]) -> MetricFigure:
    return MetricFigure(
        found["segment"], found["rows"], found["value"], found["recorded"], found["worse"], found["reference"]
    )


def _column(found: Mapping[str, Any]) -> WatchedColumn:
    return WatchedColumn(
        found["column"], found["moved"], found["allowed"], found["psi"], found["nulls"], tuple(found["findings"])
    )
