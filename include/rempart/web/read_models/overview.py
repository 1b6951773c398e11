"""Summarize the platform: the verdict, sites and their content, figures and objectives, denials, champions. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from rempart.backup.databases.not_held import is_whole, needed, of_record
from rempart.backup.watch.rpo import lag_now, worse
from rempart.coordination.active import Active, backup_site
from rempart.errors import ConfigError, PipelineError
from rempart.flows.shared.platform import classification_of
from rempart.ledger.port import Evidence
from rempart.settings.config import SERVERS, Config
from rempart.settings.pipeline import Pipeline
from rempart.settings.policy.rules import Place as PlaceConfig
from rempart.sovereignty.places import decide_pool, decide_server, decide_site
from rempart.sovereignty.policy import Decision, What
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import loss
from rempart.web.read_models.messages import Message, Moment, State, moment
from rempart.web.read_models.models import Champion, champions
from rempart.web.read_models.points import proof, standing

DRILL_EVERY = timedelta(days=8)
"""The DAG `restore_drill` runs each week; a day later its proof counts as old."""
DENIALS_OPEN = timedelta(days=7)
"""A denial is open so long, unless the same was allowed since."""


Kind = Literal["site", "pool", "server"]


@dataclass(frozen=True)
class Holding:
    """Data of a classification at a place: the policy's current decision about it, and the reasons against it."""

    what: str
    classification: str
    allowed: bool
    against: tuple[str, ...]


@dataclass(frozen=True)
class PlaceState:
    """A site, a pool or a server of the platform: its operator, the law that it is under, and its data.

    `state` is bad if the place violates the policy.
    """

    kind: Kind
    name: str
    operator: str
    service: str
    region: str
    country: str
    jurisdiction: str
    owner_jurisdiction: str
    active: bool
    state: State
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Figure:
    """A figure and its objective, in seconds. `said` explains the figure, or gives the reason why it is unknown."""

    name: Literal["rpo", "restore_point", "rto", "drill"]
    seconds: float | None
    objective_seconds: float | None
    state: State
    message: Message


@dataclass(frozen=True)
class Denial:
    """A placement or connection that the policy denied, in the words of the record."""

    seq: int
    at: datetime
    kind: str
    subject: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """The page's content. `denials` is None when the ledger gave nothing."""

    moment: Moment
    verdict: loss.LossVerdict
    places: tuple[PlaceState, ...]
    lags: tuple[loss.Lag, ...]
    figures: tuple[Figure, ...]
    denials: tuple[Denial, ...] | None
    champions: tuple[Champion, ...] | None


def overview(facts: CockpitFacts, now: datetime) -> Overview:
    """Return the page's content."""
    config, blind = facts.config, isinstance(facts.evidence, Unknown)
    pairs = () if isinstance(config, Unknown) else config.replication
    return Overview(
        moment(facts, now),
        loss.judge(facts, now),
        places(facts, now),
        tuple(loss.lag(facts, pair, now) for pair in pairs),
        figures(facts, now),
        None if blind else open_denials(facts, now),
        None if blind else champions(facts),
    )


def places(facts: CockpitFacts, now: datetime) -> tuple[PlaceState, ...]:
    """Return sites, the platform's own servers and pools, with the data that pipelines and pairs store there."""
    config, active, pipelines = facts.config, facts.active, facts.pipelines
    if isinstance(config, Unknown):
        return ()
    known = {} if isinstance(pipelines, Unknown) else pipelines
    home = None if isinstance(active, Unknown) else active
    blind = home is None or isinstance(pipelines, Unknown)
    decided = [] if home is None or blind else list(_decisions(config, home, known, now))
    named: list[tuple[Kind, str]] = [("site", name) for name in config.sites]
    named += [("server", name) for name in SERVERS]
    named += [("pool", name) for name in config.gpu_pools]
    found = (_place(config, kind, name, home, decided) for kind, name in named)
    return tuple(replace(place, state="unknown") if blind else place for place in found)


