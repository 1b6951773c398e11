"""Publish the newest snapshot as a version of the pipeline's Delta log, after its commit.

The log is derived: it names parts that exist, and it may be behind the snapshot, never ahead. A version is written
once, so of two writers one takes it, and the other starts again from what it finds.
"""

from __future__ import annotations

import logging
from datetime import datetime

from rempart.backup.points.pruning import delete_unless_locked
from rempart.errors import IntegrityError, SiteError
from rempart.ingestion import snapshots
from rempart.ingestion.delta import checkpoint, log
from rempart.ingestion.delta.log import State
from rempart.ingestion.snapshots import Snapshot
from rempart.sites.once import keep, store_once
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

TRIES = 5
"""Writers that may take the next version before ours."""


def publish(site: Site, bucket: str, snapshot: Snapshot) -> int:
    """Make the Delta table equal to a committed snapshot. Return the number of its version.

    Safe to repeat: nothing is written if the table already equals the snapshot. If another writer takes the version,
    the table gets the snapshot that is current by then. Raises IntegrityError for a damaged log, SiteError.
    """
    name, wanted = snapshot.pipeline, snapshot
    for _ in range(TRIES):
        state, checkpoints = read(site, bucket, name)
        body = log.commit(state, wanted)
        if body is None or _write(site, bucket, name, state.version + 1, body):
            state = log.apply(state, body) if body else state
            if checkpoint.is_due(state.version, checkpoints):
                _write_checkpoint(site, bucket, name, state)
            return state.version
        wanted = snapshots.current(site, bucket, name) or wanted
    raise SiteError(
        f"write the Delta log of '{name}' to {bucket} at site '{site.name}': other writers took {TRIES} versions",
        "Find out who else writes there: only this platform may. The snapshot is committed; the next run publishes it.",
    )


def read(site: Site, bucket: str, name: str) -> tuple[State, list[int]]:
    """Return the state of the table after its newest version, and its checkpoints.

    Reads the newest checkpoint and the versions since. Raises IntegrityError for a damaged log, SiteError.
    """
    versions, checkpoints = checkpoint.listed(name, _keys(site, bucket, name))
    if not versions:
        return State(), []
    newest = versions[-1]
    checkpoints = [version for version in checkpoints if version <= newest]
    state, start = State(), 0
    try:
        if checkpoints:
            start = checkpoints[-1]
            state = checkpoint.decode(
                site.read(bucket, checkpoint.checkpoint_key(name, start)), start - 1
            )  # the version itself follows: it tells its snapshot, and adds the same files again
        needed = list(range(start, newest + 1))
        if versions[-len(needed) :] != needed:
            raise ValueError(f"of versions {start} to {newest} some are missing")
        for version in needed:
            state = log.apply(state, site.read(bucket, log.version_key(name, version)))
    except ValueError as cause:
        raise IntegrityError(
            f"read the Delta log {bucket}/{log.folder(name)} at site '{site.name}': {cause}",
            f"Delete every object under {log.folder(name)}: the next run writes the log again from the current "
            "snapshot. No row is in it.",
        ) from cause
    return state, checkpoints


def rebuild(site: Site, bucket: str, snapshot: Snapshot, now: datetime) -> list[str]:
    """Start the log again at its next version, from this snapshot alone, and delete what came before.

    For an erasure, before it deletes the parts: a reader sees the table before or after, and no earlier version is
    left that names a deleted part. A damaged log is replaced. Return the deleted keys. Raises SiteError.
    """
    name = snapshot.pipeline
    versions, checkpoints = checkpoint.listed(name, _keys(site, bucket, name))
    try:
        state, _ = read(site, bucket, name)
    except IntegrityError:
        state = State(max(versions + checkpoints))
    if log.commit(state, snapshot) or versions != [state.version] or checkpoints != [state.version]:
        body = log.whole(state, snapshot)
        state = log.apply(state, body)
        if not _write(site, bucket, name, state.version, body):
            raise SiteError(
                f"write version {state.version} of the Delta log of '{name}' to {bucket} at site '{site.name}': "
                "another writer took it",
                "Run the erasure again.",
            )
        _write_checkpoint(site, bucket, name, state)
    kept = {log.version_key(name, state.version), checkpoint.checkpoint_key(name, state.version)}
    return _delete(site, bucket, name, kept, now)


def withdraw(site: Site, bucket: str, name: str, now: datetime) -> list[str]:
    """Delete the log at a site whose parts an erasure deletes. Replication brings the new one after its parts.

    Return the deleted keys. Raises SiteError.
    """
    return _delete(site, bucket, name, set(), now)


def _keys(site: Site, bucket: str, name: str) -> list[str]:
    return [info.key for info in site.list(bucket, log.folder(name))]


def _write(site: Site, bucket: str, name: str, version: int, body: bytes) -> bool:
    """Store a version, read back. Return False if it is another writer's."""
    key = log.version_key(name, version)
    if store_once(site, bucket, key, body, content_type="application/x-ndjson") is None:
        return False
    logger.info("published version %d of the Delta table of '%s'", version, name)
    return True


def _write_checkpoint(site: Site, bucket: str, name: str, state: State) -> None:
    key = checkpoint.checkpoint_key(name, state.version)
    keep(site, bucket, key, checkpoint.encode(state), metadata={}, content_type="application/vnd.apache.parquet")


def _delete(site: Site, bucket: str, name: str, kept: set[str], now: datetime) -> list[str]:
    """Delete every version of the log's objects but the kept ones, oldest table version first."""
    deleted: dict[str, None] = {}
    for info in list(site.versions(bucket, log.folder(name))):
        if info.key not in kept:
            if until := delete_unless_locked(site, bucket, info, now):
                logger.warning("%s/%s at site '%s' is locked until %s", bucket, info.key, site.name, until)
            deleted[info.key] = None
    return list(deleted)
