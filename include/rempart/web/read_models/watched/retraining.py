"""Tell what a red verdict led to as one chain: alarm, training, gate, service. Pure.

All of it follows from records of the ledger. The number of the verdict connects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rempart.flows.training.champions import TimeAsChampion, champion_times, intended
from rempart.ledger.attributed import Writer, writer
from rempart.ledger.port import Evidence, Kind
from rempart.monitoring import retraining
from rempart.settings.champions.retraining import Retraining
from rempart.settings.pipeline import ModelPipeline
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.messages import State

CHAINS = 5
"""Chains that a page shows."""
_JUDGED: Mapping[str, State] = {"promotion": "good", "refusal": "bad"}


@dataclass(frozen=True)
class ChainLink:
    """A record of a chain. `by`: the task that wrote it, if any."""

    seq: int
    at: datetime
    by: Writer | None


@dataclass(frozen=True)
class AlarmChain:
    """What a red verdict on version `champion` led to. `verdict`: its number, which is in each record of the chain.

    `alarm`, `reasons`: the verdict, as long as it is on record. `started`: the training, if the verdict started one;
    `declined`: why it started none. `version`, `trained`: its candidate. `judgement`, `judged`, `rules`: kind, record
    and reasons of the newest decision on the candidate since. `served`: its first time as champion since. `refused`:
    why the training did not help, as long as that is an alarm.
    """

    verdict: int
    champion: str
    alarm: ChainLink | None = None
    reasons: tuple[str, ...] = ()
    started: ChainLink | None = None
    declined: str = ""
    version: str | None = None
    trained: ChainLink | None = None
    judgement: str | None = None
    judged: ChainLink | None = None
    rules: tuple[str, ...] = ()
    served: TimeAsChampion | None = None
    refused: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """Return how the chain ended: good with a new champion, bad without; unknown as long as it goes on."""
        if self.served:
            return "good"
        if self.version is not None and self.version == self.champion:
            return "bad"
        return _JUDGED.get(self.judgement or "", "unknown")


@dataclass(frozen=True)
class _Records:
    """Records of one pipeline, oldest first. `decided`: promotions, rollbacks, refusals and approvals."""

    verdicts: Sequence[Evidence]
    trainings: Sequence[Evidence]
    decided: Sequence[Evidence]

    @classmethod
    def of(cls, facts: CockpitFacts, name: str) -> _Records:
        def found(*kinds: Kind) -> Sequence[Evidence]:
            own = [record for kind in kinds for record in facts.standing(kind) if record.subject == name]
            return sorted(own, key=lambda record: record.seq)

        decided = found("promotion", "rollback", "refusal", "approval")
        return cls(found("monitoring"), found("retraining"), decided)

    @property
    def moved(self) -> Sequence[Evidence]:
        """Return the decisions that moved the alias of the champion."""
        return [record for record in self.decided if record.kind in ("promotion", "rollback")]


def chains(facts: CockpitFacts, now: datetime) -> Mapping[str, tuple[AlarmChain, ...]]:
    """Return the newest chains of each pipeline with a model, newest first."""
    files = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    return {
        name: _chains(_Records.of(facts, name), file.retrain, now)[:CHAINS]
        for name, file in files.items()
        if isinstance(file, ModelPipeline)
    }


def _chains(records: _Records, rules: Retraining, now: datetime) -> tuple[AlarmChain, ...]:
    verdicts = {record.seq: record for record in records.verdicts}
    begun = sorted(retraining.starts(records.trainings), reverse=True)
    found = [_chain(verdict, verdicts.get(verdict), records) for verdict in begun]
    newest, champion = max(verdicts.values(), key=lambda record: record.seq, default=None), intended(records.moved)
    if newest is None or newest.seq in begun or newest.body["outcome"] != "red":
        return tuple(found)
    if (version := str(newest.body["version"])) != champion:
        return tuple(found)
    decision = retraining.decide(rules, champion, newest, records.trainings, now)
    declined = "" if decision.train else decision.why
    return (AlarmChain(newest.seq, version, _link(newest), _reasons(newest), declined=declined), *found)


def _chain(verdict: int, alarm: Evidence | None, records: _Records) -> AlarmChain:
    """Return the chain of a verdict that started a training."""
    own = [record for record in records.trainings if int(record.body["verdict"]) == verdict]
    trained = next((record for record in reversed(own) if record.body["version"] is not None), None)
    version = str(trained.body["version"]) if trained else None
    times = champion_times(records.moved)
    judgements = [record for record in records.decided if record.kind != "rollback"]
    since = [record for record in judgements if record.seq > own[0].seq and str(record.body["version"]) == version]
    judged = since[-1] if since else None
    fault = retraining.not_better(records.trainings, judgements, records.verdicts)
    return AlarmChain(
        verdict,
        str(own[0].body["champion"]),
        _link(alarm) if alarm else None,
        _reasons(alarm) if alarm else (),
        _link(own[0]),
        "",
        version,
        _link(trained) if trained else None,
        judged.kind if judged else None,
        _link(judged) if judged else None,
        _reasons(judged) if judged else (),
        next((time for time in times if time.version == version and time.seq > own[0].seq), None),
        fault.reasons if fault and fault.verdict == verdict else (),
    )


def _link(record: Evidence) -> ChainLink:
    return ChainLink(record.seq, record.at, writer(record))


def _reasons(record: Evidence) -> tuple[str, ...]:
    return tuple(map(str, record.body.get("reasons") or ()))
