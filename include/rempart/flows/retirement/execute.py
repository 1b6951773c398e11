"""Retire versions of models. Each step may be repeated: the next run completes an interrupted retirement.

Order: the record `began`, from which on nobody may use the version; MLflow forgets it; its files go at every site, in
every version; a second look; the record `ended`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rempart.backup.points.references import BELOW
from rempart.coordination.active import backup_site, is_open
from rempart.errors import ModelRefused, RempartError, SiteFenced
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.retirement import facts as gathering
from rempart.flows.retirement import trials
from rempart.flows.retirement.deletion import delete_below_all
from rempart.flows.retirement.plan import ModelFacts, RetirementPlan, objects, plan, unneeded
from rempart.flows.retirement.trials import RetiredTrials
from rempart.flows.shared import erasures, removals, retirements
from rempart.flows.shared.leases import PATIENCE, points_lease, wait_for
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence, Ledger
from rempart.models import removal as model_removal
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)
BARRIER_SECONDS = 300.0
"""Seconds for which a retirement waits for running commits."""


@dataclass(frozen=True)
class Retired:
    """Result of a retirement of versions of a model, or its plan with `dry_run`. `evidence`: by version.

    `searches`: evidence by search that the models of its trials were deleted. `deleted` object versions, of all sites;
    `locked`: those that stay until the end of their lock; `left`: what could not be deleted yet.
    """

    model: str
    dry_run: bool
    plan: RetirementPlan
    evidence: Mapping[str, int] = field(default_factory=dict)
    deleted: int = 0
    locked: Mapping[str, datetime] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    searches: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Return the result as text."""
        for version, seq in self.evidence.items():
            yield f"{self.model} version {version} was retired (evidence {seq})"
        for search, seq in self.searches.items():
            yield f"the models of the trials of search {search} were deleted (evidence {seq})"
        yield f"{self.deleted} object versions deleted"
        for key, until in self.locked.items():
            yield f"locked until {until:%Y-%m-%d}: {key}"
        for what in self.left:
            yield f"LEFT: {what}. Run `rempart model retire {self.model} --yes` again."


def look(platform: Platform, pipeline: ModelPipeline, version: str | None = None) -> RetirementPlan:
    """Return the plan, without changes. Raises the errors of `facts.gather`, PlacementDenied."""
    facts = gathering.gather(platform, open_stores(platform), pipeline)
    return with_trials(platform.ledger, facts, plan(facts, version), named=version is not None)


def with_trials(ledger: Ledger, facts: ModelFacts, planned: RetirementPlan, *, named: bool) -> RetirementPlan:
    """Return the plan with the trials whose models go; with a `named` version none go."""
    due = {} if named else trials.due(ledger, facts.model, facts.after, facts.now)
    return replace(planned, trials=due)


def retire(
    platform: Platform,
    pipeline: ModelPipeline,
    version: str | None = None,
    *,
    dry_run: bool = True,
    patience: float = PATIENCE,
) -> Retired:
    """Retire the versions of a model that nothing needs, or the named one, and complete interrupted retirements.

    Waits `patience` seconds for a running backup: a restore point must not name files that go meanwhile. Raises
    ModelRefused if it is not safe, LeaseHeld, SiteFenced, SiteError, DatabaseUnavailable, TrackingUnavailable,
    TrackingRefused.
    """
    if dry_run:
        return Retired(pipeline.name, True, look(platform, pipeline, version))
    where = backup_site(platform.config, platform.active().site)
    with wait_for(platform.continuity, points_lease(where), patience):
        stores = open_stores(platform)
        removal = removals.check_open(platform.ledger, pipeline.name)
        facts = gathering.gather(platform, stores, pipeline)
        planned = _safe(with_trials(platform.ledger, facts, plan(facts, version), named=version is not None))
        done = Retired(pipeline.name, False, planned)
        for name in planned.retire:
            if began := _begin(platform, stores, facts, name, removal, named=version is not None):
                done = _finish(platform, stores, name, began, done)
        for name in planned.complete:
            done = _finish(platform, stores, name, _begun(platform, pipeline.name, name), done)
        for search, goes in planned.trials.items():
            done = _with(done, search, trials.retire(stores, platform.tracking(), pipeline.name, search, goes))
        return done


def _with(done: Retired, search: str, gone: RetiredTrials) -> Retired:
    return replace(
        done,
        searches=done.searches if gone.evidence is None else {**done.searches, search: gone.evidence},
        deleted=done.deleted + gone.deleted,
        locked={**done.locked, **gone.locked},
        left=(*done.left, *gone.left),
    )


