"""List the versions of each model: figures, training, the gate's decision, and who made it champion. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from rempart.features.label_feed import told
from rempart.flows.approval.told import reasons
from rempart.flows.shared import approvals, retirements
from rempart.flows.training.champions import TimeAsChampion, champion_times, succession
from rempart.ledger.attributed import Writer, writer
from rempart.ledger.port import Evidence, Kind
from rempart.web.facts import CockpitFacts
from rempart.web.read_models.models import JUDGEMENTS, Models, Plot, models, plot

Standing = Literal["champion", "champion before", "rolled back", "refused", "awaits approval", "not judged", "retired"]
"""Standing of a version now. `champion before`: a rollback can return to it. `retired`: its files were deleted."""
Figures = Mapping[str, float | None]
_RETIREMENT: Kind = "retirement"
_WATCH: Kind = "monitoring"
_OPENING: Kind = "opening"
_ANSWER: Kind = "answer"


@dataclass(frozen=True)
class Decision:
    """A recorded decision about a version, of a kind of JUDGEMENTS. `by`: the task that wrote it, if any.

    `rejected`: it passed the gate, and a person or the end of the time refused it.
    """

    seq: int
    at: datetime
    kind: str
    metrics: Figures
    baselines: Figures
    champion_metrics: Figures
    reasons: tuple[str, ...]
    plot: Plot | None
    by: Writer | None
    rejected: bool = False


@dataclass(frozen=True)
class DriftVerdict:
    """A recorded verdict on the data or the predictions of a version."""

    seq: int
    at: datetime
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Retired:
    """When and why a version was retired. `complete`: all of its files are deleted."""

    seq: int
    at: datetime
    why: str
    complete: bool
    by: Writer | None


@dataclass(frozen=True)
class Backtested:
    """One training from a moment of the past: when it begins to be measured, on how many rows, and the figures."""

    begins: datetime
    rows: int
    metrics: Figures


@dataclass(frozen=True)
class ModelVersion:
    """A version with its training and its decisions, newest first. `metrics`: of its held-out rows.

    `seq` is the number of its record in the ledger; None if it is not read: then fields of its training are not known.
    `used`: snapshot of each pipeline whose feature views its training set has. `served`: the times in which it was
    champion, oldest first; `drift`: verdicts on it, newest first. `verdict`: number of the record of the red verdict
    that started the training, if there was one. `validation`: how the job validated, as its record says; `backtest`:
    trainings from the past, oldest first. `opened`: how often its held-out rows were opened, `opened_by` for which
    versions, and `opened_why` how often for each reason, such as `gate`; empty if not each record is known.
    `registered`: number of the newest record of a training that gave the version: a later one may find it again.
    """

    version: str
    standing: Standing
    seq: int | None
    trained_at: datetime | None
    metrics: Figures
    dataset_sha256: str
    held_out_sha256: str
    rows_train: int
    rows_holdout: int
    snapshot: str
    labels: str
    used: Mapping[str, str]
    trainer: str
    params: Mapping[str, Any]
    seed: int | None
    features: tuple[str, ...]
    code_version: str
    run_id: str
    by: Writer | None
    decisions: tuple[Decision, ...]
    verdict: int | None = None
    served: tuple[TimeAsChampion, ...] = ()
    drift: tuple[DriftVerdict, ...] = ()
    retired: Retired | None = None
    validation: Mapping[str, Any] | None = None
    backtest: tuple[Backtested, ...] = ()
    opened: int = 0
    opened_by: tuple[str, ...] = ()
    opened_why: Mapping[str, int] = field(default_factory=dict)
    registered: int = 0

    def tried(self, metric: str | None) -> tuple[str, list[tuple[datetime, float]]]:
        """Return a metric's name (the usual one if it is not known) and its values by origin, oldest first."""
        known = self.backtest[0].metrics
        name = next((each for each in (metric or "", "mae", "log_loss") if each in known), next(iter(known)))
        return name, [(origin.begins, float(origin.metrics[name] or 0.0)) for origin in self.backtest]

    @property
    def judged(self) -> Decision | None:
        """Return the gate's newest decision on the version."""
        return next((decision for decision in self.decisions if decision.kind != "rollback"), None)

    @property
    def was_champion(self) -> bool:
        """Return whether a decision tells that it was champion, also if its promotion is not read."""
        return bool(self.served) or any(decision.kind == "rollback" for decision in self.decisions)


@dataclass(frozen=True)
class ModelState:
    """A model: its champion by the recorded decisions, since when, and every known version, newest first."""

    model: str
    metric: str | None
    champion: ModelVersion | None
    champion_since: datetime | None
    newest: ModelVersion | None
    versions: tuple[ModelVersion, ...]


