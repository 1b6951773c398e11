"""Describe each site: its proven capabilities, its share of each pair, and its lag over time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.ledger.port import Evidence
from rempart.settings.sections import ReplicationPair
from rempart.sites.capabilities import CAPABILITIES, Proof, Purpose, from_json, missing
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import loss, overview
from rempart.web.read_models.messages import Moment, State, moment
from rempart.web.read_models.usage import Usage, usage

PURPOSES: Mapping[str, Purpose] = {
    "replica": "replication",
    "restore-point": "restore points",
    "evidence": "evidence",
}
"""Capabilities that a site needs for each kind of content."""


@dataclass(frozen=True)
class MeasuredReplication:
    """One replication's figures."""

    at: datetime
    lag_seconds: float
    objects: int
    bytes: int
    copied: int
    throughput: float
    failures: int


@dataclass(frozen=True)
class Pair:
    """A pair of sites: its lag now, and each replication on record, oldest first.

    `throughput`: bytes per second of each run that copied something.
    """

    lag: loss.Lag
    history: tuple[MeasuredReplication, ...]
    throughput: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True)
class Ability:
    """Last proof of a site's capabilities. `lacking`: reasons against its present use; they are bad.

    Other missing or claimed capabilities are a warning, because the platform works without them. `needed`: the purposes
    that need each capability.
    """

    at: datetime
    endpoint: str
    state: State
    lacking: tuple[str, ...]
    proofs: tuple[Proof, ...]
    figures: tuple[tuple[str, float], ...]
    needed: Mapping[str, tuple[Purpose, ...]]


@dataclass(frozen=True)
class Site:
    """A site with its place, its proven capabilities, and its content; None for values that were never measured."""

    place: overview.PlaceState
    ability: Ability | None
    usage: Usage | None


@dataclass(frozen=True)
class Sites:
    """Return the page's content."""

    moment: Moment
    sites: tuple[Site, ...]
    pairs: tuple[Pair, ...]


def sites(facts: CockpitFacts, now: datetime) -> Sites:
    """Return the page's content."""
    config = facts.config
    pairs = () if isinstance(config, Unknown) else config.replication
    return Sites(
        moment(facts, now),
        tuple(
            Site(place, _ability(facts, place, now), usage(facts, place.name, now))
            for place in overview.places(facts, now)
            if place.kind == "site"
        ),
        tuple(_pair(facts, pair, now) for pair in pairs),
    )


def _pair(facts: CockpitFacts, pair: ReplicationPair, now: datetime) -> Pair:
    measured_replications = history(facts, pair.source, pair.target)
    carried = tuple((run.at, run.throughput) for run in measured_replications if run.copied)
    return Pair(loss.lag(facts, pair, now), measured_replications, carried)


def history(facts: CockpitFacts, source: str, target: str) -> tuple[MeasuredReplication, ...]:
    """Return each replication of a pair, oldest first."""
    found = [record for record in facts.of("replication") if record.subject == f"{source}->{target}"]
    return tuple(_measured(run) for run in reversed(found))


def _measured(record: Evidence) -> MeasuredReplication:
    body = record.body
    return MeasuredReplication(
        record.at,
        float(body["lag_seconds"]),
        int(body["objects"]),
        int(body["bytes"]),
        int(body["copied"]),
        float(body.get("throughput", 0.0)),
        int(body.get("failures", 0)),
    )


def _ability(facts: CockpitFacts, place: overview.PlaceState, now: datetime) -> Ability | None:
    newest = next((record for record in facts.of("capabilities") if record.subject == place.name), None)
    if newest is None:
        return None
    told = from_json(newest.body)
    purposes = [PURPOSES[held.what] for held in place.holdings if held.what in PURPOSES]
    lacking = dict.fromkeys(f"{purpose}: {why}" for purpose in purposes for why in missing(told, purpose, now))
    whole = all(proof.outcome == "proven" for proof in told.proofs)
    state: State = "bad" if lacking else "good" if whole else "warning"
    figures = tuple(sorted(told.figures.items()))
    needed = {capability.name: capability.needed_by for capability in CAPABILITIES}
    return Ability(told.at, told.endpoint, state, tuple(lacking), told.proofs, figures, needed)
