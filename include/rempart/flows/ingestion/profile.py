"""Make the data profiles of snapshots: one HTML page each, stored under `profiles/<pipeline>/` beside the lake.

A DAG of its own makes them after the commit, so that a profile that fails neither stops nor delays an ingestion: that
run is red, is retried, and the next one or a look makes a profile that is missing. Pages cannot reach a site, so a look
is a run as well: it returns the page encrypted for one browser, and no copy in Airflow outlives that key.
"""

from __future__ import annotations

import base64
import gzip
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rempart.backup.keys import age
from rempart.errors import IngestError, ObjectMissing
from rempart.flows.ingestion import current_snapshot, derived_run
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.deletion import Deleted, delete_below
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.profiles.measures import Profile, profile
from rempart.ingestion.profiles.page import page
from rempart.ingestion.snapshots import Snapshot
from rempart.settings.pipeline import Pipeline
from rempart.sites.once import put_again, read_named
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.sovereignty.classification import ORDER

logger = logging.getLogger(__name__)
_MEMORY = 256 << 20
"""Memory in bytes to measure a snapshot; DuckDB spills the rest."""
LARGEST = 1 << 20
"""Bytes of a packed page that a look returns at most."""


@dataclass(frozen=True)
class ProfileResult:
    """Result of a run: the snapshots of which it made a profile. `sealed`: the page of `shown`, packed and encrypted
    (gzip, age, base64), if it was asked for.
    """

    made: tuple[str, ...] = ()
    shown: str | None = None
    sealed: str | None = None


def folder(pipeline: str) -> str:
    """Return the prefix of a pipeline's profiles. Erasure deletes all versions below it."""
    return f"profiles/{pipeline}/"


def key(pipeline: str, snapshot: str, classification: str) -> str:
    """Return the key of a snapshot's profile, made for data of this classification."""
    return f"{folder(pipeline)}{classification}/{snapshot}.html"


def make(
    platform: Platform, pipeline: Pipeline, wanted: Sequence[str | None], recipient: str | None = None
) -> ProfileResult:
    """Make the missing profiles of these snapshots, by id (None: the current one); for a recipient return the last.

    A page is guarded by the higher of two classifications: the snapshot's, and the one the pipeline has now. A snapshot
    that was replaced since is left out. Raises IngestError if a look finds no snapshot or its page is too
    large, ErasedMeanwhile, SiteFenced, PlacementDenied, ConfigError, SiteError, IntegrityError.
    """
    if recipient:
        age.check_recipient(recipient, "recipient")
    active, removal = platform.active(), removals.check_open(platform.ledger, pipeline.name)
    site, bucket = platform.active_site(pipeline.classification, active), platform.config.buckets.lake
    erased = erasures.erased(platform.ledger, pipeline.name, erasures.secrets_of(platform))
    made, shown, body = list[str](), None, b""
    for name in dict.fromkeys(wanted):
        find = partial(current_snapshot.checked, platform.ledger, active, site, bucket, pipeline.name)
        if (snapshot := _find(site, bucket, pipeline, name, find)) is None:
            logger.info("no profile of snapshot %s of '%s': it is not at the site any more", name, pipeline.name)
            continue
        shown, where = snapshot.id, key(pipeline.name, snapshot.id, snapshot.classification)
        try:
            body = site.read(bucket, where)
        except ObjectMissing:
            body = page(measured(site, bucket, snapshot)).encode()
            with platform.committing(active):
                erasures.check_same(platform.ledger, pipeline.name, erased)
                removals.check_same(platform.ledger, pipeline.name, removal)
                derived_run.check_clean(platform.ledger, snapshot)
                store(site, bucket, snapshot, body)
            made.append(snapshot.id)
    if not recipient:
        return ProfileResult(tuple(made), shown)
    if shown is None:
        raise IngestError(
            f"Show the data profile of '{pipeline.name}': its lake at site '{site.name}' has no such snapshot",
            "Reload the pipeline's page of the cockpit, and ask for its newest snapshot.",
        )
    return ProfileResult(tuple(made), shown, _sealed(pipeline.name, body, recipient))


def delete(site: Site, bucket: str, pipeline: str, now: datetime) -> Deleted:
    """Delete a pipeline's profiles in every version. Raises SiteError."""
    return delete_below(site, bucket, folder(pipeline), now)


def store(site: Site, bucket: str, snapshot: Snapshot, body: bytes) -> str:
    """Store a snapshot's profile, read back. Return its key. Raises SiteError, IntegrityError."""
    where = key(snapshot.pipeline, snapshot.id, snapshot.classification)
    kept = {"retain-until": snapshot.retain_until.isoformat()}
    put_again(site, bucket, where, body, metadata=kept, content_type="text/html; charset=utf-8")
    logger.info("stored the data profile of snapshot %s of '%s' (%d bytes)", snapshot.id, snapshot.pipeline, len(body))
    return where


def measured(site: Site, bucket: str, snapshot: Snapshot, parts: Mapping[str, Path] | None = None) -> Profile:
    """Return the profile of a snapshot. `parts`: files of parts by key that are on this machine already.

    Raises SiteError, IntegrityError, and IngestError if DuckDB could not measure it: its own message may quote a value.
    """
    import duckdb

    with spool_folder() as scratch:
        files = []
        for i, part in enumerate(snapshot.parts):
            if (file := (parts or {}).get(part.key)) is None:
                file = scratch / f"{i:06d}.parquet"
                file.write_bytes(read_named(site, bucket, part.key, part.sha256))
            files.append(file)
        try:
            return profile(
                files,
                {name: column.type for name, column in snapshot.columns.items()},
                snapshot.key,
                Resources(memory=_MEMORY, threads=2, spill=scratch / "spill"),
                pipeline=snapshot.pipeline,
                snapshot=snapshot.id,
                classification=snapshot.classification,
            )
        except duckdb.Error as error:
            raise IngestError(
                f"measure snapshot {snapshot.id} of '{snapshot.pipeline}': DuckDB answered {type(error).__name__}",
                f"Check the free space for temporary files and run profile_data_{snapshot.pipeline} again. The "
                "snapshot itself is committed.",
            ) from None


def _find(
    site: Site, bucket: str, pipeline: Pipeline, name: str | None, current: Callable[[], Snapshot | None]
) -> Snapshot | None:
    """Return a snapshot with the higher of its classification and the pipeline's present one; None if it is gone."""
    try:
        found = snapshots.read(site, bucket, pipeline.name, name) if name else None
        found = found or current()
    except ObjectMissing:
        return None
    return found and replace(found, classification=max(found.classification, pipeline.classification, key=ORDER.index))


def _sealed(pipeline: str, body: bytes, recipient: str) -> str:
    packed = gzip.compress(body, mtime=0)
    if len(packed) > LARGEST:
        raise IngestError(
            f"Show the data profile of '{pipeline}': its page has {len(packed)} bytes packed, more than {LARGEST}",
            f"Download it from {folder(pipeline)} in the lake's bucket.",
        )
    return base64.b64encode(age.encrypt(packed, [recipient])).decode()
