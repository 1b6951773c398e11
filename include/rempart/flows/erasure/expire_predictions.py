"""Delete predictions that are older than `scoring.keep_days`, at every site, and files that no scoring names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.erasure.erase_versions import Derived
from rempart.flows.ingestion import delta_log
from rempart.flows.prediction import scorings
from rempart.flows.prediction.scorings import Scoring
from rempart.flows.shared.deletion import versions_below
from rempart.flows.shared.platform import Platform
from rempart.ingestion import erasing
from rempart.settings.champions.scoring import Scoring as Section
from rempart.settings.pipeline import ModelPipeline

UNNAMED = timedelta(days=1)
"""Age of a file that no manifest names, before it counts as what a killed run left."""


@dataclass(frozen=True)
class Expired:
    """Result: scorings that were deleted, and versions of objects. `locked` versions go after their lock."""

    scorings: int = 0
    versions: int = 0
    locked: int = 0
    failed: dict[str, str] | None = None


def expire(platform: Platform, pipeline: ModelPipeline) -> Expired:
    """Delete old predictions of a pipeline's champions, also of rows that `scoring.from` named before. Safe to repeat.

    The table begins again without them first, so that no reader meets a deleted file. Raises SiteError, IntegrityError,
    SiteFenced, LeaseHeld.
    """
    stores = open_stores(platform)
    names = scorings.rows_scored_by(stores.sites[stores.home], stores.lake, pipeline.name)
    committing = partial(platform.committing, stores.active)
    every = [_expire(committing, stores, pipeline, name) for name in names]
    failed = {place: why for each in every for place, why in (each.failed or {}).items()}
    figures = (sum(each.scorings for each in every), sum(each.versions for each in every))
    return Expired(*figures, sum(each.locked for each in every), failed or None)


def _expire(
    committing: Callable[[], AbstractContextManager[Any]], stores: ErasureStores, pipeline: ModelPipeline, rows_of: str
) -> Expired:
    root, home, bucket, now = scorings.folder(rows_of, pipeline.name), stores.home, stores.lake, stores.clock()
    every = scorings.all_of(stores.sites[home], bucket, root)
    kept = (pipeline.scoring or Section()).keep_days
    left = [scoring for scoring in every if scoring.at > now - timedelta(days=kept)]
    named = {key for scoring in left for key in _keys(scoring)}
    gone = {key for scoring in every for key in _keys(scoring)} - named
    orphans = _orphans(stores, root, named | gone, now)
    if not (gone or orphans):
        return Expired()
    table = None
    with committing():
        if gone and (shown := scorings.table(root, left)):
            table = delta_log.restart(stores.sites[home], bucket, shown)
    held = [
        HeldVersion(name, "prediction" if not info.key.endswith(".json") else "manifest", info, "", 0, False)
        for name, site in stores.sites.items()
        for info in versions_below(site, bucket, root)
        if not info.marker and erasing.original(info.key) in gone | orphans
    ]
    held.sort(key=lambda version: version.kind)  # manifests go first
    derived = Derived(pipeline, of_snapshots=False, tables={root: table}) if gone else None
    condemned = erase_versions.condemn(stores, rows_of, held, derived)
    done = erase_versions.delete_versions(stores, held, derived, condemned=condemned)
    if gone:
        body: dict[str, Any] = {"expired": sorted(scoring.id for scoring in every if scoring not in left)}
        stores.ledger.append("scoring", pipeline.name, {**body, "versions": done.rows, "failed": sorted(done.failed)})
    return Expired(len(every) - len(left), done.rows + done.log, len(done.locked), done.failed or None)


def _keys(scoring: Scoring) -> list[str]:
    return [scorings.key_of(scoring.asked), *(part.key for part in (*scoring.parts, *scoring.quarantine))]


def _orphans(stores: ErasureStores, root: str, named: set[str], now: datetime) -> set[str]:
    """Return the keys of files that no manifest names, and that are old enough."""
    return {
        info.key
        for info in stores.sites[stores.home].list(stores.lake, root)
        if info.key.endswith(".parquet")
        and "/_delta_log/" not in info.key
        and info.key not in named
        and info.modified < now - UNNAMED
    }
