"""Write a restore point: dump the databases at one moment, replicate and encrypt the objects, write the manifest
last.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from rempart import __version__, canonical_json
from rempart.backup.databases import not_held, postgresql
from rempart.backup.databases.stored_dumps import StoredDump, dump_into
from rempart.backup.keys import encryption_scopes, platform_secrets
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import chain, locking, points, references
from rempart.coordination.active import ActiveSites, backup_site, is_open
from rempart.counts import size
from rempart.errors import RepositoryDamaged, RepositoryMissing
from rempart.flows.backup import locks
from rempart.flows.backup.mend_links import check_chain
from rempart.flows.backup.point_objects import hold_objects, originals
from rempart.flows.backup.point_store import PointStore, store_at
from rempart.flows.backup.seal import seal_body
from rempart.flows.backup.stores_not_held import ask, still_there, stores
from rempart.flows.doctor.doctor_site import require
from rempart.flows.replication.reconcile import before_bringing
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.keys import key_of, open_keyring, remove_late, renewed_key, warn_of_escrow
from rempart.flows.shared.leases import PATIENCE, holder, points_lease
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.flows.shared.repositories import RepositoryOf, repository_of
from rempart.flows.training import champions
from rempart.ledger.keys import Signer
from rempart.ledger.port import Ledger
from rempart.settings import config as configuration
from rempart.settings.config import DATABASES, Config, Connection
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)

DIGESTED = ("feast_online", "ledger")
"""Databases whose content a drill compares, not only their row counts."""
BARRIER_SECONDS = 300.0
"""Seconds for which a backup waits for running commits."""
DUMPERS = 3
"""Number of databases dumped in parallel."""


@dataclass(frozen=True)
class RestorePoint:
    """Result of a backup: `bytes` of dumps and manifest, numbers of databases and objects, ISO time of creation.

    `bytes_added` is the growth of the database repositories; content of earlier dumps is not stored again. `dangling`
    lists references of the databases to missing objects: such a point is inconsistent, and is restored only if named.
    `not_held` describes stores of the platform that the point does not cover. `barrier_seconds` is how long writers
    waited.
    """

    id: str
    bytes: int
    databases: int
    objects: int
    created_at: str
    bytes_added: int = 0
    dangling: tuple[str, ...] = ()
    barrier_seconds: float = 0.0
    not_held: tuple[str, ...] = ()


@dataclass
class _SnapshotFacts:
    """Facts read from the database snapshots in addition to the dumps."""

    aliases: dict[str, str] = field(default_factory=dict)
    models: list[tuple[str, str, str]] = field(default_factory=list)
    candidates: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    erasures: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ledger_head: tuple[int, str | None] = (0, None)
    decided: dict[str, str] = field(default_factory=dict)
    registry: not_held.Registry = field(default_factory=lambda: not_held.Registry(frozenset(), frozenset()))
    artifact_stores: list[tuple[str, str]] = field(default_factory=list)

    def look(self, name: str, session: postgresql.Session) -> None:
        if name == "mlflow":
            self.aliases, self.models = postgresql.champions(session), postgresql.model_locations(session)
            self.registry, self.artifact_stores = postgresql.registry(session), postgresql.artifact_stores(session)
        elif name == "ledger":
            self.candidates = postgresql.evidence(session, "candidate")
            self.erasures = postgresql.evidence(session, "erasure")
            self.ledger_head = postgresql.ledger_head(session)
            self.decided = postgresql.decided_champions(session)

    @property
    def champions(self) -> dict[str, str]:
        """Return each model's champion according to the ledger, regardless of MLflow's aliases."""
        return champions.registered(self.decided, [(name, version) for name, version, _ in self.models])

    def moved(self) -> list[str]:
        """Return our models whose MLflow alias differs from the champion on record."""
        ours = {name for name, _ in self.candidates} | self.decided.keys()
        return sorted(name for name in ours if self.aliases.get(name) != self.champions.get(name))

    def references(self, config: Config) -> Iterator[references.Reference]:
        logical = {physical_bucket(config, name): name for name in BUCKETS}
        yield from references.of_models(self.models, logical)
        live = [(name, version) for name, version, _ in self.models]
        yield from references.of_candidates(self.candidates, live, logical, (body for _, body in self.erasures))


def config_sha256(config: Config) -> str:
    """Return the SHA-256 of the configuration's canonical JSON."""
    return hashlib.sha256(canonical_json.encode(config.model_dump(mode="json"))).hexdigest()


def random_suffix() -> str:
    return secrets.token_hex(4)


