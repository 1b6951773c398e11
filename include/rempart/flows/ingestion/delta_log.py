"""Publish the newest snapshot as a version of the pipeline's Delta log, after its commit.

The log is derived: it names parts that exist, and it may be behind the snapshot, never ahead. A version is written
once, so of two writers one takes it, and the other starts again from what it finds. Each run of ingestion publishes
what an earlier one left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from rempart.errors import IngestError, IntegrityError, RempartError, SiteError
from rempart.flows.shared.deletion import Deleted, delete_below
from rempart.ingestion import snapshots
from rempart.ingestion.delta import checkpoint, log
from rempart.ingestion.delta.log import State, TableContent
from rempart.ingestion.snapshots import Snapshot
from rempart.sites.once import keep, store_once
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

TRIES = 5
"""Writers that may take the next version before ours."""


class LogTorn(IntegrityError):
    """Versions of a Delta log are missing between others: a deletion was interrupted, or somebody deleted them."""


def follow(site: Site, bucket: str, snapshot: Snapshot | None) -> str | None:
    """Publish a committed snapshot; return why the table is behind, or None if it equals the snapshot.

    The snapshot stands without its log: a lasting fault must not stop ingestion, and the caller reports it
    (`check_table`). Each run of ingestion publishes again. A pipeline without a snapshot has no table. Raises a
    transient error of the site.
    """
    if snapshot is None:
        return None
    try:
        publish(site, bucket, snapshot)
    except RempartError as error:
        if error.transient:
            raise
        logger.warning("snapshot %s of '%s' is not in the Delta table: %s", snapshot.id, snapshot.pipeline, error)
        return f"{error.what}. {error.hint}"
    return None


def check_table(pipeline: str, fault: str | None) -> None:
    """Raise IngestError if the Delta table is behind the snapshot for this reason."""
    if fault:
        raise IngestError(
            f"The newest snapshot of '{pipeline}' is committed, but its Delta table is behind: {fault}",
            f"Remove the cause, and run ingest_{pipeline}: each run publishes the current snapshot again.",
        )


def publish(
    site: Site, bucket: str, snapshot: TableContent, newest: Callable[[], TableContent | None] | None = None
) -> int:
    """Make the Delta table equal to a committed snapshot. Return the number of its version.

    Safe to repeat: nothing is written if the table already equals the snapshot. If another writer takes the version,
    the table gets the snapshot that is current by then, or what `newest` returns. A torn log goes on with a version
    that names every file.
    Raises IntegrityError for a damaged log, SiteError.
    """
    name, wanted = snapshot.pipeline, snapshot
    for _ in range(TRIES):
        try:
            state, checkpoints = read(site, bucket, name)
        except LogTorn:
            return restart(site, bucket, wanted)
        body = log.commit(state, wanted)
        if body is None or _write(site, bucket, name, state.version + 1, body):
            state = log.apply(state, body) if body else state
            if checkpoint.is_due(state.version, checkpoints):
                _write_checkpoint(site, bucket, name, state)
            return state.version
        wanted = (newest() if newest else snapshots.current(site, bucket, name)) or wanted
    raise SiteError(
        f"write the Delta log of '{name}' to {bucket} at site '{site.name}': other writers took {TRIES} versions",
        "Find out who else writes there: only this platform may. The snapshot is committed; the next run publishes it.",
    )


def read(site: Site, bucket: str, name: str) -> tuple[State, list[int]]:
    """Return the state of the table after its newest version, and its checkpoints.

    Reads the newest checkpoint and the versions since. Raises LogTorn if it lacks versions, IntegrityError for a
    damaged log, SiteError.
    """
    versions, checkpoints = checkpoint.listed(name, _keys(site, bucket, name))
    if not versions and not checkpoints:
        return State(), []
    newest = max(versions + checkpoints)
    start = max(checkpoints, default=0)
    needed = list(range(start, newest + 1))
    if versions[-len(needed) :] != needed:
        raise LogTorn(
            f"read the Delta log {bucket}/{log.folder(name)} at site '{site.name}': of versions {start} to {newest} "
            "some are missing",
            "Run the pipeline: its next run writes a version that names every file. No row is in the log.",
        )
    state = State()
    try:
        if checkpoints:
            state = checkpoint.decode(
                site.read(bucket, checkpoint.checkpoint_key(name, start)), start - 1
            )  # the version itself follows: it tells its snapshot, and adds the same files again
        for version in needed:
            state = log.apply(state, site.read(bucket, log.version_key(name, version)))
    except ValueError as cause:
        raise IntegrityError(
            f"read the Delta log {bucket}/{log.folder(name)} at site '{site.name}': {cause}",
            f"Delete every object under {log.folder(name)}: the next run writes the log again from the current "
            "snapshot. No row is in it.",
        ) from cause
    return state, checkpoints


def restart(site: Site, bucket: str, snapshot: TableContent) -> int:
    """Write a version that names every data file of a snapshot, and its checkpoint; return its number.

    An erasure does it before it deletes parts: a reader sees the table before or after. `drop_before` removes the rest.

    Writes nothing if the log consists of such a version already. A damaged log is replaced. Raises SiteError.
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
                "Run the same command again.",
            )
        _write_checkpoint(site, bucket, name, state)
    return state.version


def is_behind(site: Site, bucket: str, name: str, snapshot: Snapshot | None) -> bool:
    """Return whether the log differs from a snapshot, or is damaged; without a snapshot, whether any of it is left.

    Raises SiteError.
    """
    if snapshot is None:
        return any(True for _ in site.versions(bucket, log.folder(name)))
    try:
        return log.commit(read(site, bucket, name)[0], snapshot) is not None
    except IntegrityError:
        return True


def drop_before(site: Site, bucket: str, name: str, version: int, now: datetime) -> Deleted:
    """Delete what the log has from before a version: its objects, their old versions, and copies of a conflict.

    Raises SiteError.
    """
    return _delete(site, bucket, name, version, now)


def withdraw(site: Site, bucket: str, name: str, now: datetime) -> Deleted:
    """Delete the log at a site whose parts an erasure deletes. Replication brings the new one after its parts.

    Raises SiteError.
    """
    return _delete(site, bucket, name, None, now)


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


def _delete(site: Site, bucket: str, name: str, first: int | None, now: datetime) -> Deleted:
    """Delete the log's objects in every version; from table version `first` on their newest versions stay."""

    def kept(key: str) -> bool:
        versions, checkpoints = checkpoint.listed(name, [key])
        return first is not None and any(version >= first for version in versions + checkpoints)

    return delete_below(site, bucket, log.folder(name), now, keep_newest=kept)
