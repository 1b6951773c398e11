"""Record the outcome of each delivery at the site: the proof that no row was dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from rempart import canonical_json
from rempart.errors import IntegrityError, ObjectMissing
from rempart.ingestion.acceptance import COUNTS
from rempart.ingestion.landing import Arrival
from rempart.ingestion.refused import Refused, by_reason
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import Dialect, Source
from rempart.sites.once import gives_back, put_again
from rempart.sites.port import Site

_READERS = 8
"""Outcomes that are read at the same time."""
HELD_BACK = "held back"
REFUSED = "refused"
"""Outcome of a held-back delivery: no row is accepted, because too many were refused."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one delivery: accepted + repeated + quarantined = delivered. Holds counts and reasons, no values.

    `repeated` good rows are not in the snapshot, since an equal or newer row of their key is. `replaced` accepted rows
    took the place of an older row. `judged` rows were checked against the expectations; `unexpected` counts, by reason,
    the rows that broke each. The other rows had an earlier fault. `again` counts how often it was ingested again, and
    `added` and `added_repeated` the rows that the last time made accepted and repeated. `came_again`: that time, the
    same bytes were delivered once more. `held`: its good rows are in quarantine too, until a person accepts them.
    `source`: the format and dialect with which it was read last, and must be read again. `taken_at` and `position` tell
    its order (`in_order`): the run that took it in, and its place there.
    """

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
    judged: int
    unexpected: Mapping[str, int]
    added: int
    added_repeated: int = 0
    again: int = 0
    held: bool = False
    source: Mapping[str, Any] = field(default_factory=dict)
    replaced: int = 0
    repeated: int = 0
    taken_at: str = ""
    position: int = 0
    came_again: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def outcome(
    arrival: Arrival,
    *,
    delivered: int,
    refused: Refused,
    fault: str | None,
    snapshot: str | None,
    judged: int,
    rules: Sequence[str],
    source: Source,
    held: bool = False,
    replaced: int = 0,
    repeated: int = 0,
    taken_at: datetime,
    position: int,
    before: Mapping[str, Any] | None = None,
) -> Outcome:
    """Count a delivery's refused rows by reason; a row with two reasons counts under both. `rules`: the reasons of the
    expectations that `judged` rows were held against. `before`: its outcome when the same bytes came earlier."""
    accepted, reasons = delivered - len(refused) - repeated, by_reason(refused)
    had = before or {"accepted": 0, "repeated": 0}
    return Outcome(
        arrival.sha256,
        arrival.name,
        arrival.size,
        arrival.landed_at.isoformat(),
        HELD_BACK if held else _verdict(accepted + repeated, refused, fault),
        fault,
        delivered,
        accepted,
        len(refused),
        reasons,
        snapshot if accepted + repeated else None,
        judged,
        {rule: reasons.get(rule, 0) for rule in rules},
        accepted - int(had["accepted"]),
        repeated - int(had["repeated"]) if before else 0,
        again=attempt(before) + 1 if before else 0,
        held=held,
        source=as_read(source),
        replaced=replaced,
        repeated=repeated,
        taken_at=taken_at.isoformat(),
        position=position,
        came_again=before is not None,
    )


def in_order(outcome_json: Mapping[str, Any]) -> tuple[datetime, int, datetime]:
    """Return what sorts outcomes in the order in which their deliveries were taken in."""
    taken_at, landed_at = (datetime.fromisoformat(outcome_json[name]) for name in ("taken_at", "landed_at"))
    return taken_at, int(outcome_json["position"]), landed_at


def outcome_again(
    before: Mapping[str, Any],
    *,
    delivered: int,
    refused: Refused,
    added: int,
    snapshot: str | None,
    judged: int,
    rules: Sequence[str],
    source: Source,
    held: bool = False,
    replaced: int = 0,
    repeated: int = 0,
) -> Outcome:
    """Return the outcome of a delivery that was ingested again, with `added` newly accepted rows."""
    accepted, reasons = delivered - len(refused) - repeated, by_reason(refused)
    return Outcome(
        str(before["sha256"]),
        str(before["file"]),
        int(before["bytes"]),
        str(before["landed_at"]),
        HELD_BACK if held else _verdict(accepted + repeated, refused, None),
        None,
        delivered,
        accepted,
        len(refused),
        reasons,
        snapshot if added else before["snapshot"],
        judged,
        {rule: reasons.get(rule, 0) for rule in rules},
        added,
        repeated - int(before["repeated"]),
        attempt(before) + 1,
        held,
        as_read(source),
        replaced,
        repeated,
        str(before["taken_at"]),
        int(before["position"]),
    )


def comings(told: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last outcome of each time that the same bytes were delivered, newest first. Pure.

    `told`: all outcomes of these bytes, newest first.
    """
    return [outcome for i, outcome in enumerate(told) if i == 0 or told[i - 1].get("came_again")]


