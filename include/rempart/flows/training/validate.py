"""Judge a candidate at the gate and promote it; roll the alias back if needed.

Evidence is written before the alias moves. The newest recorded promotion or rollback therefore names the champion, and
the next run finishes a killed one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import ModelRefused, TrainingError
from rempart.flows.gates.showing import ChampionAnswers, JudgedCandidate, show
from rempart.flows.shared import approvals, authors, erasures, removals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training import champions
from rempart.flows.training.candidates import openings
from rempart.flows.training.candidates.record import candidate_record, trained_version
from rempart.flows.training.champions import decisions_on, return_to, succession
from rempart.ingestion import draft
from rempart.ledger import attributed
from rempart.ledger.port import Evidence, Ledger
from rempart.models import loading, registry
from rempart.models.encoding import Feature, unknown
from rempart.models.gates.reasons import UNCHANGED
from rempart.models.gates.verdict import judge
from rempart.models.inputs import Input, added_line
from rempart.models.predictions import figures
from rempart.monitoring import retraining
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.sites.port import Site


@dataclass(frozen=True)
class ValidationResult:
    """Gate verdict on one version. `champion` is the version afterwards, `previous` the one before.

    `awaits`: it passed, and waits for the approval of a person, by the record `judgement` and `answers` to it so far.
    """

    version: str
    promoted: bool
    reasons: tuple[str, ...]
    metrics: dict[str, float]
    baselines: dict[str, float]
    champion: str | None
    previous: str | None
    awaits: bool = False
    judgement: int | None = None
    answers: int = 0


@dataclass(frozen=True)
class RollbackResult:
    """Result of a rollback: the versions before and after; `done` is False on a dry run."""

    dry_run: bool
    done: bool
    champion: str
    replaces: str
    plan: str


def validate(
    platform: Platform, pipeline: ModelPipeline, version: str | None = None, *, anew: bool = False
) -> ValidationResult:
    """Judge a version (default: the newest candidate) on the held-out rows of its own frozen training set.

    The champion is measured on the same rows. No model of a pipeline file that is still a draft passes. The current
    champion stays champion. `anew`: nobody named the version to promote it without a comparison with the champion.
    Raises TrainingError without a candidate, ModelRefused if a model differs from its record or another decision was
    made meanwhile, TrackingUnavailable, SiteError, IntegrityError, PlacementDenied, DatabaseUnavailable, LedgerError.
    """
    active, name, tracking = platform.active(), pipeline.name, platform.tracking()
    removal, named = removals.check_open(platform.ledger, name), version is not None
    if (version := version or registry.candidate(tracking, name)) is None:
        raise TrainingError(f"Model {name} has no candidate", f"Run train_{name} first.")
    ledger = platform.ledger
    record = _record(ledger, name, version)
    with platform.committing(active):
        removals.check_same(ledger, name, removal)  # decisions before it do not count: the alias would look moved
        settled = champions.settle(tracking, ledger, name, platform.clock())
    decisions = settled.decisions
    # an alias that is gone may stay away beside an altered record: the comparison with the champion on record stays
    current = settled.alias or champions.intended(decisions)
    if current == version:
        return _champion_already(name, version, decisions)
    site = platform.active_site(pipeline.classification, active)
    versions = [version, *([current] if current is not None else [])]
    openings.record(ledger, name, record["dataset"]["held_out"], "gate", str(record["job_id"]), versions)
    train, holdout = _rows(ledger, site, record["dataset"])
    target = Feature.from_json(record["target"])
    model = loading.load(tracking, record)
    theirs, incomparable = _champions(ledger, tracking, record, current, holdout)
    faults = (_incomparable(record, str(current), incomparable),) if incomparable and (anew or not named) else ()
    shown = show(JudgedCandidate(pipeline, str(record["task"]), target, model, train, holdout, theirs))
    mine, naive = dict(shown.candidate), dict(shown.baseline)
    if not named and (undone := _undone(decisions, version) or _rejected(ledger, name, version)):
        faults = (*faults, undone)
    faults = (*faults, *draft_faults(name))
    verdict = judge(shown, pipeline.gate)
    if faults:
        verdict = replace(verdict, passed=False, reasons=(*verdict.reasons, *faults))
    if incomparable and not faults:
        told = f"not compared with the champion, version {current}, which {incomparable}: a person named this version"
        verdict = replace(verdict, reasons=(*verdict.reasons, told))
    if lines := [line for line in (model.ignored_line, _also_read(ledger, record, current)) if line]:
        verdict = replace(verdict, reasons=(*verdict.reasons, *lines))
    body = {
        "version": version,
        "previous": current,
        "metrics": mine,
        "baselines": naive,
        "champion_metrics": None if shown.champion is None else dict(shown.champion),
        "reasons": list(verdict.reasons),
        "rules": [result.as_json() for result in verdict.results],
        "gate": pipeline.gate.model_dump(mode="json"),
        "dataset_sha256": record["dataset"]["sha256"],
        "model_id": record["model_id"],
        "job_id": record["job_id"],
        "verdict": _cause(ledger, name, version, record),
    }
    if verdict.passed and pipeline.gate.approval:
        makers = authors.NOBODY
        if pipeline.gate.approval.four_eyes:
            users = platform.config.access, platform.connections, partial(platform.database, "airflow")
            makers = authors.of_candidate(*users, pipeline, record)
        with platform.committing(active):
            removals.check_same(ledger, name, removal)
            retirements.check_kept(ledger, name, version, "judge")
            judgement = _await_approval(ledger, name, body, makers)
        return _awaiting(ledger, tracking, name, body, judgement)
    if verdict.passed:
        with platform.committing(active):
            removals.check_same(ledger, name, removal)
            retirements.check_kept(ledger, name, version, "promote")
            _check_same(ledger, name, version, decisions)
            ledger.append("promotion", name, body)
            registry.promote(tracking, name, version, current, verdict.reasons)
        return ValidationResult(version, True, verdict.reasons, mine, naive, version, current)
    if not _already_recorded(ledger, name, body):
        ledger.append("refusal", name, _finite(body))
    registry.refuse(tracking, name, version, verdict.reasons)
    return ValidationResult(version, False, verdict.reasons, _finite(mine), _finite(naive), current, current)


def _awaiting(
    ledger: Ledger, tracking: Connection, name: str, body: Mapping[str, Any], judgement: int
) -> ValidationResult:
    """Say in MLflow that a version waits for a person, and return its result. `body`: its judgement, on record."""
    version, current = str(body["version"]), body["previous"]
    awaits = f"passed: version {version} awaits approval; `rempart model show {name}` tells whose"
    reasons = (*body["reasons"], awaits)
    registry.await_approval(tracking, name, version, reasons)
    answers = len(approvals.answers_to(ledger, name, judgement))
    figures_of = body["metrics"], body["baselines"]
    return ValidationResult(version, False, reasons, *figures_of, current, current, True, judgement, answers)


def _await_approval(ledger: Ledger, name: str, body: Mapping[str, Any], makers: authors.Authors) -> int:
    """Record that a version passed the gate and waits for a person. A judgement that still stands is not repeated.

    `makers`: who made it. Returns the number of the record.
    """
    version = str(body["version"])
    waits = approvals.on_record(ledger, name).get(version)
    # `rules` has the time that a prediction took, which differs each time; the reasons tell the rest
    if waits is None or any(waits.body[key] != value for key, value in body.items() if key != "rules"):
        return ledger.append("approval", name, {**body, "authors": makers.as_json()}).seq
    return waits.seq


def _champion_already(name: str, version: str, decisions: Sequence[Evidence]) -> ValidationResult:
    """Return the result on the champion: that of its promotion. Raises ModelRefused if its record was altered."""
    promotions = (d for d in reversed(decisions) if d.kind == "promotion" and str(d.body["version"]) == version)
    if (made := next(promotions, None)) is None:
        raise ModelRefused(
            f"Model {name}: version {version} is champion in MLflow, and the record of its promotion was altered or "
            "deleted: it was not judged",
            "Put the record back (docs/how-to/verify-the-ledger.md#put-an-altered-record-back), or validate "
            "another version: its promotion decides.",
        )
    body, by = made.body, attributed.writer(made)
    when = f"{made.at:%Y-%m-%d %H:%M} UTC, promoted by {f'{by.dag}, run {by.run}' if by else 'a command'}"
    explanation = (f"{UNCHANGED}{when}, evidence {made.seq}", *body["reasons"])
    return ValidationResult(version, True, explanation, body["metrics"], body["baselines"], version, body["previous"])


def _check_same(ledger: Ledger, name: str, version: str, decisions: Sequence[Evidence]) -> None:
    """Check that no decision was made while a version was measured. Raises ModelRefused."""
    if [seen.seq for seen in decisions_on(ledger, name)] != [made.seq for made in decisions]:
        raise ModelRefused(
            f"Model {name}: another decision was made while version {version} was judged: nothing was promoted",
            f"Run validate_model_{name} again: it compares with the champion of now.",
        )


def draft_faults(name: str) -> tuple[str, ...]:
    """Return why the file of a pipeline promotes no model: nobody decided what its draft only guessed."""
    told = draft.reminder(pipelines.text_of(name)) if name in pipelines.names() else None
    return (f"include/pipelines/{name}.yaml: {told}",) if told else ()


def _champions(
    ledger: Ledger,
    tracking: Connection,
    record: Mapping[str, Any],
    version: str | None,
    holdout: pa.Table,
) -> tuple[ChampionAnswers | None, str]:
    """Return the champion's answers to the candidate's held-out rows, or None and why it cannot be measured.

    The reason refuses a candidate unless a person named its version; without a champion it is empty.
    """
    if version in (None, record["version"]):
        return None, ""
    assert version is not None  # noqa: S101 - None is among the values above
    theirs = _record(ledger, str(record["name"]), version)
    if theirs["task"] != record["task"] or theirs["target"] != record["target"]:
        return None, "predicts another target"
    if why := loading.lacks(theirs):
        return None, f"has evidence without {why}"
    model = loading.load(tracking, theirs)
    if why := _differing_inputs(model.features, holdout.column_names, record["dataset"]["definitions"]):
        return None, why
    for feature, outside in unknown(model.features, holdout).items():
        return None, f"does not know a value of feature '{feature}' in {counted(outside.true_count, 'held-out row')}"
    return ChampionAnswers(figures(model.predict(holdout)), model.operating), ""


def _differing_inputs(features: Iterable[Feature], columns: Collection[str], definitions: Mapping[str, str]) -> str:
    """Return why a model cannot read a training set with these columns and definitions; empty if it can."""
    for feature in sorted(features, key=lambda feature: feature.name):
        if feature.name not in columns:
            return f"reads feature '{feature.name}', which the training set no longer has"
        if definitions.get(feature.name) != feature.definition:
            return f"reads feature '{feature.name}' by another definition than the training set"
    return ""


def _incomparable(record: Mapping[str, Any], version: str, why: str) -> str:
    return (
        f"refused: the champion, version {version}, {why}, so the two cannot be compared; validate version "
        f"{record['version']} by naming it to promote it without that comparison: start "
        f"validate_model_{record['name']} in Airflow with version {record['version']}"
    )


def _undone(decisions: Sequence[Evidence], version: str) -> str:
    """Return why a rolled-back version is not promoted again automatically; empty if it was not rolled back."""
    for decision in reversed(decisions):
        if decision.kind == "rollback" and str(decision.body["replaces"]) == version:
            return (
                f"refused: version {version} was rolled back on {decision.at:%Y-%m-%d}; "
                f"validate it by naming version {version} to promote it again"
            )
        if decision.kind == "promotion" and str(decision.body["version"]) == version:
            return ""
    return ""


def _rejected(ledger: Ledger, name: str, version: str) -> str:
    """Return why a version that a person, or the time, rejected does not wait again by itself; empty otherwise."""
    if (refusal := approvals.rejection(ledger, name, version)) is None:
        return ""
    return (
        f"refused: version {version} was rejected by {refusal.body[approvals.REJECTED]} on {refusal.at:%Y-%m-%d}; "
        f"validate it by naming version {version} to ask for its approval again"
    )


def _record(ledger: Ledger, name: str, version: str) -> Mapping[str, Any]:
    retirements.check_kept(ledger, name, version, "open")
    return trained_version(ledger, name, version).body


def _also_read(ledger: Ledger, record: Mapping[str, Any], current: str | None) -> str:
    """Return which columns a candidate reads that the champion does not; empty without a champion on record."""
    if current is None or (before := candidate_record(ledger, str(record["name"]), current)) is None:
        return ""
    mine, theirs = ([Input.from_json(each) for each in of["inputs"]] for of in (record, before))
    return added_line(str(record["version"]), mine, theirs)


def _rows(ledger: Ledger, site: Site, dataset: Mapping[str, Any]) -> tuple[pa.Table, pa.Table]:
    known = erasures.rewritten(ledger)
    learn, held_out = (erasures.read_dataset(known, site, part) for part in (dataset, dataset["held_out"]))
    return datasets.decoded(learn), datasets.decoded(held_out)


def _cause(ledger: Ledger, name: str, version: str, record: Mapping[str, Any]) -> int | None:
    """Return the number of the red verdict that started the newest training which gave a version, or None."""
    known = removals.since(ledger.find("retraining", name), removals.removal_of(ledger, name))
    return retraining.cause(version, record.get("verdict"), known)


def _already_recorded(ledger: Ledger, name: str, body: Mapping[str, Any]) -> bool:
    return any(
        str(record.body.get("version")) == body["version"]
        and list(record.body["reasons"]) == body["reasons"]
        and record.body.get("verdict") == body["verdict"]
        for record in ledger.each("refusal", name)
    )


def _finite(data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON cannot hold by None, in nested mappings."""
    import math

    return {
        key: _finite(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for key, value in data.items()
    }


def check_files(tracking: Connection, ledger: Ledger, name: str, version: str) -> None:
    """Compare the files of a model's version with its record. Raises ModelRefused, TrackingUnavailable, LedgerError."""
    loading.load(tracking, _record(ledger, name, version))


def roll_back(
    platform: Platform, pipeline: ModelPipeline, *, dry_run: bool = True, replaces: str | None = None
) -> RollbackResult:
    """Move the alias `champion` back to the version that was promoted before the current one.

    The version's files are checked against the record first, also on a dry run. A killed rollback is finished, not
    repeated. With `replaces`, nothing moves unless that version is champion; if it was rolled back already, that is the
    result. Raises TrainingError without an earlier champion, ModelRefused if its files differ from the record or
    another version is champion, TrackingUnavailable, LedgerError, DatabaseUnavailable.
    """
    active, name, tracking = platform.active(), pipeline.name, platform.tracking()
    ledger = platform.ledger
    removal = removals.check_open(ledger, name)
    decisions = decisions_on(ledger, name)
    versions, alias = succession(decisions), registry.champion(tracking, name)
    current, moved = (versions[-1] if versions else None), bool(versions) and alias != versions[-1]
    last = decisions[-1] if decisions and decisions[-1].kind == "rollback" else None
    if last and versions and str(last.body["replaces"]) == replaces and not moved:
        done = f"the alias champion of model {name} went from version {replaces} back to version {current} before"
        return RollbackResult(dry_run, not dry_run, versions[-1], str(replaces), done)
    # if a person names the current champion, go back from it; otherwise finish the recorded rollback
    interrupted = moved and last is not None and replaces in (None, str(last.body["replaces"]))
    if interrupted and last is not None:
        target, replaced = versions[-1], str(last.body["replaces"])
    elif found := return_to(decisions):
        target, replaced = found
    else:
        raise TrainingError(
            f"Model {name} has no earlier champion",
            f"Promote a better candidate: run train_{name} with other parameters.",
        )
    if replaces is not None and replaces != replaced:
        raise ModelRefused(
            f"Model {name} was to go back from version {replaces}, but the champion is now version {current}: "
            "nothing was moved",
            "Open the plan again: it shows the current champion and the version that would come back.",
        )
    check_files(tracking, ledger, name, target)
    plan = f"the alias champion of model {name} goes from version {alias or 'none'} back to version {target}"
    if dry_run:
        return RollbackResult(True, False, target, replaced, plan)
    with platform.committing(active):
        removals.check_same(ledger, name, removal)
        retirements.check_kept(ledger, name, target, "roll back")
        if (seen := decisions_on(ledger, name)) and seen[-1].seq != decisions[-1].seq:
            raise ModelRefused(
                f"Model {name}: another decision (record {seen[-1].seq}) was made meanwhile: nothing was moved",
                "Open the plan again.",
            )
        champions.settle(tracking, ledger, name, platform.clock())
        if not interrupted:
            ledger.append("rollback", name, {"champion": target, "replaces": replaced, "alias_was": alias})
        registry.promote(tracking, name, target, replaced, (f"rolled back from version {replaced}",))
    return RollbackResult(False, True, target, replaced, plan)
