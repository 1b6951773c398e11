"""Gather what a pipeline has at every site and in every store, before it is reset or removed. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rempart.errors import ObjectMissing, RempartError, SiteError
from rempart.features import removal as feature_removal
from rempart.flows.erasure.erase_listing import doubt, known
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import profile, source_state
from rempart.flows.removal.plan import DELETED, Objects, Part, PipelineContents, PutBack
from rempart.flows.shared import removals
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.removals import What
from rempart.flows.training import champions
from rempart.ingestion import deliveries, erasing, landing, snapshots
from rempart.ledger.port import Ledger
from rempart.models import removal as model_removal
from rempart.settings import pipelines
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource, is_extracted
from rempart.sites.port import ObjectInfo, Site

Runs = Callable[[], Sequence[str]]
"""Returns the DAG runs of the pipeline that have not ended. Raises AirflowApiError."""
_ALL = 1000


@dataclass(frozen=True)
class FoundVersion:
    """One object version to delete."""

    bucket: str
    part: Part
    info: ObjectInfo


def prefix(pipeline: Pipeline, part: Part) -> str:
    """Return the prefix of a part's objects."""
    name = pipeline.name
    folders: dict[Part, str] = {
        "snapshots": snapshots.folder(name),
        "quarantine": f"quarantine/{name}/",
        "outcomes": f"deliveries/{name}/",
        "source": source_state.folder(name),
        "profiles": profile.folder(name),
        "raw": f"raw/{name}/",
        "training": f"training/{name}/",
        "landing": pipeline.source.prefix,
    }
    return folders[part]


def versions(stores: ErasureStores, site: Site, pipeline: Pipeline, what: What) -> list[FoundVersion]:
    """Return the versions that go at a site, in order of their deletion.

    The log of the Delta table and `current.json` go first. Raises SiteError, also if the listing lacks objects that are
    on record.
    """
    parts = DELETED[what]
    wanted = [
        version
        for version in known(stores.config, stores.continuity, pipeline.name, site)
        if any(version[0].startswith(prefix(pipeline, part)) for part in parts)
    ]
    found = [entry for part in parts for entry in _listed(stores, site, pipeline, part)]
    doubt(site, stores.lake, wanted, [entry.info for entry in found if entry.bucket == stores.lake])
    return found


def _listed(stores: ErasureStores, site: Site, pipeline: Pipeline, part: Part) -> Iterator[FoundVersion]:
    bucket = stores.config.buckets.landing if part == "landing" else stores.lake
    folder = prefix(pipeline, part)
    try:
        listed = list(site.versions(bucket, folder))
    except ObjectMissing:  # the other site has no such bucket
        return
    if part in ("snapshots", "raw", "training", "quarantine"):
        listed += [
            info
            for info in site.versions(bucket, "conflicts/")
            if (kind := erasing.kind_of(info.key, pipeline.name)) and _part_of(kind) == part
        ]
    for info in sorted(listed, key=lambda info: _rank(info.key, folder)):
        yield FoundVersion(bucket, part, info)


def _part_of(kind: erasing.Kind) -> Part:
    parts: Mapping[erasing.Kind, Part] = {"delivery": "raw", "training set": "training", "quarantine": "quarantine"}
    return parts.get(kind, "snapshots")


def _rank(key: str, folder: str) -> int:
    rest = key.removeprefix(folder)
    if rest.startswith("_delta_log/"):
        return 0
    return 1 if rest == "current.json" else 3 if rest.startswith("parts/") else 2


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
        for part in DELETED[what]:
            mine = [entry.info for entry in found if entry.part == part]
            objects.append(Objects(site_name, part, prefix(pipeline, part), len(mine), sum(i.size for i in mine)))
    begun = removals.unfinished(platform.ledger, name)
    putting_back = what == "reset" and (begun is None or begun.state == "began")
    again, lost, lost_rows = _again(home, stores, pipeline) if putting_back else ((), 0, 0)
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
        putting_back=putting_back,
        points_until=(stores.clock() + kept_for(platform.config.backup.keep)).date(),
    )


def _again(home: Site, stores: ErasureStores, pipeline: Pipeline) -> tuple[tuple[PutBack, ...], int, int]:
    """Return the deliveries that are put back, in order of their arrival, and the lost ones with their rows.

    A source that is extracted has them still; but of a `history` it has only the present versions.
    """
    if is_extracted(pipeline.source):
        if pipeline.conflict_rule != "history":
            return (), 0, 0
        kept_rows = [int(outcome["accepted"]) for outcome in deliveries.outcomes(home, stores.lake, pipeline.name)]
        return (), len([rows for rows in kept_rows if rows]), sum(kept_rows)
    stored: dict[str, ObjectInfo] = {}
    for listed in home.list(stores.lake, prefix(pipeline, "raw")):
        info = home.head(stores.lake, listed.key)
        stored[info.metadata.get("delivery") or info.key.split("/")[-2]] = info
    outcomes = deliveries.outcomes(home, stores.lake, pipeline.name)
    ordered = sorted(outcomes, key=deliveries.in_order)
    again, lost, rows = list[PutBack](), 0, 0
    for number, outcome in enumerate(ordered, 1):
        if (kept := stored.get(str(outcome["sha256"]))) is None:
            if outcome["accepted"]:
                lost, rows = lost + 1, rows + int(outcome["accepted"])
            continue
        _, _, digest, file = kept.key.rsplit("/", 3)
        to = f"{pipeline.source.prefix}{landing.PUT_BACK}{number:06}/{file}"
        again.append(PutBack(kept.key, digest, to, kept.size))
    return tuple(again), lost, rows


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
    records = [r for r in ledger.find("erasure", name, limit=_ALL) if r.body["state"] != "derived"]
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
            named = (f"- {name}\n", f"pipeline: {name}\n", f"pipeline: {name},", f"pipeline: {name}}}")
            if other != name and any(text in pipelines.text_of(other) for text in named):
                yield f"{other} (its file is not valid)"
        elif isinstance(found.source, DerivedSource) and name in found.source.inputs:
            yield other
        elif labelled.get(other) == name:
            yield f"{other} (it takes its labels from it)"