def _decisions(
    config: Config, active: Active, pipelines: Mapping[str, Pipeline | PipelineError], now: datetime
) -> Iterator[tuple[str, Decision]]:
    """Return the data at each place, and whether it is allowed there."""
    today, home, shared = now.date(), active.site, classification_of(pipelines)
    own = sorted(
        {pipeline.classification for pipeline in pipelines.values() if not isinstance(pipeline, PipelineError)}
    )
    asked: list[tuple[str, What, str, str | None]] = [(classification, "data", home, None) for classification in own]
    asked += [(shared, "replica", pair.target, pair.source) for pair in config.replication if pair.source == home]
    with suppress(ConfigError):  # without a backup site there is no place to check: the figures report it
        asked.append((shared, "restore-point", backup_site(config, home), home))
    witnesses = dict.fromkeys([config.evidence_site, config.checkpoint_site])
    asked += [("internal", "evidence", site, None) for site in witnesses]
    for classification, what, site, replica_of in asked:
        yield f"site {site}", decide_site(config, classification, what, site, on=today, replica_of=replica_of)
    for server in SERVERS:
        for classification in own or [shared]:
            yield f"server {server}", decide_server(config, classification, server, on=today)
    if config.training.backend == "kubernetes":
        for pool in config.training.gpu_pools or config.gpu_pools:
            for classification in own:
                yield f"pool {pool}", decide_pool(config, classification, "job", pool, on=today)


def _place(
    config: Config, kind: Kind, name: str, active: Active | None, decided: list[tuple[str, Decision]]
) -> PlaceState:
    found = config.server_place(name) if kind == "server" else config.places().get(f"{kind}s.{name}")
    assert found is not None  # noqa: S101 - the configuration was validated, and names come from it
    place: PlaceConfig = found
    operator = config.operators[place.operator]
    holdings = tuple(
        Holding(
            decision.what,
            decision.classification,
            decision.allowed,
            tuple(f"{r.rule}: {r.fact}" for r in decision.against),
        )
        for where, decision in decided
        if where == f"{kind} {name}"
    )
    state: State = "good" if all(holding.allowed for holding in holdings) else "bad"
    return PlaceState(
        kind,
        name,
        place.operator,
        place.service,
        place.region,
        operator.regions[place.region].country,
        operator.jurisdiction.value,
        operator.owner_jurisdiction.value,
        kind == "site" and active is not None and active.site == name,
        state,
        holdings,
    )


def figures(facts: CockpitFacts, now: datetime) -> tuple[Figure, ...]:
    """Return RPO, age of the newest consistent restore point, RTO and age of the last successful drill."""
    config = facts.config
    if isinstance(config, Unknown) or isinstance(facts.evidence, Unknown):
        why = config.why if isinstance(config, Unknown) else facts.unknown()["ledger"]
        unknown = Message("figure.unknown", {"why": why})
        names: tuple[Literal["rpo", "restore_point", "rto", "drill"], ...] = ("rpo", "restore_point", "rto", "drill")
        return tuple(Figure(name, None, None, "unknown", unknown) for name in names)
    rpo, rto = config.backup.rpo_objective.total_seconds(), config.backup.rto_objective.total_seconds()
    whole = next((record for record in standing(facts) if is_whole(record.body)), None)
    made = datetime.fromisoformat(str(whole.body["created_at"])) if whole else None
    return (
        _rpo(facts, config, made, now),
        _restore_point(facts, made, now, rpo, whole.subject if whole else ""),
        _rto(facts, rto),
        _last_good_drill(facts, now),
    )


def _rpo(facts: CockpitFacts, config: Config, made: datetime | None, now: datetime) -> Figure:
    objective = config.backup.rpo_objective
    if isinstance(facts.active, Unknown):
        why = Message("figure.unknown", {"why": facts.active.why})
        return Figure("rpo", None, objective.total_seconds(), "unknown", why)
    lags: dict[str, timedelta | None] = {}
    for pair in config.replication:
        if pair.source == facts.active.site:
            last = loss.newest(facts, pair.source, pair.target)
            measured = timedelta(seconds=float(last.body["lag_seconds"])) if last else None
            lags[f"{pair.source}->{pair.target}"] = lag_now(measured, last.at, now) if last else None
    rpo = worse(made, lags, now, objective)
    if rpo.length is None:
        message = Message("rpo.no-point" if made is None else "rpo.no-lag")
        return Figure("rpo", None, objective.total_seconds(), "unknown", message)
    message = Message("rpo.point" if made and rpo.length == now - made else "rpo.lag")
    state: State = "good" if rpo.ok else "bad"
    return Figure("rpo", round(rpo.length.total_seconds(), 1), objective.total_seconds(), state, message)


