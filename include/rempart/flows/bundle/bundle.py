"""Update, inspect and fetch the bootstrap bundle at the backup site."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from rempart.backup.bundle import bundle, open_bundle
from rempart.backup.bundle.bundle import BundleFile, BundleIdentity, Index
from rempart.backup.databases import restic
from rempart.coordination.active import backup_site
from rempart.counts import counted, size
from rempart.errors import BackupError, IntegrityError
from rempart.flows.backup.seal import AHEAD
from rempart.flows.bundle import bundle_contents
from rempart.flows.doctor.doctor_site import require
from rempart.flows.restore.restore_source import detached, trusted_of
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform, open_platform
from rempart.settings import config as configuration
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

ARCHIVE, PROGRAM = "code.tar.gz", "restic"


@dataclass(frozen=True)
class StoredBundle:
    """Result of storing a bundle: the key of its index, whether it is new, bytes sent, bytes in total."""

    key: str
    changed: bool
    sent: int
    bytes: int
    files: int


def store(platform: Platform, *, wheels: Path | None = None) -> StoredBundle:
    """Store the bundle of the running release at the backup site, unless it is there. Only changed files are sent.

    New wheels are fetched into the folder `wheels`. The locks of an existing bundle are extended some days before they
    end. Writes evidence of kind `bundle`. Raises BackupError, SiteError, PlacementDenied.
    """
    config, root = platform.config, configuration.project_root().resolve()
    site, bucket, keys = open_site(platform), config.buckets.backups, platform.trusted_keys()
    require(platform, site, "restore points")
    files = bundle_contents.project_files(root)
    program = restic.find_program()
    wanted = contents_of(root, files, program)
    needed = platform.clock() + kept_for(config.backup.keep)
    last = bundle.newest(site, bucket, keys, open_bundle.this_machine())
    known = {bundle.file_key(file): file for file in last[1].files.values()} if last else {}
    if last and last[1].contents == wanted:
        lacking = bundle.to_send(last[1], bundle.current(site, bucket), known)
        if not lacking:
            return _kept(site, bucket, *last, needed)
        logger.warning("%s: files are gone or altered, and are sent again: %s", last[0], ", ".join(lacking[:3]))
    bundle_contents.refuse_secrets(files, bundle_contents.variables())
    folder = wheels or configuration.var_dir() / "bundle" / "wheels"
    with spool_folder() as spool:
        brought = _Sources(root, folder, {ARCHIVE: spool / ARCHIVE, PROGRAM: program})
        held = {
            ARCHIVE: bundle_contents.archive(files, spool / ARCHIVE),
            PROGRAM: bundle_contents.held(program),
        }
        before = last[1] if last and last[1].contents.locks == wanted.locks else None
        held |= brought.wheels_of(before)
        signer = platform.signer()
        index = Index(platform.clock(), wanted, held, bundle_contents.ENTRY, signer.id)
        logger.info("sending a bundle of %d files (%s) to site '%s'", len(held), size(index.bytes), site.name)
        key, sent = bundle.store(site, bucket, index, signer, brought, needed + AHEAD, known, _progress(index))
    logger.info("sent %s for %s", size(sent), key)
    platform.ledger.append(
        "bundle",
        key,
        {
            "site": site.name,
            "contents": wanted.__dict__,
            "files": len(held),
            "bytes": index.bytes,
            "sent": sent,
            "locked_until": (needed + AHEAD).isoformat(timespec="seconds"),
            "open_bundle_sha256": opener_sha256(),
        },
    )
    return StoredBundle(key, True, sent, index.bytes, len(held))


def _kept(site: Site, bucket: str, key: str, index: Index, needed: datetime) -> StoredBundle:
    """Return an existing bundle, locked as long as a restore point written now may be kept."""
    ends = bundle.locked_until(site, bucket, key)
    if ends is None or ends < needed:
        bundle.extend(site, bucket, index, needed + AHEAD)
        bundle.lock(site, bucket, key, needed + AHEAD)
        logger.info("locked %s until %s", key, (needed + AHEAD).date())
    return StoredBundle(key, False, 0, index.bytes, len(index.files))


def opener_sha256() -> str:
    """Return the SHA-256 of the program that opens a bundle, as stored at the site."""
    return open_bundle.sha256_of(Path(open_bundle.__file__))


def open_site(platform: Platform) -> Site:
    """Return the backup site, for a bundle: it holds no data of the pipelines. Raises PlacementDenied."""
    active = platform.active().site
    return platform.site(backup_site(platform.config, active), "internal", "restore-point", replica_of=active)


def contents_of(root: Path, files: Mapping[str, Path], program: Path) -> BundleIdentity:
    """Return the contents of a bundle of this project."""
    locks = hashlib.sha256(b"".join((root / name).read_bytes() for name in bundle_contents.LOCKS)).hexdigest()
    code = bundle_contents.sha256_of_files(files)
    return BundleIdentity(locks, code, open_bundle.sha256_of(program), *open_bundle.this_machine())


def _progress(index: Index) -> Callable[[int], object]:
    told = [0]

    def tell(sent: int) -> None:
        if sent - told[0] >= 50e6:
            told[0] = sent
            logger.info("sent %.0f of at most %.0f MB", sent / 1e6, index.bytes / 1e6)

    return tell


@dataclass
class _Sources:
    """Finds a bundle's files on this machine. Wheels are fetched once, and only if one must be sent."""

    root: Path
    folder: Path
    known: dict[str, Path]
    fetched: bool = False

    def __call__(self, name: str) -> Path:
        if name not in self.known:
            self._fetch()
        if name not in self.known:
            raise BackupError(
                f"{name} of the bundle differs from what the lock now brings, and the site lost it",
                "Restore the file from the operator's versions of the bucket, or change the lock (`make lock`).",
            )
        return self.known[name]

    def wheels_of(self, before: Index | None) -> dict[str, BundleFile]:
        """Return the wheels of the lock: from an earlier bundle of the same lock, else fetched."""
        if before:
            return {name: before.files[name] for name in bundle_contents.names_of_wheels(before.files)}
        self._fetch()
        return {name: bundle_contents.held(self.known[name]) for name in bundle_contents.names_of_wheels(self.known)}

    def _fetch(self) -> None:
        if not self.fetched:
            paths = bundle_contents.wheels(self.root, self.folder)
            self.known |= {f"wheels/{name}": file for name, file in paths.items()}
            self.fetched = True


