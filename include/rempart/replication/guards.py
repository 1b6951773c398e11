"""Limit what a run hides at the target, in case objects vanished at the source by accident. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.replication.plan import Replica


@dataclass(frozen=True)
class DeleteLimits:
    """Limits of vanished keys in one run without confirmation: `share` of the known keys, and `count`.

    Below `floor` keys the share is ignored.
    """

    share: float = 0.1
    count: int = 10_000
    floor: int = 5


def stop_and_ask(hides: int, known: int, limits: DeleteLimits, accepted: int = 0) -> str | None:
    """Return why this many keys need confirmation before they are hidden at the target, or None."""
    if hides <= max(accepted, limits.floor):
        return None
    if hides > limits.count:
        return f"{hides} keys are gone at the source; at most {limits.count} are hidden in one run"
    if hides > limits.share * known:
        return f"{hides} of {known} keys are gone at the source ({hides / known:.0%}; at most {limits.share:.0%})"
    return None


def may_hide(replica: Replica, now: datetime, *, sightings: int, interval: timedelta) -> bool:
    """Return whether a key missing at the source may be hidden at the target: never after one listing alone."""
    return (
        replica.missing_since is not None
        and replica.hidden is None
        and replica.sightings >= sightings
        and now - replica.missing_since >= interval
    )
