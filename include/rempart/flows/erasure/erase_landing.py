"""Find erased rows in deliveries that wait in the landing bucket, in every version at every site, and take them out.

Ingestion would refuse these rows, but after a reset the copies may wait for long, and a bucket with versions keeps what
was taken in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from rempart.errors import ObjectMissing, SiteError
from rempart.flows.distributed import orders
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.shared.deletion import versions_below
from rempart.ingestion import erasing, landing
from rempart.ingestion.erasing import IsErased
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site


@dataclass
class LandingScan:
    """Result of a search: `held` versions; rows without a readable key, and why files could not be searched, by object;
    why sites could not, by name.
    """

    held: list[HeldVersion] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def places(self) -> dict[str, int]:
        """Return the rows by site."""
        rows: dict[str, int] = {}
        for version in self.held:
            place = f"waiting deliveries at site '{version.site}'"
            rows[place] = rows.get(place, 0) + version.rows
        return rows


def search(stores: ErasureStores, pipeline: Pipeline, gone: IsErased, folder: Path) -> LandingScan:
    """Search every version of every file that waits for a pipeline. `folder` holds the replacements.

    A failed site is reported; the home site raises SiteError.
    """
    scan, bucket = LandingScan(), stores.config.buckets.landing
    for name, site in stores.sites.items():
        try:
            newest = set[str]()
            for info in versions_below(site, bucket, pipeline.source.prefix):
                current = info.key not in newest
                newest.add(info.key)
                if info.marker or not info.size:
                    continue
                file, left = folder / secrets.token_hex(16), folder / secrets.token_hex(16)
                digest = landing.fetch(site, bucket, info.key, file, version_id=info.version_id)
                cut = erasing.cut_delivery(file, pipeline, gone, left)
                file.unlink()
                if cut.unread and not cut.fault:
                    scan.unread[f"{bucket}/{info.key}"] = cut.unread
                if cut.fault:
                    scan.faults[f"{bucket}/{info.key}"] = cut.fault
                elif cut.file is not None:
                    held = HeldVersion(name, "delivery", info, digest, cut.rows, current, info.key, cut.file)
                    scan.held.append(held)
                else:
                    left.unlink(missing_ok=True)
        except ObjectMissing:  # it has no such bucket
            continue
        except SiteError as error:
            if name == stores.home:
                raise
            scan.silent[name] = error.what
    return scan


def store(stores: ErasureStores, scan: LandingScan) -> None:
    """Put the newest version of each file again without the rows, where it waits. Raises SiteError.

    A file that its supplier replaced meanwhile stays as it is; ingestion removes the rows.
    """
    bucket = stores.config.buckets.landing
    for version in scan.held:
        site = stores.sites[version.site]
        if version.current and version.file is not None and _stands(site, bucket, version):
            head = site.head(bucket, version.info.key)
            kept = {name: value for name, value in head.metadata.items() if name != "sha256"}
            site.write_file(bucket, version.info.key, version.file, metadata=kept, content_type=head.content_type)


def clear_jobs(stores: ErasureStores, pipeline: Pipeline) -> dict[str, str]:
    """Delete what Spark jobs of the pipeline left at each site: it may hold the rows, and a job makes it again.

    Return the other sites that did not answer, and why: the erasure is to be repeated. Raises SiteError of the home.
    """
    silent = dict[str, str]()
    for name, site in stores.sites.items():
        try:
            orders.clear(site, stores.lake, pipeline.name)
        except ObjectMissing:  # it has no such bucket
            continue
        except SiteError as error:
            if name == stores.home:
                raise
            silent[name] = error.what
    return silent


def _stands(site: Site, bucket: str, version: HeldVersion) -> bool:
    try:
        now = site.head(bucket, version.info.key)
    except ObjectMissing:  # it was taken in
        return False
    return (now.size, now.etag) == (version.info.size, version.info.etag)
