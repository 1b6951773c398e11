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
from rempart.errors import ModelRefused, ObjectMissing, RempartError, SiteError, SiteFenced
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.retirement import facts as gathering
from rempart.flows.retirement.plan import ModelFacts, RetirementPlan, objects, plan, unneeded
from rempart.flows.shared import erasures, removals, retirements
from rempart.flows.shared.deletion import versions_below
from rempart.flows.shared.leases import PATIENCE, points_lease, wait_for
from rempart.flows.shared.platform import Platform
from rempart.ingestion import erasing
from rempart.ledger.port import Evidence
from rempart.models import removal as model_removal
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)
BARRIER_SECONDS = 300.0
"""Seconds for which a retirement waits for running commits."""


@dataclass(frozen=True)
class Retired:
    """Result of a retirement of versions of a model, or its plan with `dry_run`. `evidence`: by version.

    `deleted` object versions, of all sites; `locked`: those that stay until the end of their lock; `left`: what could
    not be deleted yet.
    """

    model: str
    dry_run: bool
    plan: RetirementPlan
    evidence: Mapping[str, int] = field(default_factory=dict)
    deleted: int = 0
    locked: Mapping[str, datetime] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Return the result as text."""
        for version, seq in self.evidence.items():
            yield f"{self.model} version {version} was retired (evidence {seq})"
        yield f"{self.deleted} object versions deleted"
        for key, until in self.locked.items():
            yield f"locked until {until:%Y-%m-%d}: {key}"
        for what in self.left:
            yield f"LEFT: {what}. Run `rempart model retire {self.model} --yes` again."


def look(platform: Platform, pipeline: ModelPipeline, version: str | None = None) -> RetirementPlan:
    """Return the plan, without changes. Raises the errors of `facts.gather`, PlacementDenied."""
    return plan(gathering.gather(platform, open_stores(platform), pipeline), version)


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
        planned = _safe(plan(facts, version))
        done = Retired(pipeline.name, False, planned)
        for name in planned.retire:
            if began := _begin(platform, stores, facts, name, removal, named=version is not None):
                done = _finish(platform, stores, name, began, done)
        for name in planned.complete:
            done = _finish(platform, stores, name, _begun(platform, pipeline.name, name), done)
        return done


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
        held, silent = _held(stores, bucket, prefixes)
        condemned = {
            key for key in erase_versions.catalogued(stores, bucket) if erasing.original(key).startswith(prefixes)
        }
        gone = erase_versions.delete_versions(stores, held, bucket=bucket, condemned=condemned)
        deleted, locked = deleted + gone.rows, locked | gone.locked
        seen, again = _held(stores, bucket, prefixes)
        still = [
            entry
            for entry in seen
            if not entry.info.marker and f"{bucket}/{entry.info.key} at site '{entry.site}'" not in gone.locked
        ]
        left += [f"site '{name}': {why}" for name, why in {**silent, **again, **gone.failed}.items()]
        left += [f"{len(still)} object versions in {bucket}, for example {still[0].info.key}"] if still else []
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


def _held(stores: ErasureStores, bucket: str, prefixes: tuple[str, ...]) -> tuple[list[HeldVersion], dict[str, str]]:
    """Return the object versions at every site that go, and the sites that did not answer."""
    found, silent = list[HeldVersion](), dict[str, str]()
    for name, site in stores.sites.items():
        try:
            for prefix in prefixes:
                found += [
                    HeldVersion(name, "part", info, "", 0, current=False)
                    for info in versions_below(site, bucket, prefix)
                ]
        except ObjectMissing:  # the other site has no such bucket
            continue
        except SiteError as error:
            silent[name] = error.what
    return found, silent
