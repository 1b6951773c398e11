"""Find and open a restore point without its platform: verify the chain, choose the point, read the manifest, open keys.

A site, an age identity and the ledger's public keys are enough.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rempart.backup.databases import dump_tables, postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import file_name
from rempart.backup.keys import age, platform_secrets
from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import CONNECTION, KeyPlace, Keyring
from rempart.backup.points import chain, points, references, restore_plan
from rempart.backup.points.chain import Link, StoredLink
from rempart.backup.points.object_sources import ObjectSources
from rempart.backup.points.points import Dump, Manifest
from rempart.backup.points.restore_plan import Part, Selection
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import SealedObject
from rempart.errors import BackupError, ConfigError, ConnectionMissing, IntegrityError, KeyMissing, RempartError
from rempart.flows.backup.mend_links import hashes, named_links
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.keys import key_id, parse_public
from rempart.ledger.memory import MemoryLedger
from rempart.models.registry import TAG
from rempart.settings import config as configuration
from rempart.settings.config import Connections
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

JOB_TAG = f"{TAG}job_id"
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.S)


@dataclass(frozen=True)
class Wish:
    """A restore request: a restore point of a site (default: the newest complete one) and the parts to restore.

    `aside` is the suffix of a side-by-side restore. `force` allows operations that are otherwise refused. `active` is
    the site that becomes active and gets the objects (default: the site of the restore point).
    """

    site: str
    point: str | None = None
    parts: tuple[Part, ...] = ()
    aside: str | None = None
    force: bool = False
    active: str | None = None


def detached(connections: Connections = configuration.environment_connections) -> Platform:
    """Return the platform of rempart.yaml without databases. Decisions stay in memory until a ledger exists."""
    return Platform(configuration.load(), connections, ledger_=MemoryLedger())


def identity_of(platform: Platform, file: Path | None) -> age.Identity:
    """Return the identity that opens the keys: from a file, else the platform's own. Raises ConfigError."""
    if file:
        return age.read_identity_file(file)
    try:
        return own_identity(platform.connections)
    except ConnectionMissing as cause:
        raise ConfigError(
            "No identity can open the keys of the backups",
            f"Pass the identity file of an escrow recipient with --identity, or define connection {CONNECTION}.",
        ) from cause


def trusted_of(files: Sequence[Path], known: Callable[[], Mapping[str, bytes]]) -> dict[str, bytes]:
    """Return the public keys that verify a restore point, by id: from the files, else `known`.

    Raises ConfigError, LedgerError.
    """
    if not files:
        try:
            return dict(known())
        except RempartError as cause:
            raise ConfigError(
                f"No public key can verify the restore points ({cause.what})",
                "Pass the public key with --trust: public.pem, as `rempart ledger export` writes it, stored with "
                "the identity.",
            ) from cause
    found = {}
    for file in files:
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as cause:
            raise ConfigError(
                f"Public key file {file} cannot be read ({type(cause).__name__})", "Pass a file in PEM format."
            ) from cause
        for pem in _PEM.findall(text) or [text]:
            public = parse_public(pem)
            found[key_id(public)] = public
    return found


def verified(stored: Sequence[StoredLink], trusted: Mapping[str, bytes], *, before_break: bool = False) -> list[Link]:
    """Return every link, verified; with `before_break` only those before the first invalid link.

    Raises IntegrityError.
    """
    try:
        return chain.verify(stored, trusted)
    except IntegrityError:
        if not before_break:
            raise
    low, high = 0, len(stored) - 1  # at least `low` links verify, at most `high`
    while low < high:
        middle = (low + high + 1) // 2
        try:
            chain.verify(stored[:middle], trusted)
            low = middle
        except IntegrityError:
            high = middle - 1
    return chain.verify(stored[:low], trusted)


