"""Erase derived rows: an erasure in a pipeline is followed in every pipeline that is derived from it.

A derived row need not carry the key of the erased one: it may be a sum over many. So nothing is cut out of derived
objects. The rows are derived again from inputs without the erased rows, and every older object of the descendant is
deleted, in every version at every site: manifests, parts, deliveries, quarantine, training sets, profiles. Where rows
cannot be derived again at once, as during a restore, the descendant has no snapshot until its next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rempart.errors import IntegrityError, ObjectMissing, RempartError, SiteError
from rempart.features import offline, removal
from rempart.flows.erasure import erase_listing, erase_objects, erase_predictions, erase_versions
from rempart.flows.erasure.erase_objects import HeldVersion
from rempart.flows.erasure.erase_report import DescendantResult
from rempart.flows.erasure.erase_stores import ErasureStores, with_features
from rempart.flows.ingestion import delta_log, derived_run, source_state
from rempart.flows.shared.deletion import versions_below
from rempart.flows.training.materialize import materialize_rows
from rempart.ingestion import deliveries, erasing, landing, snapshots
from rempart.ingestion.delta import log
from rempart.ingestion.derived.inputs import ancestors
from rempart.ingestion.erasing import Kind
from rempart.ingestion.snapshots import Snapshot
from rempart.ingestion.sources import derived as source
from rempart.settings import pipelines
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import ObjectInfo, Site

logger = logging.getLogger(__name__)

BARRIER_SECONDS = 300.0
"""Seconds for which the deletion waits for running commits."""
WITHDRAWN = "withdrawn"
"""Stands for the snapshot in a feature store that was emptied."""
_FOLDERS = ("snapshots", "training", "quarantine", "raw", "deliveries", "profiles", "spark")
Derive = Callable[[Pipeline], object]
"""Derives a pipeline's rows again and ingests them. Raises RempartError."""


@dataclass
class Clean:
    """What stays of a descendant: its snapshots whose rows respect every erasure, and what belongs to these."""

    snapshots: list[Snapshot] = field(default_factory=list)
    """Every version of each manifest: two of one snapshot may name other parts for the same rows."""
    newest: str = ""
    """Name of the newest delivery, if it is clean."""
    waiting: frozenset[str] = frozenset()
    """Keys of clean deliveries in the landing bucket."""

    def parts(self) -> set[str]:
        return {part.key for found in self.snapshots for part in found.parts}

    def ids(self) -> set[str]:
        return {found.id for found in self.snapshots}

    def deliveries(self) -> set[str]:
        return {str(outcome["sha256"]) for found in self.snapshots for outcome in found.deliveries}


def descendants(stores: ErasureStores, changed: Iterable[str]) -> list[str]:
    """Return every pipeline that is, or ever was, derived from one of these, inputs first."""
    inputs = derived_run.recorded_inputs(stores.ledger)
    wanted = set(changed)
    found = {name: ancestors(name, inputs) for name in inputs}
    return sorted((name for name in found if found[name] & wanted), key=lambda name: (len(found[name]), name))


def follow(stores: ErasureStores, changed: Iterable[str], derive: Derive | None = None) -> list[DescendantResult]:
    """Erase in every descendant what an erasure in `changed` leaves there. Safe to repeat.

    Without `derive`, or where it fails, a descendant is left without a snapshot until its next run. What cannot be
    erased is pending, by name.
    """
    results = []
    for name in descendants(stores, changed):
        try:
            again = derive if name in pipelines.names() else None  # a removed one has nothing to derive
            results.append(_follow(stores, pipelines.named_or_removed(name), again))
        except RempartError as error:
            results.append(DescendantResult(name, pending={f"pipeline '{name}'": error.what}))
    return results


