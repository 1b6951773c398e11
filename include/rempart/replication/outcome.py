"""What a run is told, what it plans, and what comes of it: plain values that tasks hand on as JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rempart.errors import RempartError
from rempart.replication.guards import DeleteLimits
from rempart.replication.plan import ACCEPTED, Copy, Replica
from rempart.replication.read_back import READ_BACK_WITHIN

SHOWN = 100
"""Failures that are named."""
SAMPLES = 10_000
"""Lags that are kept."""


@dataclass(frozen=True)
class Rules:
    """How a pair is replicated. `keep`: what was hidden or overwritten at the target stays readable so long."""

    limits: DeleteLimits = field(default_factory=DeleteLimits)
    sightings: int = 2
    interval: timedelta = timedelta(minutes=10)
    keep: timedelta = timedelta(days=400)
    compare: timedelta = timedelta(days=1)
    tags: bool = True
    transfers: int = 32


@dataclass(frozen=True)
class Trouble:
    """One key that did not reach the target."""

    key: str
    what: str
    hint: str
    transient: bool


@dataclass
class Outcome:
    """What came of a run, or of a part of it; parts add up.

    Of `verified` objects `accepted` were not read at the target yet, the oldest of them since `unread`; of `unvouched`
    nobody vouches for the source's bytes.
    """

    objects: int = 0
    bytes: int = 0
    verified: int = 0
    kept: int = 0
    copied: int = 0
    copied_bytes: int = 0
    hidden: int = 0
    purged: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    oldest: datetime | None = None
    failures: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    accepted: int = 0
    unread: datetime | None = None
    unvouched: int = 0

    def add(self, other: Outcome) -> None:
        for name in (
            "objects",
            "bytes",
            "verified",
            "kept",
            "copied",
            "copied_bytes",
            "hidden",
            "purged",
            "waiting",
            "waiting_bytes",
            "failures",
            "accepted",
            "unvouched",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.troubles = [*self.troubles, *other.troubles][:SHOWN]
        self.lags = [*self.lags, *other.lags][:SAMPLES]
        self.waits_since(other.oldest)
        self._unread_since(other.unread)

    def arrived(self, row: Replica) -> None:
        """An object that has a verified replica now."""
        self.verified += 1
        self.unvouched += row.vouched == "none"
        if row.basis == ACCEPTED:
            self.accepted += 1
            self._unread_since(row.copied)

    def departed(self, row: Replica) -> None:
        """One that was counted by `arrived`, and has none."""
        self.verified -= 1
        self.unvouched -= row.vouched == "none"
        self.accepted -= row.basis == ACCEPTED

    def _unread_since(self, moment: datetime | None) -> None:
        if moment is not None:
            self.unread = min(self.unread or moment, moment)

    def waits_since(self, moment: datetime | None) -> None:
        if moment is not None:
            self.oldest = min(self.oldest or moment, moment)

    def trouble(self, key: str, error: RempartError, copies: Sequence[Copy]) -> None:
        """A key that did not reach the target, and its copies, which are still to be made."""
        self.failures += 1
        self.waits(copies)
        if len(self.troubles) < SHOWN:
            self.troubles.append(Trouble(key, error.what, error.hint, error.transient))

    def waits(self, copies: Sequence[Copy]) -> None:
        """Copies that are still to be made."""
        self.waiting += len(copies)
        self.waiting_bytes += sum(copy.source.size for copy in copies)
        self.waits_since(min((copy.source.modified for copy in copies), default=None))


@dataclass(frozen=True)
class Planned:
    """What is to be done in one bucket: pieces with copies, pieces of keys to hide, and what the merge saw.

    `outcome`: as it stands before anything is copied; `todo`: the copies of the pieces, as waiting.
    """

    bucket: str
    began: datetime
    pieces: tuple[str, ...]
    hiding: tuple[str, ...]
    versions: bool
    hides: int
    known: int
    outcome: Outcome
    todo: Outcome


@dataclass(frozen=True)
class Grade:
    """What a green stands on: `read_back` objects were read at the target, `accepted` were taken by checksum alone and
    are read back by `due`; for the source's bytes of `unvouched` nobody vouches."""

    read_back: int
    accepted: int
    due: datetime | None
    unvouched: int

    def __str__(self) -> str:
        shown = "read back"
        if self.accepted:
            shown = f"accepted by checksum, read back due {self.due:%Y-%m-%d %H:%M} UTC" if self.due else "accepted"
        return shown if not self.unvouched else f"{shown}; unvouched: {self.unvouched}"


def grade_of(outcome: Outcome) -> Grade:
    """The grade of what an outcome calls verified."""
    due = outcome.unread + READ_BACK_WITHIN if outcome.unread and outcome.accepted else None
    return Grade(outcome.verified - outcome.accepted, outcome.accepted, due, outcome.unvouched)


def lag_seconds(oldest: datetime | None, now: datetime) -> float:
    """Age of the oldest change at the source that has no verified replica; 0 when every change has one."""
    return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())


def quantiles(values: Collection[float]) -> tuple[float, float, float]:
    """Median, 95th percentile and maximum; zeros for none."""
    if not values:
        return 0.0, 0.0, 0.0
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], ordered[-1]