@dataclass
class Keys:
    """Keys of encryption scopes, each opened once from the first keyring that has it. Thread-safe."""

    rings: Sequence[Keyring]
    _opened: dict[tuple[str, str], ScopeKey] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, scope: str, serial: str) -> ScopeKey:
        """Return the key of an encryption scope.

        Raises KeyMissing, KeyWrong, KeyRotated, KeyDestroyed, IntegrityError, SiteError.
        """
        with self._lock:
            if (scope, serial) not in self._opened:
                self._opened[scope, serial] = self._open(scope, serial)
            return self._opened[scope, serial]

    def of_sealed(self, sealed: SealedObject) -> ScopeKey:
        return self.of(sealed.scope, sealed.serial)

    def _open(self, scope: str, serial: str) -> ScopeKey:
        first: RempartError | None = None
        for ring in self.rings:
            try:
                return ring.open(parse(scope), serial)
            except (KeyMissing, IntegrityError) as error:
                first = first or error
            except RempartError as error:
                if first is None:
                    raise  # an error of the backup site; other sites are asked only for keys that it lacks
                raise first from error
        raise first or KeyMissing(f"No site to read the key of {scope} from", "Pass a site with --site.")

    def destroyed(self) -> set[tuple[str, str]]:
        """Return scope and serial of each key that is marked as destroyed at the backup site."""
        return {(card.scope, card.serial) for card in self.rings[0].cards() if card.destroyed}


@dataclass(frozen=True)
class FoundPoints:
    """Restore points of a site: verified links in order, and the points that have a manifest.

    `trusted` holds the public keys used for verification, by id; `lost` the points whose link is marked as lost.
    """

    platform: Platform
    site: Site
    links: Sequence[Link]
    present: Collection[str]
    trusted: Mapping[str, bytes] = field(default_factory=dict)
    lost: Collection[str] = frozenset()


@dataclass(frozen=True)
class OpenPoint:
    """A chosen and verified restore point. `others` are further sites that may hold its objects."""

    platform: Platform
    site: Site
    link: Link
    manifest: Manifest
    keys: Keys
    others: tuple[Site, ...]
    trusted: Mapping[str, bytes] = field(default_factory=dict)

    def repository(self, dump: Dump) -> Repository:
        """Return the repository of a database's dump.

        Raises KeyMissing, KeyWrong, KeyRotated, KeyDestroyed, IntegrityError, SiteError.
        """
        key, platform = self.keys.of(dump.scope, dump.serial), self.platform
        return repository_of(platform.config, platform.connections, self.site.name, key)

    def copies(self) -> ObjectSources:
        """Return where copies of the point's objects are."""
        config = self.platform.config
        return ObjectSources(
            self.site,
            config.buckets.backups,
            lambda logical: physical_bucket(config, logical),
            self.keys.of_sealed,
            self.others,
        )

    def secrets(self) -> dict[str, str]:
        """Return the platform's secrets. The caller must not log them.

        Raises KeyMissing, KeyWrong, KeyRotated, KeyDestroyed, IntegrityError, SiteError.
        """
        kept = self.manifest.secrets
        with spool_folder() as folder:
            file, key = folder / "secrets", self.keys.of_sealed(kept.sealed)
            backups = self.platform.config.buckets.backups
            unseal(self.site, backups, key, kept.sealed, file, sha256=kept.sha256, size=kept.size)
            return platform_secrets.decode(file.read_bytes())


def find(platform: Platform, wish: Wish, trusted: Mapping[str, bytes], site: Site | None = None) -> FoundPoints:
    """Read and verify the chain of an opened site (default: the site of the wish). With `force` and a named point, stop
    at the first break.

    Raises IntegrityError, SiteError, PlacementDenied, ConnectionMissing.
    """
    site, bucket = site or site_of_points(platform, wish.site), platform.config.buckets.backups
    stored = chain.read(site, bucket, trusted, named=hashes(named_links(platform.ledger, site.name, bucket)))
    links = verified(stored, trusted, before_break=wish.force and wish.point is not None)
    lost = chain.lost_points(stored, trusted)
    return FoundPoints(platform, site, links, frozenset(points.list(site, bucket)), trusted, lost)


def site_of_points(platform: Platform, name: str) -> Site:
    """Return a declared site, opened for restore points. Raises ConfigError, PlacementDenied, ConnectionMissing."""
    if name not in platform.config.sites:
        declared = ", ".join(platform.config.sites)
        raise ConfigError(f"Site '{name}' is not declared in rempart.yaml", f"Use one of: {declared}.")
    home = platform.config.active_site
    return platform.site(
        name, classification_of(load_all()), "restore-point", replica_of=home if home != name else None
    )


