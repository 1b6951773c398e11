"""Execute a reset or removal. Each step may be repeated: the same command completes an interrupted one.

Order: the record `began`, which keeps every other run of the pipeline from committing; deliveries are put back; the
record `deleting`; objects at every site, features, models; a second look at every site; the record `ended`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rempart.coordination.active import is_open
from rempart.counts import counted
from rempart.errors import PipelineError, SiteError, SiteFenced
from rempart.features import removal as feature_removal
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.removal import facts as gathering
from rempart.flows.removal import jobs
from rempart.flows.removal.facts import FoundVersion, Runs
from rempart.flows.removal.plan import PipelineContents, RemovalPlan, plan
from rempart.flows.shared import removals
from rempart.flows.shared.leases import wait_for
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.removals import Removal, State, What
from rempart.ingestion import landing
from rempart.ledger.port import Ledger
from rempart.models import removal as model_removal
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import Pipeline
from rempart.sites.once import keep_file
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)
BARRIER_SECONDS = 300.0
"""Seconds for which a removal waits for running commits."""
PATIENCE = 60.0
"""Seconds for which a removal waits for a running extraction."""


@dataclass(frozen=True)
class Removed:
    """Result of a removal. `locked`: versions that stay until the end of their lock. `left`: what was not deleted."""

    pipeline: str
    what: What
    put_back: int
    deleted: int
    locked: Mapping[str, datetime] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    evidence: int = 0

    def lines(self) -> Iterator[str]:
        """Return the result as text."""
        done = "was reset" if self.what == "reset" else "was removed"
        state = "is NOT complete" if self.left else done
        yield f"pipeline '{self.pipeline}' {state}: {counted(self.deleted, 'object version')} deleted"
        if self.put_back:
            wait = counted(self.put_back, "delivery waits", "deliveries wait")
            yield f"{wait} in the landing bucket: `rempart pipeline run {self.pipeline}`"
        for key, until in self.locked.items():
            yield f"locked until {until:%Y-%m-%d}, then run the same command again: {key}"
        for what in self.left:
            yield f"LEFT: {what}"
        if self.left:
            yield f"Run `rempart pipeline {self.what} {self.pipeline} --yes` again."


def look(platform: Platform, pipeline: Pipeline, what: What, runs: Runs, *, accept_loss: bool = False) -> RemovalPlan:
    """Return the plan, without changes. Raises the errors of `facts.gather`, PipelineError as `remove`."""
    _check_other(platform.ledger, pipeline.name, what)
    return plan(
        gathering.gather(platform, open_stores(platform), pipeline, what, runs),
        accept_loss=accept_loss or _resumes(platform.ledger, pipeline.name),
    )


def remove(platform: Platform, pipeline: Pipeline, what: What, runs: Runs, *, accept_loss: bool = False) -> Removed:
    """Reset a pipeline or remove it, or complete an interrupted reset or removal.

    Raises PipelineError if it cannot be done safely, LeaseHeld while an extraction runs, SiteFenced, SiteError,
    DatabaseUnavailable, FeatureError, TrackingUnavailable, TrackingRefused.
    """
    name = pipeline.name
    with wait_for(platform.continuity, f"extract {name}", PATIENCE):
        _check_other(platform.ledger, name, what)
        stores = open_stores(platform)
        found = gathering.gather(platform, stores, pipeline, what, runs)
        _check(found, accept_loss=accept_loss or _resumes(platform.ledger, name))
        began = _begin(stores, name, what, found)
        if again := runs():
            raise PipelineError(
                f"{what} '{name}': a run began meanwhile: {', '.join(again)}. Nothing was deleted",
                f"Wait for its end, then run `rempart pipeline {what} {name} --yes` again.",
            )
        if what == "reset":  # also before the rest of an interrupted deletion: the copies may be gone again
            _put_back(stores.sites[stores.home], stores, found)
        if began.state == "began":
            began = _record(stores, name, began, "deleting", {"put_back": len(found.deliveries)})
        return _delete(platform.tracking(), stores, pipeline, began)


def _check_other(ledger: Ledger, name: str, what: What) -> None:
    begun = removals.unfinished(ledger, name)
    if begun and begun.what != what and (begun.what, what) != ("reset", "remove"):
        raise PipelineError(
            f"{what} '{name}': a {begun.what} began (evidence {begun.seq}) and has not ended",
            f"Complete it: `rempart pipeline {begun.what} {name} --yes`.",
        )


def _resumes(ledger: Ledger, name: str) -> bool:
    """Return whether an interrupted reset was begun with an accepted loss."""
    begun = removals.unfinished(ledger, name)
    return bool(begun and begun.body.get("accepted_loss"))


def _check(found: PipelineContents, *, accept_loss: bool) -> None:
    planned = plan(found, accept_loss=accept_loss)
    if planned.refusals:
        raise PipelineError(
            f"{found.what} '{found.pipeline}' is not safe now: {'; '.join(planned.refusals)}. Nothing was changed",
            f"Then run `rempart pipeline {found.what} {found.pipeline} --yes` again.",
        )


def _begin(stores: ErasureStores, name: str, what: What, found: PipelineContents) -> Removal:
    """Record the beginning while nobody commits, unless this removal has begun."""
    if (begun := removals.unfinished(stores.ledger, name)) and begun.what == what:
        return begun
    active = is_open(stores.active)
    with stores.active_sites.barrier(BARRIER_SECONDS):
        if is_open(stores.active_sites.active()).generation != active.generation:
            raise SiteFenced(f"The active site changed while '{name}' was looked at", "Run the command again.")
        fresh = Removal(secrets.token_hex(4), what, "began", 0, {})
        body = {"site": stores.home, "bucket": stores.lake, "snapshot": found.snapshot, "rows": found.rows}
        accepted = {"accepted_loss": found.lost_rows} if found.lost else {}
        return _record(stores, name, fresh, "began", {**body, **accepted})


def _record(stores: ErasureStores, name: str, removal: Removal, state: State, body: Mapping[str, Any]) -> Removal:
    told = {"id": removal.id, "what": removal.what, "state": state, **body}
    return Removal(
        removal.id, removal.what, state, stores.ledger.append("removal", name, told).seq, {**removal.body, **told}
    )


def _put_back(home: Site, stores: ErasureStores, found: PipelineContents) -> None:
    """Copy deliveries as they are stored, without erased rows, to the landing bucket. Repeating changes nothing."""
    inbox = stores.config.buckets.landing
    with spool_folder() as folder:
        for delivery in found.deliveries:
            file = folder / "delivery"
            landing.fetch(home, stores.lake, delivery.key, file, delivery.sha256)
            keep_file(
                home, inbox, delivery.to, file, delivery.sha256, metadata={}, content_type="application/octet-stream"
            )
    if found.deliveries:
        logger.info("put %d deliveries back into %s", len(found.deliveries), inbox)


def _delete(tracking: Connection, stores: ErasureStores, pipeline: Pipeline, began: Removal) -> Removed:
    name, what = pipeline.name, began.what
    if what == "remove":
        _move_file(name)
    trained = jobs.of_pipeline(stores, name) if what == "remove" else frozenset[str]()
    deleted, locked, failed = _delete_versions(stores, pipeline, what)
    if list(_second_look(stores, pipeline, what, locked, failed)):
        logger.info("'%s': a replication that was under way copied objects meanwhile, which are deleted, too", name)
        more, locked_too, failed = _delete_versions(stores, pipeline, what)
        deleted, locked = deleted + more, locked | locked_too
    logger.info("deleted %d object versions of '%s'", deleted, name)
    feature_removal.remove(stores.features(), pipeline)
    if what == "remove":
        model_removal.remove(tracking, name, began.id)
    left = [f"site '{site}': {why}" for site, why in failed.items()]
    left += _second_look(stores, pipeline, what, locked, failed)
    evidence = began.seq
    if not left:
        body = {"deleted": deleted, "locked": sorted(locked), "sites": sorted(stores.sites), "jobs": sorted(trained)}
        evidence = _record(stores, name, began, "ended", body).seq
    return Removed(name, what, int(began.body.get("put_back", 0)), deleted, locked, tuple(left), evidence)


def _delete_versions(
    stores: ErasureStores, pipeline: Pipeline, what: What
) -> tuple[int, dict[str, datetime], dict[str, str]]:
    """Delete what is there now. Return the number of versions, and those that are locked or could not be deleted."""
    held = list(_held(stores, pipeline, what))
    deleted, locked, failed = 0, dict[str, datetime](), dict[str, str]()
    for bucket in sorted({gathering.bucket_of(stores, part) for part in gathering.parts_of(pipeline, what)}):
        mine = [version for place, version in held if place == bucket]
        condemned = gathering.catalogued(stores, pipeline, what, bucket)  # also what a killed command had deleted
        done = erase_versions.delete_versions(stores, mine, bucket=bucket, condemned=condemned)
        deleted, locked, failed = deleted + done.rows, locked | done.locked, failed | done.failed
    return deleted, locked, failed


def _held(stores: ErasureStores, pipeline: Pipeline, what: What) -> Iterator[tuple[str, HeldVersion]]:
    for name, site in stores.sites.items():
        for entry in gathering.versions(stores, site, pipeline, what):
            yield entry.bucket, HeldVersion(name, "part", entry.info, "", 0, current=False)


def _second_look(
    stores: ErasureStores, pipeline: Pipeline, what: What, locked: Mapping[str, datetime], failed: Mapping[str, str]
) -> Iterator[str]:
    """Yield what a new listing still shows, other than locked versions and their markers."""
    for name, site in stores.sites.items():
        if name in failed:
            continue
        try:
            shown = gathering.versions(stores, site, pipeline, what)
        except SiteError as error:
            yield f"site '{name}': {error.what}"
            continue
        still = [entry for entry in shown if not entry.info.marker and _place(entry, name) not in locked]
        if still:
            yield f"site '{name}': {len(still)} object versions, for example {still[0].bucket}/{still[0].info.key}"


def _place(entry: FoundVersion, site: str) -> str:
    return f"{entry.bucket}/{entry.info.key} at site '{site}'"


def _move_file(name: str) -> None:
    """Move the pipeline file to the folder of removed ones. Raises PipelineError if the folder cannot be written."""
    file, folder = pipelines.pipelines_dir() / f"{name}.yaml", pipelines.removed_dir()
    if not file.exists():
        return
    try:
        folder.mkdir(exist_ok=True)
        file.replace(folder / file.name)
    except OSError as cause:
        raise PipelineError(
            f"move {file} to {folder}: {type(cause).__name__}. No data was deleted",
            f"Move the file in your repository to include/pipelines/removed/, deploy it, and run `rempart pipeline "
            f"remove {name} --yes` again.",
        ) from cause