@dataclass(frozen=True)
class BundleState:
    """The bundle at the site compared with the running release. `stale` names what differs."""

    key: str | None
    index: Index | None
    stale: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.index is not None and not self.stale


def standing(platform: Platform) -> BundleState:
    """Compare the bundle with the running release. Raises BackupError, SiteError, PlacementDenied."""
    site, bucket, notes = open_site(platform), platform.config.buckets.backups, list[str]()
    machine = open_bundle.this_machine()
    last = bundle.newest(site, bucket, platform.trusted_keys(), machine)
    if last is None:
        notes.append(
            f"site '{site.name}' has no bundle for Python {machine[0]} on {machine[1]}: run `rempart bundle store`"
        )
        return BundleState(None, None, (), tuple(notes))
    key, index = last
    root = configuration.project_root().resolve()
    wanted = contents_of(root, bundle_contents.project_files(root), restic.find_program())
    stale = tuple(
        name for name in ("locks", "code", "restic") if getattr(wanted, name) != getattr(index.contents, name)
    )
    ends = bundle.locked_until(site, bucket, key)
    lock = f"locked until {ends:%Y-%m-%d}" if ends else "NOT LOCKED"
    notes += [
        f"{bucket}/{key} at site '{site.name}': {counted(len(index.files), 'file')}, {size(index.bytes)}",
        f"made on {index.at:%Y-%m-%d %H:%M} UTC for Python {machine[0]} on {machine[1]}, {lock}",
        f"it differs from the running release: {', '.join(stale)} changed"
        if stale
        else "it matches the running release",
        f"open_bundle.py has SHA-256 {opener_sha256()}: store it, or this line, with the escrowed keys",
    ]
    return BundleState(key, index, stale, tuple(notes))


def fetch_from(name: str, trust: Sequence[Path], folder: Path) -> Index:
    """Fetch from a declared site (default: `backup.site`), with public keys of files, else the platform's.

    Raises ConfigError, ConnectionMissing, PlacementDenied, and the errors of `fetch`.
    """
    platform = detached()
    site = platform.site(name or platform.config.backup.site, "internal", "restore-point")
    trusted = trusted_of(trust, lambda: open_platform().trusted_keys())
    return fetch(site, platform.config.buckets.backups, trusted, folder)


def fetch(site: Site, bucket: str, keys: Mapping[str, bytes], folder: Path) -> Index:
    """Fetch the newest bundle for this machine into a folder and check every file. Existing files are not fetched
    again.

    Raises BackupError, IntegrityError, SiteError.
    """

    def opened(key: str) -> AbstractContextManager[BinaryIO]:
        return site.open(bucket, key)

    names = [info.key for info in site.list(bucket, open_bundle.FOLDER)]
    try:
        plain = open_bundle.choose(names, opened, keys)
        came = open_bundle.bring(plain, opened, folder)
    except open_bundle.BundleRefused as cause:
        raise IntegrityError(f"No bundle of site '{site.name}' could be fetched: {cause}", bundle.ASK) from cause
    logger.info("fetched %s to %s: every file matches its signature", size(came), folder)
    return bundle.index_of(plain)
