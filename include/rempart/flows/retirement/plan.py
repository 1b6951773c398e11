"""Plan which versions of a model are retired, which stay and why, and what a retirement deletes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rempart.backup.points.erasures import standing
from rempart.counts import counted
from rempart.flows.retirement.due_trials import DueTrials
from rempart.flows.training.champions import TimeAsChampion, champion_times
from rempart.ledger.port import Evidence

BACKUP_TAKES = timedelta(hours=6)
"""A restore point holds a state of the databases from its start up to so long after it."""


@dataclass(frozen=True)
class VersionFacts:
    """A version that evidence or MLflow has. `used`: when evidence last names it; None if nothing tells.

    `aliases`: those that MLflow has at it, without `champion` at the champion on record.
    """

    version: str
    used: datetime | None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What decides on the versions of a model.

    `decisions`: promotions and rollbacks, oldest first. `points`: start of each existing restore point, by id.
    `begun`: versions whose retirement began and did not end, or whose files came back with a restore. `retired`: the
    others that were retired. `silent`: sites that did not answer, and why. `waiting`: versions that wait for an
    approval. `after`, `newest`: the rule. `altered`: first record of the ledger that was altered or deleted.
    """

    model: str
    now: datetime
    after: timedelta
    newest: int
    versions: tuple[VersionFacts, ...]
    decisions: tuple[Evidence, ...] = ()
    points: Mapping[str, datetime] = field(default_factory=dict)
    begun: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    altered: int | None = None


@dataclass(frozen=True)
class RetirementPlan:
    """The plan: versions to `complete` and to `retire` (with the reason), and why each other one stays.

    `trials`: by search, those whose models go. It is executed only if `refusals` is empty.
    """

    model: str
    complete: tuple[str, ...]
    retire: Mapping[str, str]
    keep: Mapping[str, tuple[str, ...]]
    refusals: tuple[str, ...] = ()
    trials: Mapping[str, DueTrials] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Return the plan as text."""
        for version in self.complete:
            yield f"{self.model} version {version}: complete its retirement, which has begun"
        for version, why in self.retire.items():
            yield f"{self.model} version {version}: retire it; {why}"
        for search, due in self.trials.items():
            told = (
                f"the models of its {counted(len(due.trials), 'trial')}; its rows were last used on {due.last:%Y-%m-%d}"
            )
            yield f"{self.model} search {search}: delete {told}"
        for version, reasons in self.keep.items():
            yield f"{self.model} version {version}: keep it; {'; '.join(reasons)}"
        for refusal in self.refusals:
            yield f"NOT POSSIBLE now: {refusal}"


def plan(facts: ModelFacts, version: str | None = None) -> RetirementPlan:
    """Return the plan for these facts; with `version`, for that one alone, whatever its age.

    What serves, or may serve after a rollback or a restore, is kept also if a person names it.
    """
    keep, retire, complete = dict[str, tuple[str, ...]](), dict[str, str](), facts.begun
    refusals = [f"site '{site}' did not answer: {why}" for site, why in sorted(facts.silent.items())]
    if facts.altered is not None and version is None:  # it may decide; a person who names a version answers for it
        refusals.append(
            f"record {facts.altered} of the ledger was altered or deleted, and may tell what is needed. Put it back "
            "(docs/how-to/verify-the-ledger.md#put-an-altered-record-back), or name the version to retire"
        )
    needed, newest = needs(facts), _newest_first(facts)[: facts.newest]
    if version is not None:
        complete = tuple(name for name in facts.begun if name == version)
        if version in facts.retired:
            refusals.append(f"version {version} of model {facts.model} was retired before")
        elif version not in (*facts.begun, *(known.version for known in facts.versions)):
            refusals.append(f"model {facts.model} has no version {version}")
    for known in facts.versions:
        name, used = known.version, known.used
        if version not in (None, name) or name in facts.begun:
            continue
        reasons = list(needed.get(name, ()))
        if used is None:
            reasons.append("no evidence tells how it was made, so nothing tells who uses it")
        elif version is None:
            if name in newest:
                reasons.append(f"it is one of the {facts.newest} newest versions")
            if facts.now - used < facts.after:
                reasons.append(f"it was used on {used:%Y-%m-%d}, less than {facts.after.days} days ago")
        if reasons:
            keep[name] = tuple(reasons)
        elif used is not None:
            retire[name] = f"{'named by a person' if version else 'unused for long enough'}, last use {used:%Y-%m-%d}"
    if version in keep:
        refusals.append(f"version {version} of model {facts.model} is needed: {'; '.join(keep[version])}")
    return RetirementPlan(facts.model, complete, retire, keep, tuple(refusals))


def needs(facts: ModelFacts) -> dict[str, list[str]]:
    """Return why versions are needed: by the champion's service, a rollback, a restore point, or an alias."""
    found, served = dict[str, list[str]](), champion_times(facts.decisions)
    if served:
        found.setdefault(served[-1].version, []).append("it is champion")
        if before := served[-1].before:
            found.setdefault(before, []).append("a rollback returns to it")
    for point, started in sorted(facts.points.items()):
        for name in champions_at(served, started, started + BACKUP_TAKES):
            found.setdefault(name, []).append(f"restore point {point} needs it")
    for name in facts.waiting:
        found.setdefault(name, []).append("it awaits approval")
    for known in facts.versions:
        for alias in known.aliases:
            found.setdefault(known.version, []).append(f"MLflow's alias '{alias}' is at it")
    return {name: _shortened(reasons) for name, reasons in found.items()}


