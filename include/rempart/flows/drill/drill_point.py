"""Choose the restore point of a drill, and open it if the ledger and the chain attest it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime

from rempart.backup.databases.not_held import is_whole
from rempart.backup.keys.keyring import KeyPlace
from rempart.backup.points import chain, points
from rempart.coordination.active import backup_site
from rempart.errors import BackupError, IntegrityError
from rempart.flows.restore.restore_source import Keys, OpenPoint, Wish, find
from rempart.flows.shared.keys import open_keyring
from rempart.flows.shared.platform import Platform, classification_of
from rempart.ledger.port import Ledger
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site


def site_of_point(platform: Platform, point_id: str | None) -> Site:
    """Return the site of a restore point (default: the newest on record).

    After a switchover, new points are stored at another site.
    """
    for record in platform.ledger.find("restore-point", point_id, limit=1):
        return open_site(platform, str(record.body["site"]))
    return open_site(platform, backup_site(platform.config, platform.active().site))


def open_site(platform: Platform, name: str) -> Site:
    """Return a site, opened for restore points. Raises PlacementDenied, ConnectionMissing."""
    active = platform.active().site
    replica_of = active if active != name else None
    return platform.site(name, classification_of(load_all()), "restore-point", replica_of=replica_of)


def choose(ledger: Ledger, site: Site, backups: str, point_id: str | None) -> str:
    """Return the named point, else the newest complete one, else the newest. Raises BackupError if there is none."""
    if point_id is not None:
        return points.valid_id(point_id)
    if not (found := points.list(site, backups)):
        raise BackupError(f"Site '{site.name}' holds no restore point", "Run the DAG backup_platform first.")
    lacking = {record.subject for record in ledger.find("restore-point") if not is_whole(record.body)}
    return next((point for point in found if point not in lacking), found[0])


def newest_whole(ledger: Ledger, site: Site, backups: str) -> datetime | None:
    """Return the creation time of the newest complete point that the site and the ledger have."""
    records = {record.subject: record for record in ledger.find("restore-point")}
    for point in points.list(site, backups):
        if point in records and is_whole(records[point].body):
            return points.created_at(point)
    return None


def manifest_of(ledger: Ledger, site: Site, backups: str, point_id: str) -> points.Manifest:
    """Return the manifest of a point, equal to its record in the ledger. Raises IntegrityError, SiteError."""
    records = ledger.find("restore-point", point_id, limit=1)
    if not records:
        raise IntegrityError(
            f"The ledger has no record of restore point {point_id}: a stranger may have written it",
            "Choose another point. If its backup was killed before it wrote its record, the next backup replaces "
            "the point.",
        )
    return points.read(site, backups, point_id, str(records[0].body["manifest_sha256"]))


def open_attested(
    platform: Platform, site: Site, manifest: points.Manifest, *, before_break: bool
) -> tuple[OpenPoint, int]:
    """Open a point that the chain attests. Only the copies at its own site are used; other sites count as lost.

    Return the point and the number of valid links. With `before_break`, links before the first invalid one still attest
    their points. Raises IntegrityError if the chain is broken or names another manifest.
    """
    wish = Wish(site.name, manifest.id, force=before_break)
    found = find(platform, wish, platform.trusted_keys(), site)
    link = chain.of_point(found.links, manifest.id)
    if link.manifest_sha256 != hashlib.sha256(points.encode(manifest)).hexdigest():
        raise IntegrityError(
            f"Link {link.seq} of the chain attests another manifest of restore point {manifest.id}",
            "Choose another point, and find out who changed the backup bucket.",
        )
    # the platform's keyring has a second copy at the active site, which counts as lost
    keys = Keys([replace(open_keyring(platform), places=(KeyPlace(site, platform.config.buckets.backups),))])
    return OpenPoint(platform, site, link, manifest, keys, (), found.trusted), len(found.links)
