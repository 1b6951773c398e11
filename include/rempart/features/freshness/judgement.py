"""Judge the age of a feature view's newest online value. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Freshness = Literal["fresh", "stale", "never loaded", "no limit", "unknown"]
"""State of a view. Only `fresh` is good: an age without a limit is not judged, and an unknown age is not fresh."""

CLOCKS_DIFFER = timedelta(minutes=2)
"""A load that is further in the future than this was recorded by another clock: the age is then unknown."""


@dataclass(frozen=True)
class ViewContent:
    """Content of a view's online table: its entities, and the newest event time (UTC) among their rows.

    `loaded_at`: time of the load that the table was written from; None if the view was never materialized.
    """

    view: str
    entities: int
    newest: datetime | None
    loaded_at: datetime | None

    @property
    def valued_at(self) -> datetime | None:
        """Return the time of the newest value. A value is not newer than its load, also if its event is planned."""
        if self.newest is None or self.loaded_at is None:
            return None
        return min(self.newest, self.loaded_at)


@dataclass(frozen=True)
class ViewFreshness:
    """A view's freshness. `age`: None unless the time of the newest value is known; `limit`: None if none is set."""

    state: Freshness
    age: timedelta | None
    limit: timedelta | None


def judge(content: ViewContent | None, limit: timedelta | None, now: datetime, *, known: bool = True) -> ViewFreshness:
    """Return the freshness of a view at `now` (UTC).

    `content` is None if no materialization is on record. `known` is false if the records could not be read: then the
    state is unknown.
    """
    if not known:
        return ViewFreshness("unknown", None, limit)
    if content is None or content.loaded_at is None:
        return ViewFreshness("never loaded", None, limit)
    if content.valued_at is None or content.loaded_at - now > CLOCKS_DIFFER:
        return ViewFreshness("unknown", None, limit)
    age = max(now - content.valued_at, timedelta())
    if limit is None:
        return ViewFreshness("no limit", age, None)
    return ViewFreshness("fresh" if age <= limit else "stale", age, limit)
