"""What keeps a run from hiding at the target what is gone at the source by accident. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.replication.plan import Replica


@dataclass(frozen=True)
class DeleteLimits:
    """How much may vanish in one run without somebody's word: `share` of the known keys, and `count` of them.

    Below `floor` keys the share says nothing.
    """

    share: float = 0.1
    count: int = 10_000
    floor: int = 5


def stop_and_ask(hides: int, known: int, limits: DeleteLimits, accepted: int = 0) -> str | None:
    """Why so many keys are not hidden at the target without somebody's word; None if they may be."""
    if hides <= max(accepted, limits.floor):
        return None
    if hides > limits.count:
        return f"{hides} keys are gone at the source; at most {limits.count} are hidden in one run"
    if hides > limits.share * known:
        return f"{hides} of {known} keys are gone at the source ({hides / known:.0%}; at most {limits.share:.0%})"
    return None


def may_hide(replica: Replica, now: datetime, *, sightings: int, interval: timedelta) -> bool:
    """Whether a key that the source no longer lists may be hidden at the target: never on one sighting."""
    return (
        replica.missing_since is not None
        and replica.hidden is None
        and replica.sightings >= sightings
        and now - replica.missing_since >= interval
    )