def _restore_point(facts: CockpitFacts, made: datetime | None, now: datetime, objective: float, subject: str) -> Figure:
    """Return the age of the newest consistent point.

    It is bad while the newest of all points lacks a store that a champion needs.
    """
    figure = _age("restore_point", made, now, objective, subject)
    newest = next(iter(standing(facts)), None)
    if newest is None or not (lost := needed(of_record(newest.body))):
        return figure
    message = Message("restore_point.lacks", {"subject": newest.subject, "champions": ", ".join(lost)})
    return replace(figure, state="bad", message=message)


def _age(
    name: Literal["restore_point", "drill"], at: datetime | None, now: datetime, objective: float, subject: str
) -> Figure:
    if at is None:
        return Figure(name, None, objective, "bad", Message(f"{name}.none"))
    age = max((now - at).total_seconds(), 0.0)
    state: State = "good" if age <= objective else "bad" if name == "restore_point" else "warning"
    return Figure(name, round(age, 1), objective, state, Message(f"{name}.age", {"subject": subject}))


def _rto(facts: CockpitFacts, objective: float) -> Figure:
    measured = next(
        (drill_proof for drill_proof in map(proof, facts.of("drill")) if drill_proof.rto_seconds is not None), None
    )
    if measured is None or measured.rto_seconds is None:
        return Figure("rto", None, objective, "unknown", Message("rto.none"))
    state: State = "good" if measured.rto_seconds <= objective and measured.proved else "bad"
    message = Message("rto.measured" if measured.proved else "rto.failed", {"record": measured.seq})
    return Figure("rto", measured.rto_seconds, objective, state, message)


def _last_good_drill(facts: CockpitFacts, now: datetime) -> Figure:
    good = next((record for record in facts.of("drill") if record.body["ok"] is True), None)
    figure = _age("drill", good.at if good else None, now, DRILL_EVERY.total_seconds(), good.subject if good else "")
    newest = next(iter(facts.of("drill")), None)
    if newest is not None and newest is not good:
        message = Message("drill.red", {"record": newest.seq})
        return Figure("drill", figure.seconds, figure.objective_seconds, "bad", message)
    return figure


def open_denials(facts: CockpitFacts, now: datetime) -> tuple[Denial, ...]:
    """Return denials of the last days, newest first, unless a later record allows the same.

    Of the same placement only the newest is returned.
    """
    allowed = {_asked(record): record.seq for record in reversed(facts.of("decision")) if record.body.get("allowed")}
    denials: dict[tuple[str, ...], Denial] = {}
    for record in sorted([*facts.of("denial"), *facts.of("egress-denial")], key=lambda record: -record.seq):
        asked = (record.kind, *_asked(record))
        if now - record.at <= DENIALS_OPEN and asked not in denials and allowed.get(asked[1:], 0) < record.seq:
            denials[asked] = Denial(record.seq, record.at, record.kind, record.subject, against(record.body))
    return tuple(denials.values())


def _asked(record: Evidence) -> tuple[str, ...]:
    body = record.body
    return (str(body.get("what", "")), str(body.get("classification", "")), record.subject)


def against(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the reason of a denial: a decision's reasons, a job's texts, or the rule that stopped a connection."""
    if "reasons" not in body:
        return (str(body.get("rule", "")),)
    told = [reason for reason in body["reasons"] if isinstance(reason, str) or not reason["ok"]]
    return tuple(reason if isinstance(reason, str) else f"{reason['rule']}: {reason['fact']}" for reason in told)
