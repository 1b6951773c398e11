"""Delete every version that holds erased rows, and before them what names or sums them: the Delta log and profiles.

The home site has a new log by then. Elsewhere the log is withdrawn, so that no reader meets a deleted part; replication
brings the new one after its parts. Profiles hold no row, but figures of erased ones: the next look makes one again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from rempart.backup.points.pruning import delete_unless_locked
from rempart.errors import SiteError
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import delta_log, profile
from rempart.flows.shared.leases import PATIENCE, pair_lease, wait_for
from rempart.ingestion import snapshots
from rempart.sites.port import Site


@dataclass
class DeletedVersions:
    """Numbers of deleted versions: of objects with rows, of the Delta log, of profiles. `locked`: until when the others
    are locked, by place; `failed`: why a site could not be cleaned.
    """

    rows: int = 0
    log: int = 0
    profiles: int = 0
    locked: dict[str, datetime] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def in_snapshots(held: Sequence[HeldVersion]) -> bool:
    """Return whether snapshots held erased rows, so that what was derived from them has to go."""
    return any(held_version.kind in ("part", "manifest") for held_version in held)


def restart_table(site: Site, bucket: str, pipeline: str) -> int | None:
    """Start the Delta log again from the current snapshot; return its version, or None without a snapshot.

    Earlier versions stay until `delete_versions`. Raises SiteError.
    """
    current = snapshots.current(site, bucket, pipeline)
    return None if current is None else delta_log.restart(site, bucket, current)


def delete_versions(
    stores: ErasureStores,
    held: Sequence[HeldVersion],
    pipeline: str | None = None,
    table: int | None = None,
    *,
    bucket: str | None = None,
) -> DeletedVersions:
    """Delete these versions of objects, in the lake's bucket or another `bucket`.

    With a `pipeline`, what was derived from its snapshots goes as well; `table`: the home's new version of its log.
    Replication waits meanwhile, and its catalogues forget these objects, so that the deletion does not look like a
    loss.
    """
    done = DeletedVersions()
    if not held:
        return done
    sites, bucket, derived = stores.sites, bucket or stores.lake, in_snapshots(held)
    pairs = sorted(
        {pair for declared in stores.config.replication for pair in _directions(declared.source, declared.target)}
    )
    with ExitStack() as waiting:
        leases = {
            pair: waiting.enter_context(wait_for(stores.continuity, pair_lease(*pair), PATIENCE)) for pair in pairs
        }
        for name, site in sites.items():
            mine = [held_version for held_version in held if held_version.site == name]
            try:
                if pipeline is not None and derived:
                    _delete_derived(
                        site, bucket, pipeline, table if name == stores.home else None, stores.clock(), done
                    )
                for held_version in mine:
                    if held_version.to == held_version.info.key and held_version.info.version_id in (None, "null"):
                        continue  # in a bucket without versions, the replacement has overwritten it
                    if until := delete_unless_locked(site, bucket, held_version.info, stores.clock()):
                        done.locked[f"{bucket}/{held_version.info.key} at site '{name}'"] = until
                    else:
                        done.rows += 1
                _unmark(site, bucket, {held_version.info.key for held_version in mine})
            except SiteError as error:
                done.failed[name] = error.what
        keys = sorted({held_version.info.key for held_version in held} | done.keys)
        for pair, lease in leases.items():
            if not set(pair) & done.failed.keys() and set(pair) <= sites.keys():
                known = stores.continuity.catalogue(*pair)
                known.forget(bucket, list(known.of_keys(bucket, keys)), lease)
    return done


def _delete_derived(
    site: Site, bucket: str, pipeline: str, table: int | None, now: datetime, done: DeletedVersions
) -> None:
    if table is None:
        log = delta_log.withdraw(site, bucket, pipeline, now)
    else:
        log = delta_log.drop_before(site, bucket, pipeline, table, now)
    profiles = profile.delete(site, bucket, pipeline, now)
    done.log += log.versions
    done.profiles += profiles.versions
    for removed in (log, profiles):
        done.keys.update(removed.keys)
        done.locked.update({f"{bucket}/{key} at site '{site.name}'": until for key, until in removed.locked})


def _directions(source: str, target: str) -> Iterator[tuple[str, str]]:
    yield source, target
    yield target, source


def _unmark(site: Site, bucket: str, keys: set[str]) -> None:
    """Delete the delete markers of keys without any other version."""
    for key in sorted(keys):
        left = [version for version in site.versions(bucket, key) if version.key == key]
        if all(version.marker for version in left):
            for version in left:
                site.delete(bucket, key, version_id=version.version_id)
