"""Search erased rows in listings that are checked against the known objects of a site.

If a listing hid an object, its rows would be left although the erasure looks complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rempart.counts import counted
from rempart.errors import IntegrityError, ObjectMissing, RequestInvalid, SiteError
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.replication_pairs import physical_bucket
from rempart.ingestion import erasing, snapshots
from rempart.replication.continuity import Continuity
from rempart.settings.config import Config
from rempart.sites.port import ObjectInfo, Site

WORKERS = 8
Version = tuple[str, str | None]
"""An object key with the id of one version; None for the newest."""


def known(config: Config, continuity: Continuity, pipeline: str, site: Site) -> list[Version]:
    """Return the objects that hold a pipeline's rows at a site, by the catalogues of its pairs and its snapshot.

    Objects behind a delete marker are among them. Ask before the site is listed: an object made later is in no listing.

    Raises SiteError, DatabaseUnavailable.
    """
    bucket, found = config.buckets.lake, list[Version]()
    for pair in config.replication:
        if bucket not in [physical_bucket(config, name) for name in pair.buckets]:
            continue
        for source, target in ((pair.source, pair.target), (pair.target, pair.source)):
            if site.name in (source, target):
                rows = (row for row in continuity.catalogue(source, target).rows(bucket) if not row.marker)
                found += (
                    (row.key, (row.version if site.name == source else row.target_version) or None)
                    for row in rows
                    if erasing.kind_of(row.key, pipeline)
                )
    with suppress(ObjectMissing, IntegrityError):  # the search itself reports a damaged manifest
        if current := snapshots.current(site, bucket, pipeline):
            found += ((part.key, None) for part in current.parts)
            found += (
                (f"raw/{pipeline}/{delivery['sha256']}/{delivery['file']}", None) for delivery in current.deliveries
            )
    return list(dict.fromkeys(found))


def doubt(site: Site, bucket: str, versions: Sequence[Version], listed: Sequence[ObjectInfo]) -> None:
    """Check a listing against `versions`. Raises SiteError if it lacks versions that a request by name finds."""
    shown: set[Version] = {(info.key, info.version_id) for info in listed if not info.marker}
    shown |= {(info.key, None) for info in listed}
    lacking = [key for key in versions if key not in shown]

    def is_there(version: Version) -> bool:
        try:
            site.head(bucket, version[0], version_id=version[1])
        except (ObjectMissing, RequestInvalid):  # a version id of an earlier site may have another form
            return False
        return True

    hidden = [key for key, there in zip(lacking, bounded_map(lacking, is_there, WORKERS), strict=True) if there]
    if hidden:
        raise SiteError(
            f"list {bucket} at site '{site.name}': the listing lacks {counted(len(hidden), 'existing version')}, for "
            f"example {hidden[0][0][:80]!r}",
            "Run the erasure again in some minutes; if it fails again, ask the operator of the site. The listing "
            "is empty, stale or incomplete, so rows in hidden objects would be left.",
        )
