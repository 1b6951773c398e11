"""Restore points according to the ledger: which exist, their content, and their drills. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.backup.databases.not_held import is_whole, of_record
from rempart.ledger.port import Evidence
from rempart.web.facts import CockpitFacts
from rempart.web.read_models.messages import Moment, State, moment


@dataclass(frozen=True)
class Proof:
    """One drill of a point, with its checks in the words of the record."""

    seq: int
    at: datetime
    scenario: str
    ok: bool
    proved: bool
    rto_seconds: float | None
    rpo_seconds: float | None
    checks: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """One restore point. `bytes` of its dumps; `bytes_added`: bytes that it added to the backups; `link` of the chain.

    `state`: good if a drill proved it; a warning if it was not tried yet, or lacks a store that no champion needs; bad
    if it is inconsistent, failed, or lacks a store that a champion needs.
    """

    id: str
    seq: int
    site: str
    created_at: datetime
    state: State
    consistent: bool
    dangling: tuple[str, ...]
    not_held: tuple[str, ...]
    bytes: int
    bytes_added: int | None
    object_bytes: int
    objects: int
    databases: tuple[str, ...]
    champions: Mapping[str, str]
    link: int | None
    manifest_sha256: str
    barrier_seconds: float
    hold: str | None
    proof: Proof | None


@dataclass(frozen=True)
class Points:
    """The existing points, newest first, and the number of pruned ones."""

    moment: Moment
    points: tuple[Point, ...]
    pruned: int


@dataclass(frozen=True)
class Explained:
    """One point, all its drills, and the placement decision that allowed it."""

    moment: Moment
    point: Point
    drills: tuple[Proof, ...]
    decision: Mapping[str, Any] | None


def pruned(facts: CockpitFacts) -> frozenset[str]:
    """Return ids of points that a prune deleted, as far as the facts reach.

    What a prune was about to delete counts while the record of its end is not there: it may be gone.
    """
    gone, begun = set[str](), dict[str, set[str]]()
    for record in reversed(facts.of("prune")):
        if record.body.get("state") == "begins":
            begun[record.subject] = {str(point) for point in record.body["deletes"]["points"]}
        else:
            begun.pop(record.subject, None)
            gone |= {str(point) for point in record.body.get("deleted") or ()}
    return frozenset(gone.union(*begun.values()))


def standing(facts: CockpitFacts) -> tuple[Evidence, ...]:
    """Return records of the points that no prune deleted, newest first."""
    gone = pruned(facts)
    return tuple(record for record in facts.of("restore-point") if record.subject not in gone)


def proof(record: Evidence) -> Proof:
    """Return a drill's record for the page."""
    body = record.body
    return Proof(
        record.seq,
        record.at,
        str(body.get("scenario", "routine")),
        body["ok"] is True,
        body.get("proved", body["ok"]) is True,
        body.get("rto_seconds"),
        body.get("rpo_seconds"),
        tuple(body.get("checks", ())),
    )


def points(facts: CockpitFacts, now: datetime) -> Points:
    """Return the page's content."""
    drills, holds = _drills(facts), _holds(facts)
    found = tuple(
        _point(record, drills.get(record.subject, ()), holds.get(record.subject)) for record in standing(facts)
    )
    return Points(moment(facts, now), found, len(pruned(facts)))


def explain(facts: CockpitFacts, point_id: str, now: datetime) -> Explained | None:
    """Return one existing point, or None if none has this id."""
    record = next((record for record in standing(facts) if record.subject == point_id), None)
    if record is None:
        return None
    drills = _drills(facts).get(point_id, ())
    point = _point(record, drills, _holds(facts).get(point_id))
    asked = [
        decision
        for decision in facts.of("decision")
        if decision.body.get("what") == "restore-point" and decision.seq < record.seq
    ]
    return Explained(moment(facts, now), point, drills, dict(asked[0].body) if asked else None)


def _drills(facts: CockpitFacts) -> dict[str, tuple[Proof, ...]]:
    found: dict[str, list[Proof]] = {}
    for record in facts.of("drill"):
        found.setdefault(record.subject, []).append(proof(record))
    return {point: tuple(drills) for point, drills in found.items()}


def _holds(facts: CockpitFacts) -> dict[str, str]:
    """Return the reason why each point is held, if its newest record says that it is held."""
    newest: dict[str, Mapping[str, Any]] = {}
    for record in facts.of("hold"):
        newest.setdefault(record.subject, record.body)
    return {point: str(body.get("why", "")) for point, body in newest.items() if body["held"]}


def _point(record: Evidence, drills: tuple[Proof, ...], hold: str | None) -> Point:
    body, last = record.body, drills[0] if drills else None
    dangling = tuple(str(reference) for reference in body.get("dangling") or ())
    absent = of_record(body)
    if not is_whole(body) or (last and not last.proved):
        state: State = "bad"
    else:
        state = "good" if last and not absent else "warning"
    return Point(
        record.subject,
        record.seq,
        str(body["site"]),
        datetime.fromisoformat(str(body["created_at"])),
        state,
        not dangling,
        dangling,
        tuple(str(store) for store in absent),
        int(body.get("bytes", 0)),
        body.get("bytes_added"),
        int(body.get("object_bytes", 0)),
        int(body.get("objects", 0)),
        tuple(body.get("databases") or ()),
        dict(body.get("champions") or {}),
        body.get("link"),
        str(body["manifest_sha256"]),
        float(body.get("barrier_seconds", 0.0)),
        hold,
        last,
    )