def as_read(source: Source) -> dict[str, Any]:
    """Return the format and the dialect of a source, to be stored with what was read so."""
    return source.model_dump(mode="json", include={"format", *Dialect.model_fields})


def read_by(outcome_json: Mapping[str, Any], pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with the format and the dialect with which a delivery was read."""
    stored = outcome_json.get("source")
    if not stored:
        return pipeline
    source = Source.model_validate({"prefix": pipeline.source.prefix, **stored})
    return pipeline.model_copy(update={"source": source})


def attempt(outcome_json: Mapping[str, Any]) -> int:
    """Return how often a delivery was ingested again."""
    return int(outcome_json.get("again", 0))


def _verdict(good: int, refused: Refused, fault: str | None) -> str:
    return REFUSED if fault or not good else "accepted in part" if len(refused) else "accepted"


def good(outcome_json: Mapping[str, Any]) -> int:
    """Return how many rows of a delivery were not refused: the accepted and the repeated ones. Pure."""
    return int(outcome_json["accepted"]) + int(outcome_json["repeated"])


def outcome_key(pipeline: str, sha256: str) -> str:
    return f"deliveries/{pipeline}/{sha256}.json"


def is_known(site: Site, bucket: str, pipeline: str, sha256: str) -> bool:
    """Return whether a delivery with these bytes was ingested before and its outcome is readable."""
    return _recorded(site, bucket, outcome_key(pipeline, sha256)) is not None


def recorded(site: Site, bucket: str, pipeline: str, sha256: str) -> Mapping[str, Any] | None:
    """Return the outcome of a delivery, or None if it is missing or damaged. Raises SiteError."""
    return _recorded(site, bucket, outcome_key(pipeline, sha256))


def read(site: Site, bucket: str, pipeline: str, sha256: str) -> dict[str, Any]:
    """Return the outcome of a delivery. Raises ObjectMissing."""
    found: dict[str, Any] = json.loads(site.read(bucket, outcome_key(pipeline, sha256)))
    return found


def record(site: Site, bucket: str, pipeline: str, outcome_json: Mapping[str, Any]) -> None:
    """Write the outcome of a delivery, which makes it known. The same or an earlier outcome changes nothing."""
    key, body = outcome_key(pipeline, str(outcome_json["sha256"])), canonical_json.encode(outcome_json)
    if site.write_new(bucket, key, body, content_type="application/json"):
        if gives_back(site, bucket, key, body):
            return
    elif (before := _recorded(site, bucket, key)) and attempt(outcome_json) <= attempt(before):
        return
    put_again(site, bucket, key, body, content_type="application/json")


def _recorded(site: Site, bucket: str, key: str) -> Mapping[str, Any] | None:
    """Return the outcome at a key, or None if missing or damaged. Raises SiteError."""
    try:
        found = json.loads(site.read(bucket, key))
    except (ObjectMissing, IntegrityError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def outcomes(site: Site, bucket: str, pipeline: str) -> list[dict[str, Any]]:
    """Return the outcome of every delivery so far, in order of their keys."""
    keys = [found.key for found in site.list(bucket, f"deliveries/{pipeline}/")]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="outcomes") as pool:
        return list(pool.map(lambda key: json.loads(site.read(bucket, key)), keys))


def totals(site: Site, bucket: str, pipeline: str) -> dict[str, int]:
    """Return rows by `COUNTS` over all deliveries so far, and the number of deliveries."""
    found = outcomes(site, bucket, pipeline)
    counted = {name: sum(delivery[name] for delivery in found) for name in COUNTS}
    return {"deliveries": len(found), **counted}