def open_point(found_points: FoundPoints, wish: Wish, identity: age.Identity) -> OpenPoint:
    """Choose the point and read its manifest. Raises IntegrityError, BackupError, SiteError."""
    platform, site = found_points.platform, found_points.site
    link = restore_plan.choose(
        found_points.links, found_points.present, wish.point, force=wish.force, lost=found_points.lost
    )
    bucket = platform.config.buckets.backups
    manifest = points.read(site, bucket, link.point, link.manifest_sha256)
    others = _others(platform.openers(classification_of(load_all())), site.name)
    rings = [Keyring((KeyPlace(place, bucket),), identity, (), platform.clock) for place in (site, *others)]
    return OpenPoint(platform, site, link, manifest, Keys(rings), others, found_points.trusted)


def _others(openers: Mapping[str, Callable[[], Site]], name: str) -> tuple[Site, ...]:
    """Return the other configured sites that can be opened. Whether a site answers is known at its first request."""
    opened = []
    for other, open_other in openers.items():
        if other == name:
            continue
        try:
            opened.append(open_other())
        except RempartError:
            continue  # without credentials, or against the policy: the site serves nothing
    return tuple(opened)


def plan(point: OpenPoint, wish: Wish, tools: postgresql.Tools | None = None) -> Selection:
    """Return the restore plan, after checking that every key for it is available.

    Raises BackupError, KeyMissing, KeyWrong, KeyRotated, KeyDestroyed, SiteError.
    """
    named = [part.name for part in wish.parts if part.kind == "model"]
    models = model_folders(point, named, tools or postgresql.find_tools()) if named else {}
    selection = restore_plan.select(point.manifest, wish.parts, models, point.keys.destroyed())
    for scope, serial in restore_plan.keys_needed(point.manifest, selection):
        point.keys.of(scope, serial)
    return selection


def model_folders(point: OpenPoint, names: Sequence[str], tools: postgresql.Tools) -> dict[str, tuple[str, ...]]:
    """Return the folders of the models' versions and of their jobs in the artifact bucket, from MLflow's dump.

    Raises BackupError for an unknown model.
    """
    config, dump = point.platform.config, point.manifest.database("mlflow")
    with spool_folder() as folder:
        file = folder / "mlflow.dump"
        point.repository(dump).dump_file(dump.snapshot, file_name("mlflow"), file)
        versions = dump_tables.rows(tools, file, "model_versions")
        jobs = job_folders(dump_tables.rows(tools, file, "model_version_tags"))
    located = [
        (str(row["name"]), str(row["version"]), str(row.get("storage_location") or row["source"]))
        for row in versions
        if row.get("current_stage") != "Deleted_Internal"
    ]
    logical = {physical_bucket(config, name): name for name in BUCKETS}
    found = {}
    for name in names:
        wanted = references.of_models((model for model in located if model[0] == name), logical)
        found[name] = tuple(model.key for model in wanted if model.bucket == "artifacts")
        live = {version for model, version, _ in located if model == name}
        found[name] += tuple(folder for version, folder in jobs.get(name, {}).items() if version in live)
        if not found[name]:
            known = ", ".join(sorted({model[0] for model in located})) or "none"
            raise BackupError(
                f"Restore point {point.manifest.id} has no model '{name[:60]}'", f"Choose one of its models: {known}."
            )
    return found


def job_folders(tags: Iterable[Mapping[str, str | None]]) -> dict[str, dict[str, str]]:
    """Return the folder of the training job of each model's versions, from the tags of MLflow's versions. Pure.

    A champion needs the job's model, features and metrics as they are on record, besides the files that MLflow serves.
    """
    found: dict[str, dict[str, str]] = {}
    for tag in tags:
        if tag["key"] == JOB_TAG and re.fullmatch(r"[0-9a-z]{1,64}", tag["value"] or ""):
            found.setdefault(str(tag["name"]), {})[str(tag["version"])] = f"jobs/{tag['value']}/"
    return found
