"""A restore point as a stranger to it finds it: the chain verified, the point chosen, its manifest read, keys opened.

Nothing here needs the platform that made it: a site, an age identity and public keys of the ledger are enough.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rempart.backup.databases import dump_tables, postgresql
from rempart.backup.databases.stored_dumps import file_name
from rempart.backup.keys import age, platform_secrets
from rempart.backup.keys.domains import parse
from rempart.backup.keys.keyring import CONNECTION, Keyring, Place
from rempart.backup.keys.wrapping import DomainKey
from rempart.backup.points import chain, points, references, restoring
from rempart.backup.points.chain import Link, Stored
from rempart.backup.points.points import Manifest
from rempart.backup.points.restoring import Part, Selection
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import SealedObject
from rempart.errors import BackupError, ConfigError, ConnectionMissing, IntegrityError, KeyMissing, RempartError
from rempart.flows.backup.mend_links import hashes, named_links
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.pairs import BUCKETS, physical_bucket
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.keys import key_id, parse_public
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config as configuration
from rempart.settings.config import Connections
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.S)


@dataclass(frozen=True)
class Wish:
    """What is asked for: a point of a site (the newest that lacks nothing unless named), and which parts of it.

    `aside`: beside the platform's own, under names that end in it. `i_know`: what is refused otherwise is done.
    `active`: the site that serves afterwards, and where the objects are to be; by default the one of the point.
    """

    site: str
    point: str | None = None
    parts: tuple[Part, ...] = ()
    aside: str | None = None
    i_know: bool = False
    active: str | None = None


def detached(connections: Connections = configuration.environment_connections) -> Platform:
    """The platform of rempart.yaml without its databases: decisions are kept in memory, until there is a ledger."""
    return Platform(configuration.load(), connections, ledger_=MemoryLedger())


def identity_of(platform: Platform, file: Path | None) -> age.Identity:
    """The identity that opens the keys: of a file, else the platform's own. Raises ConfigError."""
    if file:
        return age.read_identity_file(file)
    try:
        return own_identity(platform)
    except ConnectionMissing as cause:
        raise ConfigError(
            "There is no identity to open the keys of backups with",
            f"Name the file of an escrow recipient with --identity, or define connection {CONNECTION}.",
        ) from cause


def trusted_of(files: Sequence[Path], known: Callable[[], Mapping[str, bytes]]) -> dict[str, bytes]:
    """The public keys that may vouch for a point, by id: of the files, else `known`.

    Raises ConfigError, LedgerError.
    """
    if not files:
        try:
            return dict(known())
        except RempartError as cause:
            raise ConfigError(
                f"There is no public key to verify the restore points with ({cause.what})",
                "Name its file with --trust: public.pem, as `rempart ledger export` writes it, kept with the identity.",
            ) from cause
    found = {}
    for file in files:
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as cause:
            raise ConfigError(f"{file} cannot be read ({type(cause).__name__})", "Name a file in PEM.") from cause
        for one in _PEM.findall(text) or [text]:
            public = parse_public(one)
            found[key_id(public)] = public
    return found


def verified(stored: Sequence[Stored], trusted: Mapping[str, bytes], *, before_break: bool = False) -> list[Link]:
    """Every link, verified; with `before_break` those before the first that is not. Raises IntegrityError."""
    try:
        return chain.verify(stored, trusted)
    except IntegrityError:
        if not before_break:
            raise
    low, high = 0, len(stored) - 1  # so many verify; more than so many do not
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
    """The keys of erasure domains, opened once each, from the first keyring that has them. Safe for several threads."""

    rings: Sequence[Keyring]
    _opened: dict[tuple[str, str], DomainKey] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, domain: str, serial: str) -> DomainKey:
        """Raises KeyMissing, KeyWrong, KeyRotated, KeyDestroyed, IntegrityError, SiteError."""
        with self._lock:
            if (domain, serial) not in self._opened:
                self._opened[domain, serial] = self._open(domain, serial)
            return self._opened[domain, serial]

    def of_sealed(self, sealed: SealedObject) -> DomainKey:
        return self.of(sealed.domain, sealed.serial)

    def _open(self, domain: str, serial: str) -> DomainKey:
        first: RempartError | None = None
        for ring in self.rings:
            try:
                return ring.open(parse(domain), serial)
            except (KeyMissing, IntegrityError) as error:
                first = first or error
            except RempartError as error:
                if first is None:
                    raise  # of the backup site; the others are only asked for what it lacks
                raise first from error
        raise first or KeyMissing(f"There is no site to read the key of {domain} from", "Name one with --site.")

    def destroyed(self) -> set[tuple[str, str]]:
        """Domain and serial of each key that the backup site calls destroyed."""
        return {(card.domain, card.serial) for card in self.rings[0].cards() if card.destroyed}


@dataclass(frozen=True)
class Found:
    """The restore points of a site: links, verified and in order, and which points have a manifest.

    `trusted`: the public keys that they were verified with, by id. `lost`: points whose link is marked as lost.
    """

    platform: Platform
    site: Site
    links: Sequence[Link]
    present: Collection[str]
    trusted: Mapping[str, bytes] = field(default_factory=dict)
    lost: Collection[str] = frozenset()


