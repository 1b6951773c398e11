"""Gather what a pipeline has at every site and in every store, before it is reset or removed. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.errors import ObjectMissing, RempartError, SiteError
from rempart.features import removal as feature_removal
from rempart.flows.distributed import orders
from rempart.flows.erasure import erase_versions
from rempart.flows.erasure.erase_listing import doubt, known
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import profile, source_state
from rempart.flows.prediction import scorings
from rempart.flows.removal import jobs
from rempart.flows.removal.plan import DELETED, Objects, Part, PipelineContents, PutBack
from rempart.flows.shared import removals
from rempart.flows.shared.deletion import versions_below
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.removals import What
from rempart.flows.training import champions
from rempart.ingestion import deliveries, erasing, landing, snapshots
from rempart.ingestion.sources import derived
from rempart.ledger.port import Ledger
from rempart.models import removal as model_removal
from rempart.serving import hour_files
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.sources import DerivedSource, is_extracted
from rempart.sites.port import ObjectInfo, Site

Runs = Callable[[], Sequence[str]]
"""Returns the DAG runs of the pipeline that have not ended. Raises AirflowApiError."""


@dataclass(frozen=True)
class FoundVersion:
    """One object version to delete."""

    bucket: str
    part: Part
    info: ObjectInfo


def parts_of(pipeline: Pipeline, what: What) -> tuple[Part, ...]:
    """Return the parts that go, in order of their deletion."""
    extracted = is_extracted(pipeline.source)
    absent = {"extracted"} if not extracted else set[str]()
    absent |= {"scored"} if not scored_elsewhere(pipeline) else set()
    return tuple(part for part in DELETED[what] if part not in absent)


def scored_elsewhere(pipeline: Pipeline) -> str | None:
    """Return the other pipeline whose rows the model of this one predicts, or None."""
    scoring = pipeline.scoring if isinstance(pipeline, ModelPipeline) else None
    return scoring.from_ if scoring and scoring.from_ != pipeline.name else None


def prefix(pipeline: Pipeline, part: Part) -> str:
    """Return the prefix of a part's objects. Folders of other pipelines' jobs are beside those of its own."""
    name = pipeline.name
    folders: dict[Part, str] = {
        "snapshots": snapshots.folder(name),
        "quarantine": f"quarantine/{name}/",
        "outcomes": f"deliveries/{name}/",
        "source": source_state.folder(name),
        "profiles": profile.folder(name),
        "spark": orders.prefix_of(name),
        "raw": f"raw/{name}/",
        "training": f"training/{name}/",
        "jobs": jobs.FOLDER,
        "predictions-log": hour_files.folder(name),
        "extracted": f"{pipeline.source.prefix}{landing.EXTRACTED}",
        "landing": pipeline.source.prefix,
        "predictions": scorings.folder(name),
        "scored": scorings.folder(scored_elsewhere(pipeline) or name, name),
    }
    return folders[part]


def versions(stores: ErasureStores, site: Site, pipeline: Pipeline, what: What) -> list[FoundVersion]:
    """Return the versions that go at a site, in order of their deletion.

    The log of the Delta table and `current.json` go first. Raises SiteError, also if the listing lacks objects that are
    on record.
    """
    parts = parts_of(pipeline, what)
    wanted = [
        version
        for version in known(stores.config, stores.continuity, pipeline.name, site)
        if any(erasing.original(version[0]).startswith(prefix(pipeline, part)) for part in parts)
    ]
    found = [entry for part in parts for entry in _listed(stores, site, pipeline, part)]
    doubt(site, stores.lake, wanted, [entry.info for entry in found if entry.bucket == stores.lake])
    return found


def _listed(stores: ErasureStores, site: Site, pipeline: Pipeline, part: Part) -> Iterator[FoundVersion]:
    bucket, folder = bucket_of(stores, part), prefix(pipeline, part)
    try:
        listed = versions_below(site, bucket, folder)
    except ObjectMissing:  # the other site has no such bucket
        return
    if part == "jobs" and listed:
        mine = jobs.of_pipeline(stores, pipeline.name)
        listed = [info for info in listed if jobs.job_of(info.key) in mine]
    for info in sorted(listed, key=lambda info: _rank(erasing.original(info.key), folder)):
        yield FoundVersion(bucket, part, info)


def catalogued(stores: ErasureStores, pipeline: Pipeline, what: What, bucket: str) -> set[str]:
    """Return the keys in the catalogues that go with a pipeline's parts in a bucket. Raises DatabaseUnavailable."""
    if bucket == stores.config.buckets.artifacts:
        mine = jobs.of_pipeline(stores, pipeline.name)
        return {key for key in erase_versions.catalogued(stores, bucket) if jobs.job_of(key) in mine}
    folders = tuple(prefix(pipeline, part) for part in parts_of(pipeline, what) if bucket_of(stores, part) == bucket)
    return {key for key in erase_versions.catalogued(stores, bucket) if erasing.original(key).startswith(folders)}


