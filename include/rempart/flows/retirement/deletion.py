"""Delete all object versions below some prefixes of a bucket, at every site, and look again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.errors import ObjectMissing, SiteError
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.shared.deletion import versions_below
from rempart.ingestion import erasing


@dataclass(frozen=True)
class DeletedVersions:
    """Number of `deleted` versions; `locked`: those that stay until their lock ends; `left`: what could not go yet."""

    deleted: int
    locked: Mapping[str, datetime]
    left: tuple[str, ...]


def delete_below_all(stores: ErasureStores, bucket: str, prefixes: tuple[str, ...]) -> DeletedVersions:
    """Delete what is below the prefixes. Raises LeaseHeld, DatabaseUnavailable; a site's failure is in `left`."""
    held, silent = _held(stores, bucket, prefixes)
    condemned = {key for key in erase_versions.catalogued(stores, bucket) if erasing.original(key).startswith(prefixes)}
    gone = erase_versions.delete_versions(stores, held, bucket=bucket, condemned=condemned)
    seen, again = _held(stores, bucket, prefixes)
    still = [
        entry
        for entry in seen
        if not entry.info.marker and f"{bucket}/{entry.info.key} at site '{entry.site}'" not in gone.locked
    ]
    left = [f"site '{name}': {why}" for name, why in {**silent, **again, **gone.failed}.items()]
    left += [f"{len(still)} object versions in {bucket}, for example {still[0].info.key}"] if still else []
    return DeletedVersions(gone.rows, gone.locked, tuple(left))


def _held(stores: ErasureStores, bucket: str, prefixes: tuple[str, ...]) -> tuple[list[HeldVersion], dict[str, str]]:
    """Return the object versions at every site that go, and the sites that did not answer."""
    found, silent = list[HeldVersion](), dict[str, str]()
    for name, site in stores.sites.items():
        try:
            for prefix in prefixes:
                found += [
                    HeldVersion(name, "part", info, "", 0, current=False)
                    for info in versions_below(site, bucket, prefix)
                ]
        except ObjectMissing:  # the other site has no such bucket
            continue
        except SiteError as error:
            silent[name] = error.what
    return found, silent
