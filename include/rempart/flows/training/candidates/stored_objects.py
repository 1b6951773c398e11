"""Look whether the objects of a model's versions are at the active site, without reading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rempart.backup.points.references import BELOW
from rempart.coordination.active import is_open
from rempart.errors import ModelRefused, ObjectMissing, RempartError, TrackingRefused, TrackingUnavailable
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import candidate_record
from rempart.models import loading, removal
from rempart.settings.config import Connection
from rempart.settings.sections import Classification
from rempart.sites.port import Site

_WORKERS = 8
_ENTRY = "MLflow's entry of logged model "


@dataclass(frozen=True)
class ChampionObjects:
    """Objects of a champion: those of the training job and those of MLflow. `needed`: their number.

    `missing`: keys that are not at the site. `different`: keys whose checksum at the site is not the recorded one.
    `silent`: why the look has no result.
    """

    site: str = ""
    needed: int = 0
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    silent: str | None = None

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.different or self.silent)


def look(
    platform: Platform, champions: Mapping[str, str], found: dict[str, ChampionObjects] | None = None
) -> dict[str, ChampionObjects]:
    """Return the objects of each champion (version by model). A version without a result is told as `silent`.

    `found`: each result is put there as soon as it is known, for a caller who waits no longer.
    """
    results = {} if found is None else found

    def site_of(classification: Classification) -> Site:
        return platform.site_to_read(is_open(platform.active()).site, classification)

    for name, version in champions.items():
        try:
            record = candidate_record(platform.ledger, name, version)
            if record is None:
                raise ModelRefused(f"Model {name} version {version}: no evidence names its files", "Train it again.")
            results[name] = _objects_of(record, site_of, platform.tracking, platform.config.buckets.artifacts)
        except RempartError as error:
            results[name] = ChampionObjects(silent=error.what)
    return results


def cause(
    found: ChampionObjects, name: str, version: str, error: TrackingRefused | TrackingUnavailable
) -> ModelRefused | TrackingRefused | TrackingUnavailable:
    """Return why MLflow does not give a version's files: they are not at the site, or MLflow's own `error`. Pure.

    MLflow answers to both with the same error. `found`: the version's objects at the site.
    """
    where = f"Model {name} version {version}"
    if found.missing and found.missing[0].startswith(_ENTRY):  # no file at the site brings it back
        return type(error)(
            f"{error.what}; missing: {found.missing[0]}",
            "Somebody deleted it in MLflow, or MLflow's database is an older one. Bring that back: `rempart down`, "
            "then `rempart restore --only database:mlflow --force`.",
        )
    for keys, are in ((found.missing, "missing"), (found.different, "not those of its record")):
        if keys:
            many = f"{len(keys)} of its {found.needed} objects are {are} at site '{found.site}', such as {keys[0]}"
            return ModelRefused(f"{where}: {many}", loading.GONE)
    if found.silent:
        return error
    return type(error)(
        f"{error.what}; all {found.needed} objects of the version are at site '{found.site}'", error.hint
    )


def _objects_of(
    record: Mapping[str, Any],
    site_of: Callable[[Classification], Site],
    tracking: Callable[[], Connection],
    bucket: str,
) -> ChampionObjects:
    site = site_of(record["classification"])
    needed: dict[str, str] = dict(record["outputs"])
    folders = removal.folders(tracking(), str(record["model_id"]), str(record["run_id"]))
    folder = next((each for each in folders if str(record["model_id"]) in each.split("/")), None)
    gone = [] if folder else [f"{_ENTRY}{record['model_id']}"]
    if folder:
        needed |= {f"{BELOW}{folder}{path}": digest for path, digest in record["files"].items()}

    def compared(wanted: tuple[str, str]) -> tuple[str, str]:
        return wanted[0], _compared(site, bucket, *wanted)

    found = dict(bounded_map(needed.items(), compared, _WORKERS))
    told = {state: tuple(key for key in sorted(needed) if found[key] == state) for state in ("missing", "different")}
    return ChampionObjects(site.name, len(needed) + len(gone), (*gone, *told["missing"]), told["different"])


def _compared(site: Site, bucket: str, key: str, digest: str) -> str:
    """Return whether an object is missing, different or there. An object without a checksum is there."""
    try:
        stored = site.checks(bucket, key).sha256
    except ObjectMissing:
        return "missing"
    return "there" if stored in ("", digest) else "different"
