"""Decide which attempt of a Spark job is next, from pool to pool: a new driver, an old one, or none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rempart.spark.order import ATTEMPTS

Outcome = Literal["succeeded", "capacity", "interrupted", "unreachable", "denied", "failed", "ended"]
"""How an attempt ended, as for training jobs (`rempart.training.placement`)."""
LOST: frozenset[Outcome] = frozenset(("interrupted", "unreachable"))
"""Outcomes after which the job runs once more."""


@dataclass(frozen=True)
class DriverSeen:
    """A driver of the job in a pool: the number of its attempt, and whether it may still give a result."""

    pool: str
    number: int
    goes_on: bool


@dataclass(frozen=True)
class TriedAttempt:
    """An attempt of this task that has ended."""

    pool: str
    number: int
    outcome: Outcome
    cause: str


@dataclass(frozen=True)
class Begin:
    """Make a driver in a pool, as this attempt."""

    pool: str
    number: int


@dataclass(frozen=True)
class Adopt:
    """Go on with a driver that an earlier task made."""

    pool: str
    number: int


@dataclass(frozen=True)
class GiveUp:
    """No attempt is left. `outcome`: that of the attempt that was lost last, if too many were; `denied` if the policy
    refused each pool; else `capacity`.
    """

    outcome: Outcome
    why: str


def next_attempt(
    pools: Sequence[str], drivers: Iterable[DriverSeen], tried: Sequence[TriedAttempt], recorded: Iterable[int] = ()
) -> Begin | Adopt | GiveUp:
    """Return what a task does next with a job. `recorded`: numbers of attempts in the ledger; none is used twice.

    A pool that had no place, did not answer or was denied is not asked again by this task. A job whose driver was lost
    runs ATTEMPTS times.
    """
    seen = list(drivers)
    ended = {*(attempt.number for attempt in tried), *recorded}
    running = [driver for driver in seen if driver.goes_on and driver.pool in pools and driver.number not in ended]
    if running:
        newest = max(running, key=lambda driver: driver.number)
        return Adopt(newest.pool, newest.number)
    lost = [attempt for attempt in tried if attempt.outcome in LOST]
    if len(lost) >= ATTEMPTS:
        return GiveUp(lost[-1].outcome, lost[-1].cause)
    closed = {attempt.pool for attempt in tried if attempt.outcome not in LOST}
    number = 1 + max([0, *(driver.number for driver in seen), *ended])
    for pool in pools:
        if pool not in closed:
            return Begin(pool, number)
    all_denied = bool(tried) and all(attempt.outcome == "denied" for attempt in tried)
    why = "; ".join(f"pool {attempt.pool}: {attempt.cause}" for attempt in tried)
    return GiveUp("denied" if all_denied else "capacity", why or "no pool is allowed")
