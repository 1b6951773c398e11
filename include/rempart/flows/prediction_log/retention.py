"""Delete entries of the prediction log that are older than the pipeline file keeps them, at every site."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rempart.counts import counted
from rempart.errors import RempartError, ServingError, SiteError
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.shared.deletion import versions_below
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence
from rempart.serving import hour_files
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expiry:
    """What went of one pipeline's log: entries from before `before`.

    `files` and `versions`: how many. `pending`: what stays for the next day, and why.
    """

    pipeline: str
    before: datetime
    files: int = 0
    versions: int = 0
    pending: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """Return the result as a line for people."""
        files, versions = counted(self.files, "file"), counted(self.versions, "version")
        told = f"{self.pipeline}: deleted {files} ({versions}) from before {self.before:%Y-%m-%d}"
        return told + "".join(f"; PENDING: {place} ({why})" for place, why in sorted(self.pending.items()))


def expire_all(platform: Platform) -> list[Expiry]:
    """Delete old entries of every pipeline that has a log, once on each day.

    Raises ServingError that names each pipeline that failed, after the others.
    """
    done, failed = list[Expiry](), dict[str, RempartError]()
    for name, pipeline in load_all().items():
        if not isinstance(pipeline, ModelPipeline):
            continue
        try:
            if found := expire(platform, pipeline):
                done.append(found)
        except RempartError as error:
            failed[name] = error
    if failed:
        first = next(iter(failed.values()))
        raise ServingError(f"delete old entries of the log of {', '.join(failed)}: {first.what}", first.hint)
    return done


def expire(platform: Platform, pipeline: ModelPipeline) -> Expiry | None:
    """Delete the files whose entries are all older than `serving.log.keep_days`. None if that was done today.

    Evidence names the files before the first of them goes. Raises SiteError if the home site cannot be listed,
    PlacementDenied, LeaseHeld, LedgerError, DatabaseUnavailable.
    """
    name, ledger, now = pipeline.name, platform.ledger, platform.clock()
    records = ledger.find("prediction-log", name)
    keep, before = pipeline.serving.log.keep_days, _cutoff(pipeline, now)
    if not records or any(_expired(record) == before.isoformat() for record in records):
        return None
    stores, silent = open_stores(platform), dict[str, str]()
    held = list[HeldVersion]()
    for site in stores.sites:
        try:
            held += _old(stores, site, name, keep, now)
        except SiteError as error:
            if site == stores.home:
                raise
            silent[site] = error.what
    keys = sorted({version.info.key for version in held})
    if keys:
        ledger.append("prediction-log", name, {"state": "expiring", "before": before.isoformat(), "keys": keys})
    condemned = {str(key) for record in records for key in record.body.get("keys", ())} | set(keys)
    deleted = erase_versions.delete_versions(stores, held, condemned=condemned)
    pending = {**stores.shut, **silent, **deleted.failed}
    pending |= {where: f"retained until {until:%Y-%m-%d}" for where, until in deleted.locked.items()}
    done = Expiry(name, before, len(keys), deleted.rows, pending)
    body = {"state": "expired", "before": before.isoformat(), "files": len(keys), "versions": deleted.rows}
    ledger.append("prediction-log", name, {**body, "pending": sorted(pending)})
    return done


def _cutoff(pipeline: ModelPipeline, now: datetime) -> datetime:
    """Return the begin of the day before which entries are deleted today."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=pipeline.serving.log.keep_days)


def _expired(record: Evidence) -> str:
    return str(record.body["before"]) if record.body["state"] == "expired" else ""


def _old(stores: ErasureStores, site: str, name: str, keep: int, now: datetime) -> Iterator[HeldVersion]:
    """Yield every version of the files at a site whose entries are old."""
    for info in versions_below(stores.sites[site], stores.lake, hour_files.folder(name)):
        if not info.marker and hour_files.is_expired(info.key, keep, now):
            yield HeldVersion(site, "prediction log", info, "", 0, False)
