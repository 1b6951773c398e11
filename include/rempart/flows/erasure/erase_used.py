"""Erase copied feature values: an erasure in a pipeline is followed in every pipeline that uses its feature views.

The feature store of such a pipeline is loaded again from the source, which is clean by then. A value in a training set
need not tell of which rows it is made: it may be a mean of many. So a training set loses all values of the source,
unless the snapshot of which they are stands and is clean. Its rows stay, and what was trained on it stays comparable.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rempart.errors import ObjectMissing, RempartError, SiteError
from rempart.flows.erasure import erase_derived, erase_listing, erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_report import DescendantResult
from rempart.flows.erasure.erase_stores import ErasureStores, reload_features
from rempart.flows.ingestion import derived_run
from rempart.flows.shared import erasures, used_views
from rempart.flows.shared.used_views import USED
from rempart.ingestion import erasing, snapshots
from rempart.settings.expressions.across import ACROSS
from rempart.settings.pipelines import named_or_removed, names
from rempart.sites.port import ObjectInfo, Site

Held = tuple[HeldVersion, ObjectInfo, Sequence[str]]
"""A version of a training set, its head, and the sources of which it may have erased values."""


def follow(stores: ErasureStores, changed: Collection[str]) -> list[DescendantResult]:
    """Erase in every pipeline that uses views of `changed`, or ever did, what an erasure there leaves. Safe to repeat.

    What cannot be erased is pending, by name. Raises SiteError if the home site cannot be searched.
    """
    return [_follow(stores, user, sources) for user, sources in users(stores, changed).items()]


def users(stores: ErasureStores, changed: Collection[str]) -> dict[str, set[str]]:
    """Return every pipeline that uses views of `changed`, or ever did, and of which of these."""
    found = {user: set[str]().union(*views.values()) for user, views in used_views.users(stores.ledger).items()}
    return {user: own for user, sources in found.items() if (own := sources.intersection(changed))}


def _follow(stores: ErasureStores, user: str, sources: Collection[str]) -> DescendantResult:
    pending = dict(stores.shut)
    try:
        file = named_or_removed(user)  # whoever deleted the file by hand did not empty the feature store
        if user in names():  # a removed one has nothing in the feature store
            with stores.active_sites.committing(stores.active):
                reload_features(stores, stores.features(), file)
    except RempartError as error:
        pending[f"feature store of '{user}'"] = f"{error.what}. {error.hint}"
    found, stands = list[Held](), dict[tuple[str, str], bool]()
    for name, site in stores.sites.items():
        try:
            found += _training_sets(stores, site, user, sources, stands)
        except SiteError as error:
            if name == stores.home and not isinstance(error, ObjectMissing):
                raise
            pending[name] = error.what
    _rewrite(stores, user, found)
    held = [version for version, _, _ in found]
    condemned = erase_versions.condemn(stores, user, held, None)
    done = erase_versions.delete_versions(stores, held, condemned=condemned)
    return DescendantResult(user, done.rows, False, done.locked, {**pending, **done.failed}, uses=True)


def _training_sets(
    stores: ErasureStores, site: Site, user: str, sources: Collection[str], stands: dict[tuple[str, str], bool]
) -> Iterator[Held]:
    """Yield every version of training sets that may have erased values. `stands`: what is known of snapshots.

    Raises SiteError if the listing hides a version.
    """
    wanted = erase_listing.known(stores.config, stores.continuity, user, site)
    listed = [
        info for folder in (f"training/{user}/", erasing.CONFLICTS) for info in site.versions(stores.lake, folder)
    ]
    erase_listing.doubt(site, stores.lake, [version for version in wanted if _is_set(version[0], user)], listed)
    newest = set[str]()
    for info in listed:
        current = info.key not in newest and not info.key.startswith(erasing.CONFLICTS)
        newest.add(info.key)
        if info.marker or not _is_set(info.key, user):
            continue
        head = site.head(stores.lake, info.key, version_id=info.version_id)
        tainted = []
        for source, snapshot in used_views.read(head.metadata.get("used", "")).items():
            if source in sources and (source, snapshot) not in stands:
                stands[source, snapshot] = _is_clean(stores, source, snapshot)
            if not stands.get((source, snapshot), True):
                tainted.append(source)
        if tainted:
            yield HeldVersion(site.name, "training set", info, "", 0, current), head, tainted


def _is_set(key: str, user: str) -> bool:
    return erasing.kind_of(key, user) == "training set"


def _is_clean(stores: ErasureStores, source: str, snapshot: str) -> bool:
    """Return whether a snapshot stands, without a row that was erased since. One that is gone may have had some."""
    key = f"{snapshots.folder(source)}{snapshot}.json"
    if (stores.lake, key) in erasures.rewritten(stores.ledger):
        return False
    try:
        found = snapshots.read(stores.sites[stores.home], stores.lake, source, snapshot)
    except ObjectMissing:
        return False
    return erase_derived.is_clean(found, derived_run.mark(stores.ledger, source))


def _rewrite(stores: ErasureStores, user: str, found: Sequence[Held]) -> None:
    """Store training sets without the values at the home site, and record what replaces what."""
    site, bucket, successors = stores.sites[stores.home], stores.lake, list[dict[str, Any]]()
    views = used_views.users(stores.ledger)[user]
    for version, head, tainted in found:
        if version.site != site.name or not version.current:
            continue
        body = site.read(bucket, version.info.key, version_id=version.info.version_id)
        used = used_views.read(head.metadata.get("used", ""))
        left = used_views.told({name: snapshot for name, snapshot in used.items() if name not in tainted})
        after = without_values(body, [view for view, of in views.items() if of.intersection(tainted)], left)
        digest, kept = hashlib.sha256(after).hexdigest(), {**head.metadata, "used": left}
        to = f"{version.info.key.rsplit('/', 1)[0]}/{digest}.parquet"  # held-out rows stay in their own folder
        site.write_new(bucket, to, after, metadata={key: kept[key] for key in kept if key != "sha256" and kept[key]})
        site.read(bucket, to, sha256=digest)
        before = {"bucket": bucket, "key": version.info.key, "sha256": hashlib.sha256(body).hexdigest()}
        successors.append({**before, "to": to, "to_sha256": digest})
    if successors:
        stores.ledger.append("erasure", user, {"state": "rewritten", "successors": successors})


def without_values(body: bytes, views: Collection[str], used: str) -> bytes:
    """Return a training set (Parquet) in which the values of these views are null, and expressions over views as well.

    `used`: the snapshots of which it still has values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(body))
    for index, field in enumerate(table.schema):
        if field.name.startswith(tuple(f"{view}__" for view in (*views, ACROSS))):
            table = table.set_column(index, field, pa.nulls(table.num_rows, field.type))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), USED: used.encode()})
    return snapshots.encode([table], table.schema)