def back_up(
    platform: Platform,
    *,
    suffix: Callable[[], str] = random_suffix,
    tools: postgresql.Tools | None = None,
) -> RestorePoint:
    """Dump the databases to the backup site, replicate and encrypt the objects there, and write the manifest.

    If the backup site is the active site, restore points go to the other site of its pair.

    All snapshots are opened while nobody commits, so they show one moment. Dumps come first: the objects that they
    refer to exist already, so the replica holds them or the point lists them as missing. If a step fails, no manifest
    is written, and the previous point stays the newest. A link of the signed chain at the backup site and evidence of
    kind `restore-point` attest the manifest.

    One backup runs at a time: a second one raises LeaseHeld before it writes, and a paused one that lost its lease
    raises LeaseLost and does not commit. Raises BackupError, DatabaseUnavailable, SiteError, PlacementDenied,
    ConfigError, LedgerError, SiteFenced.
    """
    config, continuity = platform.config, platform.continuity
    source = is_open(platform.active()).site
    where = backup_site(config, source)
    with continuity.hold_lease(points_lease(where), holder()) as lease:
        site = platform.site(where, classification_of(load_all()), "restore-point", replica_of=source)
        require(platform, site, "restore points")
        tools = tools or postgresql.find_tools()
        warn_of_escrow(platform.config)
        store, signer, keyring = store_at(platform, site), platform.signer(), open_keyring(platform)
        remove_late(store.ledger, keyring)
        named, began, facts = check_chain(store), platform.clock(), _SnapshotFacts()
        point_id, until = points.new_id(began, suffix()), began + store.kept
        asked = ask(config.services.get("mlflow"), platform.tracking, platform.database, DATABASES)
        repository = partial(repository_of, config, platform.connections, where)
        dumper = _Dumper(store.ledger, repository, keyring, tools, store.kept, point_id, facts)
        sites = continuity.active_sites(config.active_site)
        stored, barrier_seconds = _dump(sites, platform.database("backup"), dumper)
        asked = still_there(asked, platform.tracking)
        for line in champions.settle_all(platform.tracking, store.ledger, sites, store.clock, facts.moved()):
            logger.warning("%s", line)
        extended = _extend(store)
        before_bringing(platform, source, where)
        bring(platform, source, where, BUCKETS, whenever=True, patience=PATIENCE)
        objects = list(originals(continuity.catalogue(source, where), config))
        held_objects = hold_objects(store, config, keyring, objects, until)
        kept_secrets = _seal_secrets(store, config, keyring, until)
        buckets = [physical_bucket(config, name) for name in BUCKETS]
        manifest = points.Manifest(
            point_id,
            began,
            source,
            __version__,
            config_sha256(config),
            tuple(dump for dump, _ in stored),
            held_objects,
            facts.champions,
            facts.ledger_head,
            references.dangling(facts.references(config), held_objects),
            round(barrier_seconds, 3),
            kept_secrets,
            stores(asked, facts.registry, facts.artifact_stores, facts.decided, buckets),
        )
        for lacking in manifest.not_held:
            logger.warning("this restore point does not cover %s", lacking)
        body = points.encode(manifest)
        with continuity.still(lease):
            link = _write(store, signer, manifest, hashlib.sha256(body).hexdigest(), named)
        point = _result(manifest, len(body), sum(added for _, added in stored))
        store.ledger.append("restore-point", point_id, _evidence(store, signer, manifest, point, link, extended))
        summary = {"point": point_id, "created_at": point.created_at, "consistent": not manifest.lacking}
        beat(platform, "backup", {**summary, "hidden": len(extended.hidden)})
        return point


def _dump(sites: ActiveSites, backup: Connection, dumper: _Dumper) -> tuple[list[tuple[points.Dump, int]], float]:
    """Return the dump of each database with the growth of its repository, and for how long writers waited."""
    with _frozen(sites, backup) as (frozen, seconds):
        logger.info("opened %d database snapshots; writers waited %.2f s", len(frozen), seconds)
        with ThreadPoolExecutor(DUMPERS, thread_name_prefix="dump") as pool:
            return list(pool.map(dumper.dump, frozen)), seconds


def _extend(store: PointStore) -> locks.ExtendedLocks:
    """Extend the locks of earlier restore points. Log a warning about hidden objects."""
    extended = locks.extend(store, None)
    if extended.hidden:
        logger.warning(
            "%d objects of earlier restore points are hidden at '%s': run `rempart backup repair`",
            len(extended.hidden),
            store.site.name,
        )
    return extended


def _seal_secrets(store: PointStore, config: Config, keyring: Keyring, until: datetime) -> points.Secrets:
    """Encrypt the secrets of the running platform at the backup site."""
    environment = platform_secrets.encode(
        platform_secrets.in_use(configuration.read_env_file(configuration.secrets_file()), configuration.environment())
    )
    scope = encryption_scopes.EncryptionScope("platform", "platform", encryption_scopes.text_of(store.kept))
    sealed = seal_body(store.ledger, config, keyring, environment, scope, store.site, until)
    return points.Secrets(sealed, hashlib.sha256(environment).hexdigest(), len(environment))