def _follow(stores: ErasureStores, pipeline: Pipeline, derive: Derive | None) -> DescendantResult:
    home, bucket, name = stores.sites[stores.home], stores.lake, pipeline.name
    mark, failed = derived_run.mark(stores.ledger, name), ""
    before = stores.current(name)
    if derive and before and not is_clean(before, mark):
        try:
            derive(pipeline)
        except RempartError as error:
            failed = error.what
    with stores.active_sites.barrier(BARRIER_SECONDS):  # a commit may use a part again
        clean, held, silent = _search(stores, pipeline, mark)
        current = stores.current(name)
        withdrawn = current is not None and current.id not in clean.ids()
        if current is not None and withdrawn:
            _withdraw(stores, name, current)
            held = [*_pointers(stores, name, silent), *held]
        stays = None if withdrawn else current
        predicted = erase_predictions.of_other_snapshots(stores, name, clean.ids())
        derived, table = None, None
        of_snapshots = erase_versions.in_snapshots(held) or delta_log.is_behind(home, bucket, name, stays)
        if of_snapshots or predicted.held or predicted.tables:
            table = delta_log.restart(home, bucket, stays) if stays and of_snapshots else None
            derived = erase_versions.Derived(pipeline, of_snapshots, table, tables=predicted.tables)
        held = [*held, *predicted.held]
        condemned = erase_versions.condemn(stores, name, held, derived)
        done = erase_versions.delete_versions(stores, held, derived, condemned=condemned)
        deleted, locked, refused = done.rows + done.log + done.profiles, done.locked, done.failed
        deleted += _clear_landing(stores, pipeline, clean, refused)
    _reload_features(stores, pipeline, clean)
    _, faults = erase_predictions.others_in_user_tables(stores, pipeline, clean.ids())
    pending = {**stores.shut, **silent, **refused, **faults}
    if failed and withdrawn:
        pending[f"pipeline '{name}'"] = f"its rows could not be derived again: {failed}"
    result = DescendantResult(name, deleted, withdrawn, locked, pending)
    if deleted or withdrawn:
        body: dict[str, Any] = {"state": "derived", "deleted": deleted, "withdrawn": withdrawn}
        stores.ledger.append("erasure", name, {**body, "pending": sorted({*pending, *locked})})
    return result


def is_clean(snapshot: Snapshot, mark: str) -> bool:
    """Return whether a snapshot's rows respect every erasure. One that was not derived holds rows of its own."""
    return not snapshot.derived_from or snapshot.derived_from.get(source.ERASURES) == mark


def _search(stores: ErasureStores, pipeline: Pipeline, mark: str) -> tuple[Clean, list[HeldVersion], dict[str, str]]:
    """Return what stays, the versions to delete in their order, and why sites were not searched.

    Raises SiteError if the home site cannot be searched.
    """
    clean, listed, silent = _newest(stores, pipeline, mark), dict[str, list[ObjectInfo]](), dict[str, str]()
    tainted: dict[str, set[tuple[str, str | None]]] = {}
    for name in sorted(stores.sites, key=lambda site: site != stores.home):
        try:
            listed[name] = _listed(stores, stores.sites[name], pipeline.name)
            tainted[name] = set(_manifests(stores, stores.sites[name], pipeline.name, listed[name], mark, clean))
        except SiteError as error:
            if name == stores.home and not isinstance(error, ObjectMissing):
                raise
            silent[name] = error.what
            listed.pop(name, None)
    held = [
        HeldVersion(name, kind, info, "", 0, False)
        for name, infos in listed.items()
        for info in infos
        if (kind := _leaves(stores, stores.sites[name], info, pipeline.name, clean, tainted[name])) is not None
    ]
    held.sort(key=lambda version: (erase_objects.ORDER[version.kind], version.info.key))
    return clean, held, silent


def _newest(stores: ErasureStores, pipeline: Pipeline, mark: str) -> Clean:
    """Return the newest delivery of a descendant, if it is clean."""
    home = stores.sites[stores.home]
    pending = source_state.read_pending(home, stores.lake, pipeline.name)
    current = stores.current(pipeline.name)
    after = pending.after if pending and pending.whole else None
    state = (after or source_state.read_stand(home, stores.lake, pipeline.name, current)).state
    if state.get(source.ERASURES) != mark:
        return Clean()
    waiting = frozenset(delivery.key for delivery in pending.deliveries) if pending else frozenset[str]()
    return Clean([], source.delivery_name(state), waiting)


def _listed(stores: ErasureStores, site: Site, name: str) -> list[ObjectInfo]:
    """Return every version of a descendant's objects at a site. Raises SiteError if the listing hides one."""
    wanted = erase_listing.known(stores.config, stores.continuity, name, site)
    prefixes = (*(f"{folder}/{name}/" for folder in (*_FOLDERS, "predictions")), erasing.CONFLICTS)
    found = [info for prefix in prefixes for info in site.versions(stores.lake, prefix)]
    erase_listing.doubt(site, stores.lake, wanted, found)
    return [info for info in found if not info.marker]


def _manifests(
    stores: ErasureStores, site: Site, name: str, listed: Iterable[ObjectInfo], mark: str, clean: Clean
) -> Iterator[tuple[str, str | None]]:
    """Yield the versions of manifests that go. Those that stay are added to `clean`."""
    folder = snapshots.folder(name)
    for info in listed:
        key = erasing.original(info.key)
        below = key.removeprefix(folder)
        if below == key or "/" in below or below == "current.json":
            continue
        try:
            found = snapshots.parse(site.read(stores.lake, info.key, version_id=info.version_id), name)
        except ValueError as cause:
            raise IntegrityError(
                f"read manifest {stores.lake}/{info.key} at site '{site.name}': it is not a manifest",
                "Restore it from its replica or a restore point, or delete it.",
            ) from cause
        if is_clean(found, mark):
            clean.snapshots.append(found)
        else:
            yield info.key, info.version_id


