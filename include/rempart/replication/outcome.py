"""Define rules, plan and outcome of a run: plain values that tasks pass on as JSON."""

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
    """How a pair is replicated. `keep`: how long hidden or overwritten versions stay readable at the target."""

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
    """Outcome of a run, or of a part of it; parts can be added.

    Of `verified` objects, `accepted` were not read at the target yet, the oldest since `unread`; `unvouched` have no
    writer's digest of the source's bytes.
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
        """Count an object that now has a verified replica."""
        self.verified += 1
        self.unvouched += row.vouched == "none"
        if row.basis == ACCEPTED:
            self.accepted += 1
            self._unread_since(row.copied)

    def departed(self, row: Replica) -> None:
        """Uncount an object of `arrived` that has no verified replica."""
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
        """Count a key that failed, and its pending copies."""
        self.failures += 1
        self.waits(copies)
        if len(self.troubles) < SHOWN:
            self.troubles.append(Trouble(key, error.what, error.hint, error.transient))

    def waits(self, copies: Sequence[Copy]) -> None:
        """Count pending copies."""
        self.waiting += len(copies)
        self.waiting_bytes += sum(copy.source.size for copy in copies)
        self.waits_since(min((copy.source.modified for copy in copies), default=None))


@dataclass(frozen=True)
class Planned:
    """Work in one bucket: pieces with copies, pieces of keys to hide, and the counts of the merge.

    `outcome`: the state before any copy; `todo`: the copies of the pieces, as pending.
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
    last: tuple[str, ...] = ()
    """Pieces of logs of tables, which `settle` copies after all data files."""


@dataclass(frozen=True)
class Grade:
    """Basis of a verification:

    `read_back` objects were read at the target, `accepted` only matched a checksum and are read back by `due`;
    `unvouched` have no writer's digest.
    """

    read_back: int
    accepted: int
    due: datetime | None
    unvouched: int

    def __str__(self) -> str:
        shown = "read back"
        if self.accepted:
            shown = f"accepted by checksum, read back due {self.due:%Y-%m-%d %H:%M} UTC" if self.due else "accepted"
        return shown if not self.unvouched else f"{shown}; without a writer's digest: {self.unvouched}"


def grade_of(outcome: Outcome) -> Grade:
    """Return the grade of an outcome's verified objects."""
    due = outcome.unread + READ_BACK_WITHIN if outcome.unread and outcome.accepted else None
    return Grade(outcome.verified - outcome.accepted, outcome.accepted, due, outcome.unvouched)


def lag_seconds(oldest: datetime | None, now: datetime) -> float:
    """Return the age of the oldest change at the source without a verified replica; 0 if there is none."""
    return 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())


def quantiles(values: Collection[float]) -> tuple[float, float, float]:
    """Return median, 95th percentile and maximum; zeros without values."""
    if not values:
        return 0.0, 0.0, 0.0
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], ordered[-1]
