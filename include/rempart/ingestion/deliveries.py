"""What became of each delivery, on record at the site: the proof that no row was dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rempart.errors import ObjectMissing
from rempart.ingestion.landing import Arrival
from rempart.ingestion.reading import RefusedRow
from rempart.ingestion.snapshots import canonical
from rempart.sites.port import Site


@dataclass(frozen=True)
class Outcome:
    """What became of one delivery: accepted + quarantined = delivered. Holds counts and reasons, no row's value."""

    sha256: str
    file: str
    bytes: int
    landed_at: str
    outcome: str
    fault: str | None
    delivered: int
    accepted: int
    quarantined: int
    reasons: Mapping[str, int]
    snapshot: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def outcome(
    arrival: Arrival, *, delivered: int, refused: Sequence[RefusedRow], fault: str | None, snapshot: str | None
) -> Outcome:
    """Count a delivery's refused rows by reason; a row with two reasons counts under both."""
    reasons: dict[str, int] = {}
    for row in refused:
        for reason in row.reasons:
            reasons[reason] = reasons.get(reason, 0) + 1
    accepted = delivered - len(refused)
    verdict = "refused" if fault or not accepted else "accepted in part" if refused else "accepted"
    return Outcome(
        arrival.sha256,
        arrival.name,
        arrival.size,
        arrival.landed_at.isoformat(),
        verdict,
        fault,
        delivered,
        accepted,
        len(refused),
        dict(sorted(reasons.items())),
        snapshot if accepted else None,
    )


def outcome_key(pipeline: str, sha256: str) -> str:
    return f"deliveries/{pipeline}/{sha256}.json"


def is_known(site: Site, bucket: str, pipeline: str, sha256: str) -> bool:
    """Whether a delivery with these bytes was taken in before."""
    try:
        site.head(bucket, outcome_key(pipeline, sha256))
    except ObjectMissing:
        return False
    return True


def record(site: Site, bucket: str, pipeline: str, outcome_json: Mapping[str, Any]) -> None:
    """Write what became of a delivery; from here on it is known. Writing it again changes nothing."""
    key = outcome_key(pipeline, str(outcome_json["sha256"]))
    site.write_new(bucket, key, canonical(outcome_json), content_type="application/json")


def outcomes(site: Site, bucket: str, pipeline: str) -> list[dict[str, Any]]:
    """What became of every delivery so far."""
    return [json.loads(site.read(bucket, found.key)) for found in site.list(bucket, f"deliveries/{pipeline}/")]


def totals(site: Site, bucket: str, pipeline: str) -> dict[str, int]:
    """Rows delivered, accepted and quarantined over all deliveries so far, and how many deliveries there were."""
    found = outcomes(site, bucket, pipeline)
    counted = {name: sum(one[name] for one in found) for name in ("delivered", "accepted", "quarantined")}
    return {"deliveries": len(found), **counted}
