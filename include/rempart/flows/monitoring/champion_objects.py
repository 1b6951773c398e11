"""Look whether the objects of champions are at the active site, without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rempart.backup.points.references import BELOW
from rempart.coordination.active import is_open
from rempart.errors import ModelRefused, ObjectMissing, RempartError
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import candidate_record
from rempart.models import removal
from rempart.sites.port import Site

_WORKERS = 8


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
    for name, version in champions.items():
        try:
            results[name] = _objects_of(platform, name, version)
        except RempartError as error:
            results[name] = ChampionObjects(silent=error.what)
    return results


def _objects_of(platform: Platform, name: str, version: str) -> ChampionObjects:
    record = candidate_record(platform.ledger, name, version)
    if record is None:
        raise ModelRefused(f"Model {name} version {version}: no evidence names its files", "Train it again.")
    site = platform.site_to_read(is_open(platform.active()).site, record["classification"])
    needed: dict[str, str] = dict(record["outputs"])
    folders = removal.folders(platform.tracking(), str(record["model_id"]), str(record["run_id"]))
    folder = next((each for each in folders if str(record["model_id"]) in each.split("/")), None)
    gone = [] if folder else [f"MLflow's entry of logged model {record['model_id']}"]
    if folder:
        needed |= {f"{BELOW}{folder}{path}": digest for path, digest in record["files"].items()}
    bucket = platform.config.buckets.artifacts

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