@dataclass(frozen=True)
class OpenPoint:
    """A point that was chosen and verified; `others` are the sites that may have its objects, too."""

    platform: Platform
    site: Site
    link: Link
    manifest: Manifest
    keys: Keys
    others: tuple[Site, ...]
    trusted: Mapping[str, bytes] = field(default_factory=dict)

    def secrets(self) -> dict[str, str]:
        """What the platform's secrets were. Never log it. Raises KeyMissing and its like, IntegrityError, SiteError."""
        kept = self.manifest.secrets
        with spool_folder() as folder:
            file, key = folder / "secrets", self.keys.of_sealed(kept.sealed)
            backups = self.platform.config.buckets.backups
            unseal(self.site, backups, key, kept.sealed, file, sha256=kept.sha256, size=kept.size)
            return platform_secrets.decode(file.read_bytes())


def find(platform: Platform, wish: Wish, trusted: Mapping[str, bytes]) -> Found:
    """Read and verify the chain of a site. Raises IntegrityError, SiteError, PlacementDenied, ConnectionMissing."""
    site = site_of_points(platform, wish.site)
    bucket = platform.config.buckets.backups
    stored = chain.read(site, bucket, trusted, named=hashes(named_links(platform, site)))
    links = verified(stored, trusted, before_break=wish.i_know and wish.point is not None)
    lost = chain.lost_points(stored, trusted)
    return Found(platform, site, links, frozenset(points.list(site, bucket)), trusted, lost)


def site_of_points(platform: Platform, name: str) -> Site:
    """A declared site as one of restore points. Raises ConfigError, PlacementDenied, ConnectionMissing."""
    if name not in platform.config.sites:
        declared = ", ".join(platform.config.sites)
        raise ConfigError(f"There is no site '{name}' in rempart.yaml", f"Declared: {declared}.")
    home = platform.config.active_site
    return platform.site(name, classification_of(load_all()), "restore-point", beside=home if home != name else None)


def open_point(found: Found, wish: Wish, identity: age.Identity) -> OpenPoint:
    """Choose the point and read its manifest. Raises IntegrityError, BackupError, SiteError."""
    platform, site = found.platform, found.site
    link = restoring.choose(found.links, found.present, wish.point, i_know=wish.i_know, lost=found.lost)
    bucket = platform.config.buckets.backups
    manifest = points.read(site, bucket, link.point, link.manifest_sha256)
    others = _others(platform, site.name)
    rings = [Keyring((Place(one, bucket),), identity, (), platform.clock) for one in (site, *others)]
    return OpenPoint(platform, site, link, manifest, Keys(rings), others, found.trusted)


def _others(platform: Platform, name: str) -> tuple[Site, ...]:
    """The other sites of the configuration that can be asked; whether they answer is seen when they are."""
    opened = []
    for other in platform.config.sites:
        if other == name:
            continue
        try:
            opened.append(platform.site(other, classification_of(load_all())))
        except RempartError:
            continue  # no credentials here, or the policy does not allow it: it serves nothing
    return tuple(opened)


def plan(point: OpenPoint, wish: Wish, tools: postgresql.Tools | None = None) -> Selection:
    """What is restored, and that every key for it is there. Raises BackupError (KeyMissing and its like), SiteError."""
    named = [part.name for part in wish.parts if part.kind == "model"]
    models = model_folders(point, named, tools or postgresql.find_tools()) if named else {}
    selection = restoring.select(point.manifest, wish.parts, models, point.keys.destroyed())
    for domain, serial in restoring.keys_needed(point.manifest, selection):
        point.keys.of(domain, serial)
    return selection


def model_folders(point: OpenPoint, names: Sequence[str], tools: postgresql.Tools) -> dict[str, tuple[str, ...]]:
    """Where in the bucket of artifacts the versions of models are, by the dump of MLflow's database.

    Raises BackupError for a model that it does not know.
    """
    config, dump = point.platform.config, point.manifest.database("mlflow")
    key = point.keys.of(dump.domain, dump.serial)
    with spool_folder() as folder:
        file = folder / "mlflow.dump"
        repository_of(point.platform, point.site.name, key).dump_file(dump.snapshot, file_name("mlflow"), file)
        versions = dump_tables.rows(tools, file, "model_versions")
    located = [
        (str(row["name"]), str(row["version"]), str(row.get("storage_location") or row["source"]))
        for row in versions
        if row.get("current_stage") != "Deleted_Internal"
    ]
    logical = {physical_bucket(config, name): name for name in BUCKETS}
    found = {}
    for name in names:
        wanted = references.of_models((one for one in located if one[0] == name), logical)
        found[name] = tuple(one.key for one in wanted if one.bucket == "artifacts")
        if not found[name]:
            known = ", ".join(sorted({one[0] for one in located})) or "none"
            raise BackupError(f"Restore point {point.manifest.id} knows no model '{name[:60]}'", f"It knows: {known}.")
    return found