@dataclass(frozen=True)
class ModelPage(Models):
    """The content of the page *Models*. `states`: each model with the life of its versions. `searched`: those whose
    parameters were searched for.
    """

    states: tuple[ModelState, ...] = ()
    searched: tuple[str, ...] = ()


def model_page(facts: CockpitFacts, now: datetime) -> ModelPage:
    """Return the content of the page."""
    searched = tuple(sorted({record.subject for record in facts.standing("search")}))
    return ModelPage(**vars(models(facts, now)), states=tuple(model_states(facts).values()), searched=searched)


def model_states(facts: CockpitFacts) -> dict[str, ModelState]:
    """Return every model with a candidate or a decision on record, by name."""
    decided = [record for kind in JUDGEMENTS for record in facts.standing(kind)]
    after = [record for kind in (_WATCH, _RETIREMENT, _OPENING, _ANSWER) for record in facts.standing(kind)]
    names = {record.subject for record in (*decided, *facts.standing("candidate"))}
    return {
        name: model_state(
            name,
            [record for record in facts.standing("candidate") if record.subject == name],
            [record for record in decided if record.subject == name],
            [record for record in after if record.subject == name],
        )
        for name in sorted(names)
    }


def model_state(
    model: str, candidates: Sequence[Evidence], decisions: Sequence[Evidence], after: Sequence[Evidence] = ()
) -> ModelState:
    """Return a model from its candidates (newest first), its decisions and what came `after` them (in any order).

    `after`: retirements, verdicts of the watch, openings of held-out rows, and people's answers that did not decide.
    """
    ordered = sorted(decisions, key=lambda record: record.seq)
    aliased = [record for record in ordered if record.kind in ("promotion", "rollback")]
    champions = succession(aliased)
    trained: dict[str, Evidence] = {}
    for record in candidates:
        trained.setdefault(str(record.body["version"]), record)
    told: dict[str, list[Evidence]] = {}
    for record in reversed(ordered):
        told.setdefault(_subject_of(record), []).append(record)
    names = {*trained, *told, *champions}
    gone = retirements.retirements(record for record in after if record.kind == _RETIREMENT)
    answers = [record for record in after if record.kind == _ANSWER]
    times, judged = champion_times(aliased), [record for record in after if record.kind == _WATCH]
    openings = [record for record in after if record.kind == _OPENING]
    jobs = {str(record.body.get("job_id")): name for name, record in trained.items()}
    versions = tuple(
        replace(
            _version(name, trained.get(name), told.get(name, ()), answers),
            standing=_standing(name, champions, told.get(name, ()), gone),
            served=tuple(time for time in times if time.version == name),
            drift=tuple(_drift(record) for record in judged if str(record.body["version"]) == name),
            retired=_retired(gone[name]) if name in gone else None,
            **_opened(trained.get(name), openings, jobs),
        )
        for name in sorted(names, key=lambda name: (int(name) if name.isdigit() else 0, name), reverse=True)
    )
    champion = next((version for version in versions if version.standing == "champion"), None)
    gates = [record.body.get("gate") or {} for record in reversed(ordered) if record.kind != "rollback"]
    return ModelState(
        model,
        gates[0].get("metric") if gates else None,
        champion,
        aliased[-1].at if champion and aliased else None,
        versions[0] if versions else None,
        versions,
    )


def _subject_of(record: Evidence) -> str:
    return str(record.body["replaces"] if record.kind == "rollback" else record.body["version"])


def _standing(name: str, champions: Sequence[str], told: Sequence[Evidence], gone: Collection[str]) -> Standing:
    """Return the standing of a version; `told`: the decisions on it, newest first; `gone`: retired versions."""
    if name in gone:
        return "retired"
    if champions and champions[-1] == name:
        return "champion"
    if name in champions:
        return "champion before"
    if not told:
        return "not judged"
    standings: Mapping[str, Standing] = {"refusal": "refused", "approval": "awaits approval"}
    return standings.get(told[0].kind, "rolled back")


