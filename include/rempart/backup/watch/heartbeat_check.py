"""Judge heartbeats. A missing heartbeat is red, and so is anything unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from rempart.backup.watch.heartbeat import Heartbeat

SKEW = timedelta(minutes=2)
"""Two clocks may differ by this."""
_LONGEST = timedelta(days=365_000)

State = Literal["fresh", "unreadable", "missing", "forged", "skew", "failed", "late", "behind"]


@dataclass(frozen=True)
class Limit:
    """Maximum age of a kind's heartbeat, and maximum lag; None is not judged.

    `rpo`: age of the backup's restore point. `lag`: of a replication.
    """

    max_interval: timedelta
    rpo: timedelta | None = None
    lag: timedelta | None = None


@dataclass(frozen=True)
class ReceivedHeartbeat:
    """A heartbeat whose signature holds, and when the site stored it, by the site's own clock."""

    heartbeat: Heartbeat
    stored: datetime


@dataclass(frozen=True)
class Unheard:
    """Reason why no trusted heartbeat exists."""

    state: Literal["unreadable", "missing", "forged"]
    why: str


@dataclass(frozen=True)
class HeartbeatVerdict:
    """Fault of one kind (the worst first in `detail`), or that it is fresh; `at` is its last heartbeat."""

    kind: str
    state: State
    detail: str
    at: datetime | None = None

    @property
    def ok(self) -> bool:
        return self.state == "fresh"


def judge(
    seen: Mapping[str, ReceivedHeartbeat | Unheard], limits: Mapping[str, Limit], now: datetime
) -> tuple[HeartbeatVerdict, ...]:
    """Return one verdict for each limit, in order. A kind without a result counts as missing."""
    nothing = Unheard("missing", "this kind was not read")
    return tuple(_judge(kind, seen.get(kind, nothing), limit, now) for kind, limit in limits.items())


def _judge(kind: str, seen: ReceivedHeartbeat | Unheard, limit: Limit, now: datetime) -> HeartbeatVerdict:
    if isinstance(seen, Unheard):
        return HeartbeatVerdict(kind, seen.state, seen.why)
    faults = list(_faults(seen, limit, now))
    at = seen.heartbeat.at
    if not faults:
        return HeartbeatVerdict(kind, "fresh", f"{span(now - at)} ago", at)
    return HeartbeatVerdict(kind, faults[0][0], "; ".join(detail for _, detail in faults), at)


def _faults(seen: ReceivedHeartbeat, limit: Limit, now: datetime) -> Iterator[tuple[State, str]]:
    beat, stored = seen.heartbeat, seen.stored
    if beat.at - now > SKEW:
        yield (
            "skew",
            (f"it is dated {span(beat.at - now)} in the future: the clock of the platform or of this machine is wrong"),
        )
    elif stored - now > SKEW:
        yield (
            "skew",
            (
                f"the site's date of it is {span(stored - now)} in the future: the clock of the site or of "
                "this machine is wrong"
            ),
        )
    if abs(stored - beat.at) > SKEW:
        clocks = f"the platform wrote it at {_clock(beat.at)}, the site stored it at {_clock(stored)}"
        yield "skew", f"{clocks}: one of the two clocks is wrong, or somebody stored an old heartbeat again"
    if beat.facts.get("ok") is False:
        yield "failed", "the last run failed"
    if beat.facts.get("consistent") is False:
        yield "failed", "the restore point is not consistent"
    if beat.facts.get("hidden"):
        yield "failed", "somebody hid objects at the site that restore points need: run `rempart backup repair`"
    if (age := now - beat.at) > limit.max_interval:
        allowed = f"the last heartbeat is {span(age)} old, the limit is {span(limit.max_interval)}"
        yield "late", f"{allowed}: late by {span(age - limit.max_interval)}"
    if limit.rpo is not None:
        created = beat.moment("created_at")
        if created is None:
            yield "behind", "it lacks the age of the restore point"
        elif (age := now - created) > limit.rpo:
            yield "behind", f"the newest restore point is {span(age)} old, the objective is {span(limit.rpo)}"
    if limit.lag is not None:
        lag = beat.seconds("lag_seconds")
        if lag is None:
            yield "behind", "it lacks the lag"
        elif lag > limit.lag:
            yield "behind", f"the replica lags by {span(lag)}, the objective is {span(limit.lag)}"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span(length: timedelta) -> str:
    """Format a duration in its two largest units: `2 h 5 min`."""
    seconds = int(min(abs(length), _LONGEST).total_seconds())
    for (name, size), (below, small) in pairwise((("d", 86400), ("h", 3600), ("min", 60), ("s", 1))):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"
