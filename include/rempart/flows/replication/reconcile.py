"""Reconcile two sites that were both written: adopt objects of one site, keep both versions of conflicting keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rempart.coordination.active import was_active
from rempart.errors import IntegrityError, ObjectMissing
from rempart.flows.doctor.doctor_site import last_record
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.ledger.port import Ledger
from rempart.replication.continuity import Continuity
from rempart.replication.divergence import KnownVersion, aside, diverged
from rempart.replication.transfer import stored_sha256
from rempart.replication.vouching import vouch
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all
from rempart.sites.digests import of_file
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder
from rempart.training.attempts.checkpoints import is_checkpoint


@dataclass(frozen=True)
class Reconciled:
    """Result of a reconciliation: adopted and conflicting `bucket/key`; `kept` is the prefix of the other versions."""

    adopted: tuple[str, ...]
    conflicts: tuple[str, ...]
    kept: str

    def as_json(self) -> dict[str, Any]:
        return {
            "adopted": list(self.adopted[:100]),
            "adopted_count": len(self.adopted),
            "conflicts": list(self.conflicts[:1000]),
            "conflicts_count": len(self.conflicts),
            "kept": self.kept if self.conflicts else None,
        }


def reconcile(
    config: Config,
    ledger: Ledger,
    continuity: Continuity,
    active: Site,
    other: Site,
    generation: int,
    *,
    write: bool,
) -> Reconciled:
    """Copy objects that only the other site has to the active site. Run it before a replication overwrites them.

    Changes that were not replicated yet are adopted, oldest first. If both sites wrote a key, the version of the active
    site stays current, and the other version goes to `conflicts/<generation>/`. Safe to repeat. With `write=False`
    nothing changes. Raises SiteError.
    """
    first = config.active_site
    history = continuity.active_sites(first).history()
    record = last_record(ledger, other)
    proven = record is not None and record.outcome("MD5 ETags") == "proven"
    adopted: list[str] = []
    conflicts: list[str] = []
    for name in BUCKETS:
        bucket = physical_bucket(config, name)
        there = {info.key: info for info in _listed(active, bucket)}
        divergence = diverged(
            _listed(other, bucket),
            there.values(),
            _known(continuity, other.name, active.name, bucket),
            _known(continuity, active.name, other.name, bucket),
            lambda at: was_active(history, first, other.name, at),
        )
        both = list(divergence.both)
        for info in divergence.adopt:
            seen = there.get(info.key)
            if seen and _same(other, active, bucket, info.key):
                continue
            if write and not _still(active, bucket, info.key, seen):  # a pipeline wrote it since the listing
                both.append(info)
                continue
            if write:
                carry(other, active, bucket, info.key, md5_etags=proven)
            adopted.append(f"{bucket}/{printable_key(info.key)}")
        for info in both:
            if _same(other, active, bucket, info.key):
                continue
            if write:
                carry(other, active, bucket, info.key, aside(generation, info.key), md5_etags=proven)
            conflicts.append(f"{bucket}/{printable_key(info.key)}")
    return Reconciled(tuple(adopted), tuple(conflicts), f"conflicts/{generation}/ at '{active.name}'")


def _known(continuity: Continuity, source: str, other: str, bucket: str) -> Iterator[KnownVersion]:
    """Return the versions at site `source` that `other` has or had, from the catalogues of both directions."""
    for replica in continuity.catalogue(source, other).rows(bucket):
        yield KnownVersion(replica.key, replica.etag)
    for replica in continuity.catalogue(other, source).rows(bucket):
        yield KnownVersion(replica.key, replica.target_etag)


def _listed(site: Site, bucket: str) -> list[ObjectInfo]:
    # a job's checkpoints live for minutes and are not replicated
    return [info for info in site.list(bucket) if not is_checkpoint(info.key)]


def printable_key(key: str) -> str:
    """Return a key in a form that evidence can hold."""
    return key if key.isprintable() and key.isascii() else ascii(key)


def _still(site: Site, bucket: str, key: str, seen: ObjectInfo | None) -> bool:
    try:
        now = site.head(bucket, key)
    except ObjectMissing:
        return seen is None
    return seen is not None and (now.etag, now.size) == (seen.etag, seen.size)


def _same(site_a: Site, other: Site, bucket: str, key: str) -> bool:
    """Return whether both sites have the same version of a key, by the writers' records or by the stored bytes.

    A replica whose bytes differ from its own record is damaged, not another version: a replication replaces it.
    """
    try:
        mine, theirs = site_a.head(bucket, key), other.head(bucket, key)
        if mine.sha256 and mine.sha256 == theirs.sha256:
            return True
        if mine.size != theirs.size:
            return False
        first, second = (
            info.sha256 or stored_sha256(site, bucket, key) for info, site in ((mine, site_a), (theirs, other))
        )
    except ObjectMissing:
        return False
    return first == second


def carry(source: Site, target: Site, bucket: str, key: str, to: str | None = None, *, md5_etags: bool = False) -> bool:
    """Copy one object and read it back. Return False if the target had the same bytes or the source lost the object.

    `md5_etags`: the source is proven to return the MD5 as ETag, which is then compared. Raises IntegrityError,
    SiteError.
    """
    to = to or key
    try:
        head = source.head(bucket, key)
        with spool_folder() as folder:
            file = folder / "body"
            with source.open(bucket, key, version_id=head.version_id) as stream, file.open("wb") as spool:
                shutil.copyfileobj(stream, spool, 1 << 20)
            checks = None if head.sha256 else source.checks(bucket, key, version_id=head.version_id)
            came = of_file(file, checks.part if checks else 0)
            where = f"get {bucket}/{key} at site '{source.name}'"
            if came.size != head.size:
                raise IntegrityError(
                    f"{where}: received {came.size} bytes, {head.size} were announced",
                    "Run again. If it fails again, ask the operator of the site. Nothing was adopted.",
                )
            vouch(where, head, checks, came, md5_etags=md5_etags)
            digest = came.sha256
            if _holds(target, bucket, to, digest):
                return False
            metadata = {name: value for name, value in head.metadata.items() if name != "sha256"}
            kind = head.content_type or "application/octet-stream"
            target.write_file(bucket, to, file, metadata=metadata, content_type=kind)
    except ObjectMissing:
        return False
    if not _holds(target, bucket, to, digest):
        raise IntegrityError(
            f"read back {bucket}/{to} at site '{target.name}': its bytes differ from those stored",
            "Run again. If it fails again, stop using this site and ask its operator.",
        )
    return True


def _holds(site: Site, bucket: str, key: str, digest: str) -> bool:
    try:
        return stored_sha256(site, bucket, key) == digest
    except ObjectMissing:
        return False


def before_bringing(platform: Platform, source: str, target: str) -> None:
    """Keep a target's own versions before the active site's versions replace them, if the platform ever moved.

    The result is evidence. Raises SiteError, PlacementDenied.
    """
    active = platform.active()
    if active.generation == 0 or active.site != source:
        return
    classification = classification_of(load_all())
    here, there = platform.site(source, classification), platform.site(target, classification)
    found = reconcile(platform.config, platform.ledger, platform.continuity, here, there, active.generation, write=True)
    if found.adopted or found.conflicts:
        platform.ledger.append("failover", f"{source}->{target}", {"step": "diff", **found.as_json()})