def _version(
    name: str, trained: Evidence | None, told: Sequence[Evidence], answers: Sequence[Evidence]
) -> ModelVersion:
    body = trained.body if trained else {}
    dataset, trainer = body.get("dataset") or {}, body.get("trainer") or {}
    return ModelVersion(
        name,
        "not judged",
        trained.seq if trained else None,
        trained.at if trained else None,
        dict(body.get("metrics") or {}),
        str(dataset.get("sha256", "")),
        str((dataset.get("held_out") or {}).get("sha256", "")),
        int(dataset.get("rows_train", 0)),
        int(dataset.get("rows_holdout", 0)),
        str(body.get("snapshot") or ""),
        _labels(body),
        dict(body.get("used") or {}),
        str(trainer.get("use", "")),
        dict(trainer.get("params") or {}),
        trainer.get("seed"),
        tuple(str(feature["name"]) for feature in body.get("features") or ()),
        str(body.get("code_version", "")),
        str(body.get("run_id", "")),
        writer(trained) if trained else None,
        tuple(_decision(record, answers) for record in told),
        body.get("verdict"),
        validation=body.get("validation"),
        backtest=tuple(_backtested(origin) for origin in body.get("backtest") or ()),
    )


def _backtested(origin: Mapping[str, Any]) -> Backtested:
    begins = datetime.fromisoformat(str(origin["begins"]))
    aware = begins if begins.tzinfo else begins.replace(tzinfo=UTC)
    return Backtested(aware, int(origin["rows"]), dict(origin["metrics"]))


def _opened(trained: Evidence | None, openings: Sequence[Evidence], jobs: Mapping[str, str]) -> dict[str, Any]:
    """Return how often a version's held-out rows were opened, and for which versions. `jobs`: versions by job."""
    held_out = ((trained.body.get("dataset") or {}).get("held_out") or {}) if trained else {}
    rows = held_out.get("examples", held_out.get("sha256"))  # an earlier release names the rows with their features
    found = [
        record.body for record in openings if rows and record.body.get("examples", record.body["held_out"]) == rows
    ]
    named = {str(name) for body in found for name in [*body["versions"], jobs.get(str(body["job_id"]))] if name}
    times = max((int(body["opening"]) for body in found), default=0)  # a page reads the newest records, not all
    why = Counter(str(body["why"]) for body in found)
    job = trained.body.get("job_id") if trained else None
    again = (each.seq for each in openings if (each.body["why"], each.body["job_id"]) == ("registration", job))
    return {
        "registered": max(again, default=0),
        "opened": times,
        "opened_by": tuple(sorted(named, key=lambda name: (len(name), name))),
        "opened_why": dict(sorted(why.items())) if why.total() == times else {},
    }


def _drift(record: Evidence) -> DriftVerdict:
    body = record.body
    reasons = tuple(str(reason) for reason in body.get("reasons") or ())
    return DriftVerdict(record.seq, record.at, str(body["outcome"]), reasons)


def _retired(found: retirements.Retirement) -> Retired:
    return Retired(found.began.seq, found.at, found.why, found.ended is not None, writer(found.began))


def of_others(used: Mapping[str, str]) -> str:
    """Return the snapshots of pipelines whose feature views a training set has, as part of a sentence."""
    return ", ".join(f"snapshot {snapshot} of '{pipeline}'" for pipeline, snapshot in used.items())


def _labels(body: Mapping[str, Any]) -> str:
    """Return the snapshot of labels of another pipeline, and how many rows have one; empty for a target of own rows."""
    labels = body.get("labels")
    if not labels:
        return ""
    return f"snapshot {labels['snapshot']} of '{labels['pipeline']}': {told(labels['pipeline'], labels['rows'])}"


def _decision(record: Evidence, answers: Sequence[Evidence]) -> Decision:
    body = record.body
    return Decision(
        record.seq,
        record.at,
        record.kind,
        dict(body.get("metrics") or {}),
        dict(body.get("baselines") or {}),
        dict(body.get("champion_metrics") or {}),
        reasons(record, answers),
        None if record.kind == "rollback" else plot(body),
        writer(record),
        approvals.REJECTED in body,
    )


@dataclass(frozen=True)
class LastScoring:
    """The newest scoring by a pipeline's champion. `table`: address of the open table; `into`: the user's table.

    `reasons`: why rows are in quarantine, by their number.
    """

    seq: int
    at: datetime
    version: str
    rows_of: str
    rows: int
    quarantined: int
    table: str
    into: str | None
    reasons: Mapping[str, int]


def last_scoring(facts: CockpitFacts, pipeline: str) -> LastScoring | None:
    """Return the newest scoring on record, or None."""
    for record in facts.of("scoring"):
        body = record.body
        if record.subject == pipeline and "scoring" in body:
            into = body.get("into")
            return LastScoring(
                record.seq,
                record.at,
                str(body["version"]),
                str(body["rows_of"]),
                int(body["rows"]),
                int(body["quarantined"]),
                f"{body['bucket']}/predictions/{body['rows_of']}/{pipeline}/",
                f"{into['connection']}: {into['table']}" if into else None,
                body.get("reasons", {}),
            )
    return None
