"""Delete every version that holds erased rows, and before them what names or sums them: the Delta log and profiles.

The home site has a new log by then. Elsewhere the log is withdrawn, so that no reader meets a deleted part; replication
brings the new one after its parts. Profiles hold no row, but figures of erased ones: the next look makes one again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from rempart.backup.points.pruning import delete_unless_locked
from rempart.errors import SiteError
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import delta_log, profile, source_state
from rempart.flows.shared.deletion import Deleted, versions_below
from rempart.flows.shared.leases import PATIENCE, pair_lease, wait_for
from rempart.ingestion.delta import log
from rempart.replication.catalogue import Catalogue
from rempart.replication.plan import Replica
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site


@dataclass(frozen=True)
class Derived:
    """Objects that are deleted together with rows of a pipeline.

    `of_snapshots`: delete the Delta log and profiles. `table`: the new version of the log at the home site, or None.
    `of_source`: delete what the states of the source tell of single rows. `tables`: logs of predictions by their root,
    with the version with which each begins again at the home site; None for a table of which nothing is left.
    """

    pipeline: Pipeline
    of_snapshots: bool
    table: int | None = None
    of_source: bool = False
    tables: Mapping[str, int | None] = field(default_factory=dict)


@dataclass
class DeletedVersions:
    """Numbers of deleted versions: of objects with rows, of the Delta log, of profiles, of states of the source.
    `locked`: until when the others are locked, by place; `failed`: why a site could not be cleaned.
    """

    rows: int = 0
    log: int = 0
    profiles: int = 0
    states: int = 0
    locked: dict[str, datetime] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def in_snapshots(held: Sequence[HeldVersion]) -> bool:
    """Return whether snapshots held erased rows, so that what was derived from them has to go."""
    return any(held_version.kind in ("part", "manifest") for held_version in held)


def restart_table(stores: ErasureStores, pipeline: str) -> int | None:
    """Start the Delta log again from the current snapshot; return its version, or None without a snapshot.

    Earlier versions stay until `delete_versions`. Raises IngestError if evidence names a newer snapshot, SiteError.
    """
    current = stores.current(pipeline)
    return None if current is None else delta_log.restart(stores.sites[stores.home], stores.lake, current)


def condemn(stores: ErasureStores, pipeline: str, held: Sequence[HeldVersion], derived: Derived | None) -> set[str]:
    """Record the keys of the lake that go, before the first of them is deleted. Return all on record for the pipeline.

    Whoever completes a killed erasure does not find them any more, and must forget them in the catalogues. Raises
    SiteError, DatabaseUnavailable.
    """
    keys = {version.info.key for version in held}
    if derived is not None:
        folders = (log.folder(pipeline), profile.folder(pipeline)) if derived.of_snapshots else ()
        tables = map(log.folder, derived.tables)
        for folder in (*folders, *tables, *((source_state.folder(pipeline),) if derived.of_source else ())):
            keys.update(info.key for info in versions_below(stores.sites[stores.home], stores.lake, folder))
    records = stores.ledger.find("erasure", pipeline)
    known = {str(key) for record in records for key in record.body.get("condemned", ())}
    if fresh := sorted(keys - known):
        stores.ledger.append("erasure", pipeline, {"state": "condemned", "condemned": fresh})
    return known | keys


def delete_versions(
    stores: ErasureStores,
    held: Sequence[HeldVersion],
    derived: Derived | None = None,
    *,
    bucket: str | None = None,
    condemned: Collection[str] = (),
) -> DeletedVersions:
    """Delete these versions of objects, in the lake's bucket or another `bucket`, and what was `derived` from them.

    Replication waits meanwhile, and its catalogues forget these objects, so that the deletion does not look like a
    loss. `condemned`: keys that a command, perhaps a killed one, was to delete: their rows in a catalogue are forgotten
    where its source has no such version any more.
    """
    done = DeletedVersions()
    bucket = bucket or stores.lake
    condemned = set(condemned) & set(catalogued(stores, bucket)) if condemned else set()
    if not (held or derived or condemned):
        return done
    sites = stores.sites
    with ExitStack() as waiting:
        leases = {
            pair: waiting.enter_context(wait_for(stores.continuity, pair_lease(*pair), PATIENCE))
            for pair in _pairs(stores)
        }
        for name, site in sites.items():
            mine = [held_version for held_version in held if held_version.site == name]
            try:
                if derived is not None:
                    _delete_derived(stores, site, derived, done)
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
                known.forget(bucket, list(_gone(sites[pair[0]], bucket, known, condemned - set(keys))), lease)
    return done


def catalogued(stores: ErasureStores, bucket: str) -> Iterator[str]:
    """Yield the keys of a bucket in all catalogues. Raises DatabaseUnavailable."""
    for pair in _pairs(stores):
        yield from (row.key for row in stores.continuity.catalogue(*pair).rows(bucket))


def _gone(site: Site, bucket: str, known: Catalogue, keys: Collection[str]) -> Iterator[Replica]:
    """Yield the rows of these keys whose version is no longer at the source."""
    there = {key: {info.version_id for info in site.versions(bucket, key) if info.key == key} for key in sorted(keys)}
    for row in known.of_keys(bucket, sorted(keys)):
        if not there[row.key] or (row.version and row.version not in there[row.key]):
            yield row


def _pairs(stores: ErasureStores) -> list[tuple[str, str]]:
    return sorted(
        {pair for declared in stores.config.replication for pair in _directions(declared.source, declared.target)}
    )


def _delete_derived(stores: ErasureStores, site: Site, derived: Derived, done: DeletedVersions) -> None:
    name, bucket, now, is_home = derived.pipeline.name, stores.lake, stores.clock(), site.name == stores.home
    versions = profiles = states = Deleted()
    others = [
        delta_log.withdraw(site, bucket, root, now)
        if begins is None or not is_home
        else delta_log.drop_before(site, bucket, root, begins, now)
        for root, begins in derived.tables.items()
    ]
    if derived.of_snapshots and is_home and derived.table is not None:
        versions = delta_log.drop_before(site, bucket, name, derived.table, now)
    elif derived.of_snapshots:
        versions = delta_log.withdraw(site, bucket, name, now)
    if derived.of_snapshots:
        profiles = profile.delete(site, bucket, name, now)
    if derived.of_source and is_home:
        states = source_state.forget_rows(site, bucket, derived.pipeline, stores.current(name), now)
    elif derived.of_source:
        states = source_state.forget_all(site, bucket, name, now)
    done.log += versions.versions + sum(other.versions for other in others)
    done.profiles += profiles.versions
    done.states += states.versions
    for removed in (versions, profiles, states, *others):
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
