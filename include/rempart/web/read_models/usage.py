"""Show a site's measured content, its growth, and its locks that end soon. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rempart.ledger.port import Evidence
from rempart.web.facts import CockpitFacts
from rempart.web.read_models.messages import State, worst

OLD = timedelta(days=3)
"""The DAG `verify_replicas` measures twice a day. A measurement older than this counts as unknown."""


@dataclass(frozen=True)
class Bucket:
    """One bucket when it was measured; `why` it was not, and then nothing else."""

    name: str
    objects: int | None
    bytes: int | None
    old_versions: int | None
    old_bytes: int | None
    markers: int | None
    why: str | None


@dataclass(frozen=True)
class Ending:
    """A lock that ends soon, or is missing (`until` is None): then anyone with the site's key can delete the object."""

    name: str
    until: datetime | None


@dataclass(frozen=True)
class Locks:
    """The locks of one bucket, by what they protect (`protects`). Of those that end `within_seconds`, the first few by
    name.

    Such locks are bad for restore points, because each backup should extend them. They are a warning for evidence,
    whose retention may be over. `first_ends`: the earliest end of all checked locks.
    """

    bucket: str
    protects: str
    state: State
    looked_at: int | None
    within_seconds: float | None
    lapsing: int | None
    first_ends: datetime | None
    named: tuple[Ending, ...]
    why: str | None


@dataclass(frozen=True)
class UsageSample:
    """Content of a site at a moment: bytes of current objects and of old versions."""

    at: datetime
    bytes: int
    old_bytes: int


@dataclass(frozen=True)
class Usage:
    """Last measured content of a site. `state` is unknown if a part was not reported, or the measurement is old.

    `since`: objects that were replicated to the site afterwards.
    """

    seq: int
    at: datetime
    age_seconds: float
    old: bool
    state: State
    buckets: tuple[Bucket, ...]
    locks: tuple[Locks, ...]
    history: tuple[UsageSample, ...]
    since: int = 0

    @property
    def whole(self) -> bool:
        """Return whether all parts are known and not too old."""
        return not (self.old or any(bucket.why for bucket in self.buckets) or any(lock.why for lock in self.locks))


def usage(facts: CockpitFacts, site: str, now: datetime) -> Usage | None:
    """Return the last measurement of a site, and its size over time, oldest first; None if it was never measured."""
    records = [record for record in facts.of("usage") if record.subject == site]
    if not records:
        return None
    newest, age = records[0], max(now - records[0].at, timedelta())
    buckets = tuple(_bucket(name, told) for name, told in sorted(newest.body["buckets"].items()))
    locks = tuple(_locks(name, told) for name, told in sorted(newest.body["locks"].items()))
    blind = age > OLD or any(bucket.why for bucket in buckets)
    states: list[State] = [lock.state for lock in locks]
    history = tuple(_held(record) for record in reversed(records) if not _partial(record))
    state = worst([*states, "unknown" if blind else "good"])
    arrived = [
        record for record in facts.of("replication") if record.subject.endswith(f"->{site}") and record.at > newest.at
    ]
    since = sum(int(record.body.get("copied", 0)) for record in arrived)
    return Usage(newest.seq, newest.at, round(age.total_seconds(), 1), age > OLD, state, buckets, locks, history, since)


def _bucket(name: str, told: Mapping[str, Any]) -> Bucket:
    if "why" in told:
        return Bucket(name, None, None, None, None, None, str(told["why"]))
    objects, size, old, old_size, markers = (
        int(told[figure]) for figure in ("objects", "bytes", "old_versions", "old_bytes", "markers")
    )
    return Bucket(name, objects, size, old, old_size, markers, None)


def _locks(bucket: str, told: Mapping[str, Any]) -> Locks:
    protects = str(told["protects"])
    if "why" in told:
        return Locks(bucket, protects, "unknown", None, None, None, None, (), str(told["why"]))
    soon, ends = int(told["lapsing"]), told["first_ends"]
    state: State = "good" if not soon else "bad" if protects == "restore-points" else "warning"
    return Locks(
        bucket,
        protects,
        state,
        int(told["looked_at"]),
        float(told["within_seconds"]),
        soon,
        datetime.fromisoformat(ends) if ends else None,
        tuple(
            Ending(str(lock["name"]), datetime.fromisoformat(lock["until"]) if lock["until"] else None)
            for lock in told["named"]
        ),
        None,
    )


def _partial(record: Evidence) -> bool:
    return any("why" in bucket for bucket in record.body["buckets"].values())


def _held(record: Evidence) -> UsageSample:
    found = record.body["buckets"].values()
    return UsageSample(
        record.at, sum(int(bucket["bytes"]) for bucket in found), sum(int(bucket["old_bytes"]) for bucket in found)
    )