def champions_at(served: Sequence[TimeAsChampion], since: datetime, until: datetime) -> set[str]:
    """Return the champions in a time, and the versions to which a rollback would have returned then."""
    return {
        name
        for service in served
        if service.since <= until and (service.until is None or service.until >= since)
        for name in (service.version, service.before)
        if name is not None
    }


def _shortened(reasons: Sequence[str]) -> list[str]:
    """Return one reason for all restore points: the first, and how many more there are."""
    of_points = [reason for reason in reasons if reason.startswith("restore point ")]
    others = [reason for reason in reasons if reason not in of_points]
    if len(of_points) > 1:
        return [*others, f"{of_points[0]}, and {len(of_points) - 1} more"]
    return [*others, *of_points]


def _newest_first(facts: ModelFacts) -> list[str]:
    return sorted((known.version for known in facts.versions), key=lambda name: (len(name), name), reverse=True)


@dataclass(frozen=True)
class RetiredObjects:
    """What goes with a version: folders in the bucket of artifacts, and keys of training sets in the lake.

    `shared`: what another version needs, so that it stays.
    """

    artifacts: tuple[str, ...]
    training: tuple[str, ...]
    shared: tuple[str, ...] = ()


def objects(
    record: Mapping[str, Any],
    others: Iterable[Mapping[str, Any]],
    folders: Iterable[str],
    rewritten: Mapping[tuple[str, str], tuple[str, str] | None],
) -> RetiredObjects:
    """Return what goes with the version of a `candidate` body, and what stays because one of the `others` has it too.

    `folders`: those of its logged model and its run. `rewritten`: the replacements of training sets from which rows
    were erased.
    """
    found, mine = {f"jobs/{record['job_id']}/", *folders}, _training(record, rewritten)
    artifacts, training = unneeded(found, mine, others, rewritten)
    return RetiredObjects(artifacts, training, tuple(sorted(found - {*artifacts} | mine - {*training})))


def unneeded(
    artifacts: Iterable[str],
    training: Iterable[str],
    others: Iterable[Mapping[str, Any]],
    rewritten: Mapping[tuple[str, str], tuple[str, str] | None],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folders of artifacts and the keys of training sets that none of the `others` needs.

    `others`: `candidate` bodies; a training set's key is made of its rows, so another version may have the same one.
    """
    theirs, jobs, runs = set[str](), set[str](), set[str]()
    for other in others:
        theirs |= _training(other, rewritten)
        jobs.add(f"jobs/{other['job_id']}/")
        runs |= {str(other["model_id"]), str(other["run_id"])}
    free = {folder for folder in artifacts if folder not in jobs and not runs & set(folder.split("/"))}
    return tuple(sorted(free)), tuple(sorted(set(training) - theirs))


def _training(record: Mapping[str, Any], rewritten: Mapping[tuple[str, str], tuple[str, str] | None]) -> set[str]:
    keys = set[str]()
    for part in (record["dataset"], record["dataset"]["held_out"]):
        stands = standing(rewritten, str(part["bucket"]), str(part["key"]), str(part["sha256"]))
        keys |= {str(part["key"]), *(stands[:1] if stands else ())}
    return keys
