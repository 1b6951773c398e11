"""Listings in which erased rows are looked for, held against what is known to stand at the site.

A row in an object that a listing hides would be left, and the erasure would be called done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from rempart.errors import IntegrityError, ObjectMissing, SiteError
from rempart.flows.abreast import abreast
from rempart.flows.pairs import catalogue, physical_bucket
from rempart.flows.platform import Platform
from rempart.ingestion import erasing, snapshots
from rempart.sites.port import ObjectInfo, Site

WORKERS = 8
Version = tuple[str, str | None]
"""A key, and the id of one of its versions; None for the newest."""


def known(platform: Platform, site: Site, pipeline: str) -> Iterator[Version]:
    """What holds a pipeline's rows at a site by the catalogues of its pairs, and by its current snapshot.

    Raises SiteError, DatabaseUnavailable.
    """
    bucket = platform.config.buckets.lake
    for pair in platform.config.replication:
        if site.name not in (pair.source, pair.target):
            continue
        if bucket not in [physical_bucket(platform.config, name) for name in pair.buckets]:
            continue
        for row in catalogue(platform, pair.source, pair.target).rows(bucket):
            is_there = row.missing_since is None if site.name == pair.source else row.hidden is None
            if is_there and not row.marker and erasing.kind_of(row.key, pipeline):
                yield row.key, (row.version if site.name == pair.source else row.target_version) or None
    with suppress(ObjectMissing, IntegrityError):  # a damaged manifest is told by the search itself
        if current := snapshots.current(site, bucket, pipeline):
            yield from ((part.key, None) for part in current.parts)
            yield from ((f"raw/{pipeline}/{one['sha256']}/{one['file']}", None) for one in current.deliveries)


def doubt(platform: Platform, pipeline: str, site: Site, listed: Sequence[ObjectInfo]) -> None:
    """Raise SiteError for a listing that lacks what is there when it is asked for by name."""
    bucket = platform.config.buckets.lake
    shown: set[Version] = {(one.key, one.version_id) for one in listed if not one.marker}
    shown |= {(one.key, None) for one in listed}
    lacking = [one for one in dict.fromkeys(known(platform, site, pipeline)) if one not in shown]

    def is_there(one: Version) -> bool:
        try:
            site.head(bucket, one[0], version_id=one[1])
        except ObjectMissing:
            return False
        return True

    hidden = [one for one, there in zip(lacking, abreast(lacking, is_there, WORKERS), strict=True) if there]
    if hidden:
        raise SiteError(
            f"list {bucket} at site '{site.name}': the listing lacks {len(hidden)} versions that are there when they"
            f" are asked for by name, such as {hidden[0][0][:80]!r}",
            "The listing is empty, stale or incomplete, and rows in what it hides would be left. Run the erasure again "
            "in some minutes; if it lasts, ask the site's operator.",
        )