def _leaves(
    stores: ErasureStores,
    site: Site,
    info: ObjectInfo,
    name: str,
    clean: Clean,
    tainted: set[tuple[str, str | None]],
) -> Kind | None:
    """Return the kind of an object that goes, and None for one that stays."""
    key = erasing.original(info.key)
    folder, _, rest = key.partition(f"/{name}/")
    if folder not in _FOLDERS or not rest:
        return None
    last = rest.rsplit("/", 1)[-1]
    match folder:
        case "snapshots" if rest.startswith("parts/"):
            return None if key in clean.parts() else "part"
        case "snapshots" if key.startswith(log.folder(name)):
            return None  # it begins again
        case "snapshots":
            return "manifest" if (info.key, info.version_id) in tainted else None
        case "spark":
            return "part"  # of a job, which makes it again
        case "profiles":
            return None if last.removesuffix(".html") in clean.ids() else "manifest"
        case "training":
            head = site.head(stores.lake, info.key, version_id=info.version_id)
            return None if head.metadata.get("snapshot") in clean.ids() else "training set"
        case "raw":
            if not source.is_derived_name(last) or last == clean.newest:
                return None
            head = site.head(stores.lake, info.key, version_id=info.version_id)
            sha256 = head.metadata.get("delivery") or rest.split("/")[0]
            return None if sha256 in clean.deliveries() else "delivery"
        case _:
            sha256 = landing.delivery_of(info.key) if folder == "quarantine" else last.removesuffix(".json")
            if sha256 in clean.deliveries() or not _was_derived(stores, name, sha256, clean):
                return None
            return "quarantine" if folder == "quarantine" else "delivery"


def _was_derived(stores: ErasureStores, name: str, sha256: str, clean: Clean) -> bool:
    """Return whether a delivery was derived from rows that may be erased by now; True if that is unknown."""
    outcome = deliveries.recorded(stores.sites[stores.home], stores.lake, name, sha256)
    file = str(outcome["file"]) if outcome else "0" * 32 + ".parquet"
    return file != clean.newest and source.is_derived_name(file)


def _withdraw(stores: ErasureStores, name: str, current: Snapshot) -> None:
    """Record that the current snapshot goes, so that the next run begins without one."""
    records = stores.ledger.find("snapshot", name)
    newest = next((found.body["snapshot"] for found in records if found.body.get("bucket") == stores.lake), current.id)
    body = {"lost": newest, "shown": None, "site": stores.home, "bucket": stores.lake}
    stores.ledger.append("acceptance", name, {**body, "by": "an erasure in its inputs"})


def _pointers(stores: ErasureStores, name: str, silent: Mapping[str, str]) -> Iterator[HeldVersion]:
    """Yield every version of `current.json`, at each site that was searched."""
    for site in stores.sites.values():
        if site.name not in silent:
            for info in versions_below(site, stores.lake, f"{snapshots.folder(name)}current.json"):
                if not info.marker:
                    yield HeldVersion(site.name, "manifest", info, "", 0, False)


def _clear_landing(stores: ErasureStores, pipeline: Pipeline, clean: Clean, refused: dict[str, str]) -> int:
    """Delete every version of derived deliveries in the landing buckets but the newest clean one. Return their number.

    Why a site refused is added to `refused`.
    """
    bucket, deleted = stores.config.buckets.landing, 0
    for name, site in stores.sites.items():
        try:
            for info in versions_below(site, bucket, f"{pipeline.source.prefix}{landing.EXTRACTED}"):
                if info.key not in clean.waiting:
                    site.delete(bucket, info.key, version_id=info.version_id)
                    deleted += not info.marker
        except ObjectMissing:
            continue  # it has no such bucket
        except SiteError as error:
            refused.setdefault(name, error.what)
    return deleted


def _reload_features(stores: ErasureStores, pipeline: Pipeline, clean: Clean) -> None:
    """Load the current snapshot into the feature stores, if they hold another one's rows; without one, empty them."""
    databases = stores.features()
    if (loaded := offline.find_snapshot(databases, pipeline.name)) is None:
        return
    home = stores.sites[stores.home]
    current = stores.current(pipeline.name)
    wanted = current.id if current else WITHDRAWN
    if loaded in clean.ids() or loaded == wanted:
        return
    columns = snapshots.snapshot_columns(pipeline)
    rows = (
        snapshots.rows(home, stores.lake, current)
        if current
        else snapshots.arrow_schema(columns).empty_table().to_reader()
    )
    with stores.active_sites.committing(stores.active):
        materialize_rows(databases, with_features(pipeline), rows, wanted, stores.clock(), keep_former=False)
    removal.forget_deleted(databases, pipeline.name)