def bucket_of(stores: ErasureStores, part: Part) -> str:
    """Return the bucket of a part."""
    if part == "jobs":
        return stores.config.buckets.artifacts
    return stores.config.buckets.landing if part in ("extracted", "landing") else stores.lake


def _rank(key: str, folder: str) -> int:
    rest = key.removeprefix(folder)
    if "_delta_log/" in rest:
        return 0
    if folder == jobs.FOLDER:
        return 2 if rest.rpartition("/")[2] in jobs.ORDERS else 1
    return 1 if rest == "current.json" else 3 if "parts/" in rest else 2


def gather(platform: Platform, stores: ErasureStores, pipeline: Pipeline, what: What, runs: Runs) -> PipelineContents:
    """Return the facts for a plan. A site that does not answer is one of them; other stores raise their errors.

    Raises SiteError for the active site, DatabaseUnavailable, FeatureError, TrackingUnavailable, TrackingRefused.
    """
    name, home = pipeline.name, stores.sites[stores.home]
    objects, silent = list[Objects](), dict(stores.shut)
    for site_name, site in stores.sites.items():
        try:
            found = versions(stores, site, pipeline, what)
        except SiteError as error:
            if site_name == stores.home:
                raise
            silent[site_name] = error.what
            continue
        for part in parts_of(pipeline, what):
            mine = [entry.info for entry in found if entry.part == part]
            objects.append(Objects(site_name, part, prefix(pipeline, part), len(mine), sum(i.size for i in mine)))
    begun = removals.unfinished(platform.ledger, name)
    again = _again(home, stores, pipeline) if what == "reset" else ()
    complete = what == "reset" and (begun is None or begun.state == "began")  # outcomes go with the deletion
    lost, lost_rows = _lost(home, stores, pipeline) if complete else (0, 0)
    current = snapshots.current(home, stores.lake, name)
    offline, online = feature_removal.tables_of(stores.features(), name)
    model = model_removal.registered(platform.tracking(), name)
    return PipelineContents(
        pipeline=name,
        what=what,
        active=stores.home,
        objects=tuple(objects),
        silent=silent,
        extracted=is_extracted(pipeline.source),
        deliveries=again,
        lost=lost,
        lost_rows=lost_rows,
        snapshot=current.id if current else None,
        rows=current.rows if current else 0,
        feature_tables=(*offline, *online),
        model_versions=len(model.versions),
        champion=champions.intended(champions.decisions_on(platform.ledger, name)),
        experiment=model.experiment,
        runs=_runs(runs),
        erasure=_erasure(platform.ledger, name),
        readers=tuple(_readers(name)),
        file=f"include/pipelines/{name}.yaml" if name in pipelines.names() else "",
        began=begun.seq if begun else None,
        points_until=(stores.clock() + kept_for(platform.config.backup.keep)).date(),
    )