def retire_all(platform: Platform, *, dry_run: bool = True, patience: float = PATIENCE) -> dict[str, Any]:
    """Retire versions of every model. Return for each pipeline its retired versions, or its plan.

    A failure of one pipeline does not keep the others. Raises the first failure at the end.
    """
    found, failed = dict[str, Any](), dict[str, RempartError]()
    for name, loaded in pipelines.load_all().items():
        if not isinstance(loaded, ModelPipeline):
            continue
        try:
            done = retire(platform, loaded, dry_run=dry_run, patience=patience)
        except RempartError as error:
            logger.exception("no version of model '%s' was retired", name)
            failed[name] = error
            continue
        for line in done.plan.lines() if dry_run else done.lines():
            logger.info("%s", line)
        found[name] = {
            "dry_run": dry_run,
            "retired": [*done.plan.complete, *done.plan.retire] if dry_run else [*done.evidence],
            "searches": [*(done.plan.trials if dry_run else done.searches)],
            "deleted": done.deleted,
            "left": list(done.left),
        }
        if done.left:
            failed[name] = ModelRefused(
                f"Retirement of versions of model {name} is not complete: {'; '.join(done.left)}",
                "Run the DAG again when the sites answer.",
            )
    for first in failed.values():
        raise first
    return found


def _safe(planned: RetirementPlan) -> RetirementPlan:
    if planned.refusals:
        raise ModelRefused(
            f"retire versions of model {planned.model}: {'; '.join(planned.refusals)}. Nothing was changed",
            f"See `rempart model retire {planned.model}`, then run it again.",
        )
    return planned


def _begin(
    platform: Platform, stores: ErasureStores, facts: ModelFacts, version: str, removal: int, *, named: bool
) -> Evidence | None:
    """Record what goes while nobody commits. Return None if a decision was made meanwhile, and the version is needed.

    Raises ModelRefused if the files of the version are not in folders of its own.
    """
    ledger, model = platform.ledger, facts.model
    record = gathering.recorded(ledger, model).candidates[version]
    folders = model_removal.folders(platform.tracking(), str(record["model_id"]), str(record["run_id"]))
    active = is_open(stores.active)
    with stores.active_sites.barrier(BARRIER_SECONDS):
        if is_open(stores.active_sites.active()).generation != active.generation:
            raise SiteFenced(f"The active site changed while model '{model}' was looked at", "Run it again.")
        removals.check_same(ledger, model, removal)
        known = gathering.recorded(ledger, model)
        again = plan(
            replace(facts, decisions=known.decisions, waiting=tuple(known.waiting)), version if named else None
        )
        if version not in again.retire:
            logger.info("kept %s version %s: a decision was made meanwhile", model, version)
            return None
        names = [f"{BELOW}{folder}" for folder in folders]
        goes = objects(record, _others(known, version), names, erasures.rewritten(ledger))
        body = retirements.body(
            version,
            "began",
            why=again.retire[version],
            model_id=record["model_id"],
            run_id=record["run_id"],
            job_id=record["job_id"],
            files=record["files"],
            outputs=record["outputs"],
            dataset_sha256=record["dataset"]["sha256"],
            artifacts=list(goes.artifacts),
            training=list(goes.training),
            shared=list(goes.shared),
        )
        return ledger.append("retirement", model, body)


def _others(known: gathering.Recorded, version: str) -> list[Mapping[str, Any]]:
    """Return the `candidate` bodies of the other versions that are not retired."""
    gone = {version, *known.begun, *known.retired}
    return [body for name, body in known.candidates.items() if name not in gone]


def _begun(platform: Platform, model: str, version: str) -> Evidence:
    return retirements.on_record(platform.ledger, model)[version].began


def _finish(platform: Platform, stores: ErasureStores, version: str, began: Evidence, done: Retired) -> Retired:
    """Delete what the record names and no other version needs by now. Record the end if nothing is left."""
    body, model = began.body, done.model
    others = _others(gathering.recorded(platform.ledger, model), version)
    named = {*map(str, body["artifacts"])}, {*map(str, body["training"])}
    artifacts, training = unneeded(*named, others, erasures.rewritten(platform.ledger))
    shared = sorted(set.union(*named) - {*artifacts, *training})
    told = f"{began.at:%Y-%m-%d}, evidence {began.seq}"
    model_removal.remove_version(platform.tracking(), model, version, str(body["model_id"]), str(body["run_id"]), told)
    places = {
        stores.config.buckets.artifacts: artifacts,
        stores.lake: training,
    }
    deleted, locked, left = 0, dict[str, datetime](), list[str]()
    for bucket, prefixes in places.items():
        gone = delete_below_all(stores, bucket, prefixes)
        deleted, locked = deleted + gone.deleted, {**locked, **gone.locked}
        left += gone.left
    evidence = done.evidence
    if not left:
        logger.info("retired version %s of model '%s': %d object versions deleted", version, model, deleted)
        ended = retirements.body(
            version,
            "ended",
            began=began.seq,
            deleted=deleted,
            locked=sorted(locked),
            shared=shared,
            sites=sorted(stores.sites),
        )
        evidence = {**evidence, version: platform.ledger.append("retirement", model, ended).seq}
    return replace(
        done,
        evidence=evidence,
        deleted=done.deleted + deleted,
        locked={**done.locked, **locked},
        left=(*done.left, *left),
    )
