"""Look whether the objects of a pipeline's current snapshot are at the active site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site
from rempart.web.read_models.pipeline_states import NextStep

AT_MOST = 10.0
"""Seconds for the whole look."""
_NAMED = 3


@dataclass(frozen=True)
class SnapshotObjects:
    """Objects of a snapshot. `needed`: their number, as far as it is known. `silent`: why the look has no result.

    `has_manifest`: False if the manifest is missing, which alone names the parts: nobody knows how many of these are.
    `behind`: why the site's `current.json` counts for nothing, and the remedy, if evidence names a newer snapshot.
    """

    site: str = ""
    needed: int = 0
    missing: tuple[str, ...] = ()
    silent: str | None = None
    has_manifest: bool = True
    behind: str = ""

    @property
    def is_whole(self) -> bool:
        """Return whether the look found every object, and the snapshot is the current one at the site."""
        return not (self.missing or self.silent or self.behind)


def look(
    open_platform: Callable[[], Platform], pipeline: Pipeline, snapshot: str, seconds: float = AT_MOST
) -> SnapshotObjects:
    """Return which objects of a snapshot are missing: `current.json`, its manifest, its parts. No part is read."""
    found = time_limit.answers({"site": lambda: objects_of(open_platform(), pipeline, snapshot)}, seconds)["site"]
    if isinstance(found, SnapshotObjects):
        return found
    return SnapshotObjects(silent=time_limit.reason(found))


def objects_of(platform: Platform, pipeline: Pipeline, snapshot: str) -> SnapshotObjects:
    """Look at the active site, however long it takes. Raises SiteError, IntegrityError.

    Of a snapshot that is on record as given up, nothing is needed.
    """
    from rempart.errors import IngestError
    from rempart.flows.ingestion import current_snapshot

    active, bucket = platform.active(), platform.config.buckets.lake
    site = platform.active_site(pipeline.classification, active)
    found = _objects_of(site, bucket, pipeline.name, snapshot)
    if found.missing:
        given_up = current_snapshot.is_given_up(platform.ledger, bucket, pipeline.name, snapshot)
        return SnapshotObjects(site.name) if given_up else found
    try:
        current_snapshot.checked(platform.ledger, active, site, bucket, pipeline.name)
    except IngestError as error:
        return replace(found, behind=f"{error.what}. {error.hint}")
    return found


def _objects_of(site: Site, bucket: str, name: str, snapshot: str) -> SnapshotObjects:
    from rempart.errors import ObjectMissing
    from rempart.ingestion import snapshots

    folder = snapshots.folder(name)
    needed = [f"{folder}current.json", f"{folder}{snapshot}.json"]
    missing = []
    try:
        site.head(bucket, needed[0])
    except ObjectMissing:
        missing.append(needed[0])
    try:
        parts = [part.key for part in snapshots.read(site, bucket, name, snapshot).parts]
    except ObjectMissing:
        missing.append(needed[1])
        return SnapshotObjects(site.name, len(needed), tuple(missing), has_manifest=False)
    present = {found.key for found in site.list(bucket, f"{folder}parts/")}
    missing += [key for key in parts if key not in present]
    return SnapshotObjects(site.name, len(needed) + len(parts), tuple(missing))


def step(pipeline: str) -> NextStep:
    """Return what a person does about missing objects. Pure."""
    return NextStep("Bring the snapshot's objects back.", f"rempart restore --only dataset:{pipeline}")


def lines(found: SnapshotObjects, pipeline: str) -> Iterator[str]:
    """Yield one line: the missing objects with the command that brings them back, that the site shows an older
    snapshot, or why it is not known. Pure.
    """
    if found.silent:
        yield f"UNKNOWN: whether the snapshot's objects are at the site: {found.silent}"
    elif found.missing:
        named = ", ".join(found.missing[:_NAMED])
        more = f" and {len(found.missing) - _NAMED} more" if len(found.missing) > _NAMED else ""
        parts = "" if found.has_manifest else " (the manifest alone names the parts: nobody knows how many are there)"
        yield (
            f"MISSING at site '{found.site}': {len(found.missing)} of the snapshot's objects: {named}{more}{parts}. "
            f"Bring them back: {step(pipeline).command}"
        )
    elif found.behind:
        yield f"BEHIND: {found.behind}"


def as_json(found: SnapshotObjects | None) -> dict[str, Any] | None:
    """Return the look for a JSON document; None without a snapshot. Pure."""
    if found is None:
        return None
    facts = {"site": found.site or None, "missing": None if found.silent else found.missing, "unknown": found.silent}
    return facts | ({"behind": found.behind} if found.behind else {})
