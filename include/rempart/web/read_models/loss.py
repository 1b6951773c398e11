"""Can we lose a site now, and what would it cost? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.backup.watch.rpo import lag_now
from rempart.coordination.active import Active, backup_site
from rempart.errors import ConfigError
from rempart.ledger.port import Evidence
from rempart.settings.config import Config
from rempart.settings.sections import ReplicationPair
from rempart.sovereignty.places import site_placement
from rempart.sovereignty.policy import independence
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.messages import STALE, Message, State, worst
from rempart.web.read_models.points import standing


@dataclass(frozen=True)
class Loss:
    """Present cost of the loss of one site. `cost_seconds`: the age of the oldest lost change; None if unknown."""

    site: str
    state: State
    cost_seconds: float | None
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class LossVerdict:
    """The answer for any site: the worst of all. `cost_seconds` is the highest cost of one site."""

    state: State
    message: Message
    cost_seconds: float | None
    sites: tuple[Loss, ...]


@dataclass(frozen=True)
class Lag:
    """Lag of a replica: its last measurement, and its present upper limit.

    Of the verified objects, `accepted` were accepted by checksum alone and are read back by `read_back_due`.
    `unvouched` have no writer's digest, so the source's bytes are not attested.
    """

    source: str
    target: str
    state: State
    seconds: float | None
    objective_seconds: float
    measured_at: datetime | None
    objects: int | None
    verified: int | None
    failures: int | None
    pending: int | None
    throughput: float | None
    accepted: int | None = None
    read_back_due: datetime | None = None
    unvouched: int | None = None


def newest(facts: CockpitFacts, source: str, target: str) -> Evidence | None:
    """Return the last recorded replication of a pair."""
    return next((record for record in facts.of("replication") if record.subject == f"{source}->{target}"), None)


def lag(facts: CockpitFacts, pair: ReplicationPair, now: datetime) -> Lag:
    """Return the lag of one pair. Changes since the last measurement may be missing, too."""
    objective, last = pair.lag_objective, newest(facts, pair.source, pair.target)
    if last is None:
        return Lag(
            pair.source, pair.target, "unknown", None, objective.total_seconds(), None, None, None, None, None, None
        )
    present = lag_now(timedelta(seconds=float(last.body["lag_seconds"])), last.at, now) or timedelta()
    failures = int(last.body.get("failures", 0))
    told = last.body.get("read_back_due")
    due = datetime.fromisoformat(str(told)) if told else None
    overdue = due is not None and due < now
    state: State = "bad" if present > objective else "warning" if failures or overdue else "good"
    return Lag(
        pair.source,
        pair.target,
        state,
        round(present.total_seconds(), 1),
        objective.total_seconds(),
        last.at,
        int(last.body["objects"]),
        int(last.body["verified"]),
        failures,
        int(last.body.get("pending", 0)),
        float(last.body.get("throughput", 0.0)),
        last.body.get("accepted"),
        due,
        last.body.get("unvouched"),
    )


def judge(facts: CockpitFacts, now: datetime) -> LossVerdict:
    """Return the loss of every site, and the overall answer. Missing or old facts make it unknown, never good."""
    config, active = facts.config, facts.active
    why = [found.why for found in (config, active, facts.evidence) if isinstance(found, Unknown)]
    if now - facts.at > STALE:
        why = ["stale"]
    if why or isinstance(config, Unknown) or isinstance(active, Unknown):
        return LossVerdict("unknown", Message("verdict.unknown", {"why": why[0]}), None, ())
    losses = tuple(_loss(facts, config, active, site, now) for site in config.sites)
    state = worst(loss.state for loss in losses)
    costs = [loss.cost_seconds for loss in losses]
    cost = None if None in costs else max((cost for cost in costs if cost is not None), default=None)
    params: dict[str, str | int | float] = {} if cost is None else {"cost_seconds": cost}
    worst_site = next((loss.site for loss in losses if loss.state == state), "")
    return LossVerdict(state, Message(f"verdict.{state}", {**params, "site": worst_site, "why": ""}), cost, losses)


def _loss(facts: CockpitFacts, config: Config, active: Active, site: str, now: datetime) -> Loss:
    if site == active.site:
        return _of_active(facts, config, active, now)
    messages: list[Message] = []
    try:
        points = len(standing(facts)) if backup_site(config, active.site) == site else 0
    except ConfigError:
        points = 0
    if points:
        messages.append(Message("loss.points", {"points": points}))
    if any(pair.target == site and pair.source == active.site for pair in config.replication):
        messages.append(Message("loss.replica", {"active": active.site}))
    return Loss(site, "good", 0.0, tuple(messages or [Message("loss.nothing")]))


def _of_active(facts: CockpitFacts, config: Config, active: Active, now: datetime) -> Loss:
    site = active.site
    if active.state == "fenced":
        return Loss(site, "warning", None, (Message("loss.switching"),))
    pairs = [pair for pair in config.replication if pair.source == site]
    if not pairs:
        return Loss(site, "bad", None, (Message("loss.no-replica"),))
    found = min(
        (lag(facts, pair, now) for pair in pairs),
        key=lambda measured_lag: (measured_lag.seconds is None, measured_lag.seconds or 0.0),
    )
    if found.seconds is None:
        return Loss(site, "unknown", None, (Message("loss.never-replicated", {"target": found.target}),))
    messages = [Message("loss.active", {"cost_seconds": found.seconds, "target": found.target})]
    states: list[State] = [found.state if found.state != "bad" else "warning"]
    if found.state == "bad":
        messages.append(Message("loss.late", {"objective_seconds": found.objective_seconds}))
    if found.failures:
        messages.append(Message("loss.failures", {"failures": found.failures}))
    here, there = site_placement(config, site), site_placement(config, found.target)
    shared = independence(config, "", there, here) if here and there else None
    if shared is None or not shared.ok:
        fact = shared.fact if shared else ""
        messages.append(Message("loss.shared", {"target": found.target, "fact": fact}))
        states.append("warning")
    return Loss(site, worst(states), found.seconds, tuple(messages))
