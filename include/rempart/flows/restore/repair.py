"""Repair a backup site: uncover hidden objects and put back altered or deleted ones.

Locked write-once objects still exist beneath the version that hides them. An altered or deleted link of the chain is
restored from the ledger, which stores its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rempart.backup.points import erasures, locking
from rempart.backup.points.locking import Cover, KnownLocks
from rempart.errors import SessionExpired, SiteError, SiteUnavailable
from rempart.flows.backup.locks import is_altered, read_known, reads_the_same
from rempart.flows.backup.mend_links import Mended, mend
from rempart.flows.backup.point_store import open_site, store_at
from rempart.flows.restore.restore_source import detached, site_of_points, trusted_of
from rempart.flows.shared.platform import Platform, open_platform
from rempart.sites.port import ObjectInfo, Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repaired:
    """Result of a repair: the uncovered keys (with `dry_run`, the keys to uncover), each with the kind of version that
    hides it.

    `links` are the restored or lost links.
    """

    site: str
    dry_run: bool
    hidden: Mapping[str, str]
    links: Mended = field(default_factory=Mended)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.hidden)

    def lines(self) -> Iterator[str]:
        """Yield the repairs, done or planned, as lines for people."""
        if self.dry_run:
            for key, what in self.hidden.items():
                yield f"hidden: {key} ({what})"
            for seq in self.links.healed:
                yield f"link {seq} can be restored: {self.links.faults[seq]}"
        for seq in self.links.lost:
            yield f"link {seq} is lost: {self.links.faults[seq]}, and no site has an intact copy"
        yield f"site '{self.site}': {len(self.keys)} objects {'are hidden' if self.dry_run else 'were brought back'}"
        yield (
            f"the chain: links that {'can be' if self.dry_run else 'were'} put back: {len(self.links.healed)}, "
            f"lost: {len(self.links.lost)}"
        )


def repair(
    platform: Platform,
    where: str | None = None,
    *,
    dry_run: bool = True,
    mark_lost: bool = False,
) -> Repaired:
    """Uncover links, erasures, manifests and dumps at a site, and repair its chain. Write evidence of kind `repair`.

    With `mark_lost`, a link without an intact copy is marked as lost. Raises the errors of `uncover` and
    `mend_links.mend`.
    """
    site = open_site(platform, where)
    bucket = platform.config.buckets.backups
    known = read_known(site, bucket, platform.trusted_keys().values())
    done = uncover(site, bucket, known, dry_run=dry_run)
    if done.keys and not dry_run:
        platform.ledger.append("repair", site.name, {"count": len(done.keys), "keys": list(done.keys[:100])})
    return replace(done, links=mend(store_at(platform, site), dry_run=dry_run, mark_lost=mark_lost))


def command(where: str | None, trust: Sequence[Path], *, dry_run: bool, mark_lost: bool) -> Repaired:
    """Run `rempart backup repair`.

    With `trust` (public key files) no platform is needed. Raises the errors of `repair`.
    """
    if not trust:
        return repair(open_platform(), where, dry_run=dry_run, mark_lost=mark_lost)
    platform = detached()
    name, bucket = where or platform.config.backup.site, platform.config.buckets.backups
    site = site_of_points(platform, name)
    known = read_known(site, bucket, trusted_of(trust, dict).values())
    return uncover(site, bucket, known, dry_run=dry_run)


def warning(platform: Platform, where: str, trusted: Mapping[str, bytes]) -> str | None:
    """Return a warning before a restore if objects are hidden. Raises SiteError, IntegrityError."""
    site, bucket = site_of_points(platform, where), platform.config.buckets.backups
    covers = list(covered(site, bucket, read_known(site, bucket, trusted.values())))
    if not covers:
        return None
    return (
        f"{len(covers)} objects that restore points need are hidden at site '{where}', for example "
        f"{covers[0].right.key}: run `rempart backup repair`"
    )


def uncover(site: Site, bucket: str, known: KnownLocks | None, *, dry_run: bool = True) -> Repaired:
    """Uncover objects without a platform.

    Deletes delete markers and unlocked versions on top. If a locked version is on top, a copy of the right version is
    put on it. Objects that restic removed stay removed. Raises SiteError.
    """
    hidden = {}
    for cover in covered(site, bucket, known):
        what = "another version is on top" if cover.written_over else "a delete marker is on top"
        hidden[cover.right.key] = what
        if not dry_run:
            _take_away(site, bucket, cover)
            logger.info("brought back %s: %s", cover.right.key, what.replace("is on top", "was on top"))
    return Repaired(site.name, dry_run, hidden)


def covered(site: Site, bucket: str, known: KnownLocks | None) -> Iterator[Cover]:
    """Return every object that restore points need and that is hidden from readers. Raises SiteError."""
    needed = {key for key, _ in known.until} if known else None
    for prefix in (locking.CHAIN, erasures.PREFIX, locking.POINTS, locking.REPOSITORIES):
        for cover in locking.covers(locking.listed(site.versions(bucket, prefix))):
            if prefix == locking.REPOSITORIES and not cover.written_over:
                if needed is not None and cover.right.key not in needed:
                    continue  # restic removed it: no dump needs it
                if not site.retained_until(bucket, cover.right.key, str(cover.right.version_id)):
                    continue
            if cover.written_over and (
                reads_the_same(site, bucket, cover.right) or is_altered(site, bucket, cover.right)
            ):
                continue
            yield cover


def _take_away(site: Site, bucket: str, cover: Cover) -> None:
    above: list[ObjectInfo] = []
    for version in site.versions(bucket, cover.right.key):
        if version.key != cover.right.key:
            continue
        if version.version_id == cover.right.version_id:
            break
        above.append(version)
    for version in above:
        try:
            site.delete(bucket, version.key, version_id=version.version_id)
        except (SiteUnavailable, SessionExpired):
            raise
        except SiteError:  # the writer of that version locked it
            info, body = site.fetch(bucket, cover.right.key, version_id=cover.right.version_id)
            kept = {name: value for name, value in info.metadata.items() if name != "sha256"}
            site.write(bucket, cover.right.key, body, metadata=kept, content_type=info.content_type)
            return