def _write(
    store: PointStore, signer: Signer, manifest: points.Manifest, sha256: str, named: Mapping[int, str]
) -> chain.Link:
    """Append the link of a restore point to the signed chain, then write its manifest."""
    link = chain.append(
        store.site,
        store.bucket,
        manifest.id,
        manifest.created_at,
        sha256,
        signer,
        consistent=manifest.consistent,
        retain_until=manifest.created_at + store.kept,
        keys=store.trusted_keys(),
        named=named,
    )
    points.write(store.site, store.bucket, manifest, locking.first(manifest.created_at, store.rules.locked))
    return link


def _result(manifest: points.Manifest, size: int, bytes_added: int) -> RestorePoint:
    return RestorePoint(
        manifest.id,
        sum(dump.bytes for dump in manifest.databases) + size,
        len(manifest.databases),
        len(manifest.objects),
        manifest.created_at.isoformat(),
        bytes_added,
        manifest.dangling,
        manifest.barrier_seconds,
        tuple(str(store) for store in manifest.not_held),
    )


def _evidence(
    store: PointStore,
    signer: Signer,
    manifest: points.Manifest,
    point: RestorePoint,
    link: chain.Link,
    extended: locks.ExtendedLocks,
) -> dict[str, Any]:
    """Return the ledger's record of a restore point."""
    return {
        "site": store.site.name,
        "bucket": store.bucket,
        "manifest_sha256": link.manifest_sha256,
        "link": link.seq,
        "link_file": chain.encode(link, signer).decode(),
        "created_at": point.created_at,
        "seconds": round((store.clock() - manifest.created_at).total_seconds(), 3),
        "bytes": point.bytes,
        "bytes_added": point.bytes_added,
        "databases": {dump.name: dump.sha256 for dump in manifest.databases},
        "objects": point.objects,
        "object_bytes": sum(obj.size for obj in manifest.objects),
        "champions": dict(manifest.champions),
        "barrier_seconds": point.barrier_seconds,
        "dangling": list(point.dangling[:20]),
        "not_held": [lacking.as_json() for lacking in manifest.not_held[:20]],
        "locks_set": extended.set,
        "hidden": len(extended.hidden),
    }


@dataclass(frozen=True)
class _Frozen:
    """One database at the moment of the restore point."""

    name: str
    connection: Connection
    session: postgresql.Session
    snapshot: str


@contextmanager
def _frozen(sites: ActiveSites, backup: Connection) -> Iterator[tuple[list[_Frozen], float]]:
    """Open a snapshot of every database while nobody commits. Return them with the seconds taken. Raises LeaseHeld.

    PostgreSQL cannot share a snapshot across databases; they show one moment because writers wait.
    """
    with ExitStack() as held:
        frozen = []
        with sites.barrier(BARRIER_SECONDS):
            closed = time.monotonic()
            for name in DATABASES:
                connection = postgresql.for_database(backup, name)
                session, snapshot = held.enter_context(postgresql.frozen(connection))
                frozen.append(_Frozen(name, connection, session, snapshot))
            seconds = time.monotonic() - closed
        yield frozen, seconds


@dataclass(frozen=True)
class _Dumper:
    """Dump databases into their repositories. `found` collects facts from each snapshot."""

    ledger: Ledger
    repository_of: RepositoryOf
    keyring: Keyring
    tools: postgresql.Tools
    kept: timedelta
    point_id: str
    found: _SnapshotFacts

    def dump(self, frozen: _Frozen) -> tuple[points.Dump, int]:
        """Return the dump as read back from its repository, and the growth of that repository."""
        name, session = frozen.name, frozen.session
        with postgresql.named(frozen.connection, "read the contents of a snapshot"):
            postgresql.check_versions(self.tools, session)
            rows = postgresql.row_counts(session)
            digests = postgresql.digests(session) if name in DIGESTED else {}
            self.found.look(name, session)
        scope = encryption_scopes.of_database(name, self.kept)
        key = key_of(self.ledger, self.keyring, scope)
        try:
            stored = self._stored(key, frozen, len(rows))
        except RepositoryDamaged as error:  # its data stays, and nothing is added to it
            logger.warning("%s. Starting a new repository", error.what)
            key = renewed_key(self.ledger, self.keyring, scope, error)
            stored = self._stored(key, frozen, len(rows))
        logger.info(
            "dumped database %s: %s (%s new) in %.1f s",
            name,
            size(stored.bytes),
            size(stored.bytes_added),
            stored.seconds,
        )
        held = points.Dump(name, scope.id, key.serial, stored.snapshot, stored.sha256, stored.bytes, rows, digests)
        return held, stored.bytes_added

    def _stored(self, key: ScopeKey, frozen: _Frozen, tables: int) -> StoredDump:
        """Store a dump in the repository of a key. Make the repository if needed."""
        repository = self.repository_of(key)
        tags = (f"point={self.point_id}",)
        dump = partial(dump_into, self.tools, repository, frozen.connection, frozen.snapshot, tables, tags=tags)
        try:
            return dump()
        except RepositoryMissing:
            repository.init_if_missing()
            return dump()