def _again(home: Site, stores: ErasureStores, pipeline: Pipeline) -> tuple[PutBack, ...]:
    """Return every stored delivery, in order of its arrival. A source that is extracted has them still.

    Not only those with an outcome: after an earlier reset the put-back copy is all that a delivery has beside it.
    """
    if is_extracted(pipeline.source):
        return ()
    arrived = _arrivals(stores.ledger, pipeline.name)
    once_derived = bool(stores.ledger.find("derivation", pipeline.name, limit=1))
    stored = dict[str, ObjectInfo]()
    for listed in home.list(stores.lake, prefix(pipeline, "raw")):
        info = home.head(stores.lake, listed.key)
        if not (once_derived and derived.is_derived_name(info.key.rsplit("/", 1)[-1])):
            stored.setdefault(landing.names_of(info)[-1], info)

    def order(info: ObjectInfo) -> tuple[datetime, int, datetime]:
        known = (arrived[name] for name in landing.names_of(info) if name in arrived)
        return max(known, default=(datetime.max.replace(tzinfo=UTC), 0, info.modified))

    again, last = list[PutBack](), datetime.min.replace(tzinfo=UTC)
    for info in sorted(stored.values(), key=lambda info: (order(info), info.key)):
        last = max(order(info)[-1], last + timedelta(microseconds=1))  # a site tells seconds: the key tells the order
        _, _, digest, file = info.key.rsplit("/", 3)
        to = landing.put_back_key(pipeline.source.prefix, last, digest, file)
        again.append(PutBack(info.key, digest, to, info.size))
    return tuple(again)


def _arrivals(ledger: Ledger, name: str) -> dict[str, tuple[datetime, int, datetime]]:
    """Return the order of each delivery (`deliveries.in_order`) by SHA-256. Evidence has it after a reset, too."""
    found = dict[str, tuple[datetime, int, datetime]]()
    for record in removals.since(ledger.find("deliveries", name), removals.removal_of(ledger, name)):
        for outcome in record.body["deliveries"]:
            order, sha256 = deliveries.in_order(outcome), str(outcome["sha256"])
            found[sha256] = max(order, found.get(sha256, order))
    return found


def _lost(home: Site, stores: ErasureStores, pipeline: Pipeline) -> tuple[int, int]:
    """Return the number of deliveries that do not come back, and of their rows that are not refused.

    Of a `history` an extracted source has only the present versions.
    """
    stored = set[str]()
    if not is_extracted(pipeline.source):
        for listed in home.list(stores.lake, prefix(pipeline, "raw")):
            stored.update(landing.names_of(home.head(stores.lake, listed.key)))
    elif pipeline.conflict_rule != "history":
        return 0, 0
    rows = [
        deliveries.good(outcome)  # of one that came again, the repeated rows are its own accepted ones
        for outcome in deliveries.outcomes(home, stores.lake, pipeline.name)
        if deliveries.good(outcome) and str(outcome["sha256"]) not in stored
    ]
    return len(rows), sum(rows)


def _runs(runs: Runs) -> tuple[str, ...] | None:
    from rempart.airflow_api import AirflowApiError

    try:
        return tuple(runs())
    except AirflowApiError as error:
        if error.silent:
            return None
        raise


def _erasure(ledger: Ledger, name: str) -> str | None:
    """Return why an erasure of the pipeline's rows is not complete, or None."""
    records = [
        r
        for r in ledger.find("erasure", name)
        if r.body["state"] in ("registered", "ended")  # others tell what an erasure elsewhere changed here
    ]
    if not records:
        return None
    ended = next((record for record in records if record.body["state"] == "ended"), None)
    if ended is None or any(r.seq > ended.seq and r.body["state"] == "registered" for r in records):
        return f"an erasure of rows of '{name}' is in progress"
    if pending(ended.body):
        return f"an erasure of rows of '{name}' is not complete at every place (evidence {ended.seq})"
    return None


def pending(body: Mapping[str, Any]) -> bool:
    """Return whether a record of an erasure names places that still hold rows, other than locked objects. Pure."""
    return bool(body["left"]) or any(", locked until " not in str(entry) for entry in body["pending"])


def _readers(name: str) -> Iterator[str]:
    loaded = pipelines.load_all()
    labelled = pipelines.labelled_by(loaded)
    for other, found in sorted(loaded.items()):
        if isinstance(found, RempartError):
            named = (
                f"- {name}\n", f"pipeline: {name}\n", f"pipeline: {name},", f"pipeline: {name}}}", f"from: {name}.",
            )  # fmt: skip
            if other != name and any(text in pipelines.text_of(other) for text in named):
                yield f"{other} (its file is not valid)"
        elif isinstance(found.source, DerivedSource) and name in found.source.inputs:
            yield other
        elif labelled.get(other) == name:
            yield f"{other} (it takes its labels from it)"
        elif scored_elsewhere(found) == name:
            yield f"{other} (its model predicts its rows)"
        elif name in pipelines.sources_of(found):
            yield f"{other} (it uses its feature views)"
