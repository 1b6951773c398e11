"""Decide what a materialization writes to an online table, and what it compares. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FULL_COMPARISON_EVERY = timedelta(days=1)
"""Time after which all rows of both databases are compared, although nothing is known to have changed."""


LARGEST_PART = 10
"""If more than one in so many entities changed, all rows are compared: that costs no more, and tells more."""


@dataclass(frozen=True)
class Content:
    """Number of rows and sum of their hashes, which does not depend on their order."""

    rows: int = 0
    hashes: int = 0

    def replaced(self, old: Content, new: Content) -> Content:
        """Return the content after `new` took the place of `old`, a part of it."""
        return Content(self.rows - old.rows + new.rows, self.hashes - old.hashes + new.hashes)


@dataclass(frozen=True)
class Mark:
    """What a materialization left of a view: the time of the load that it wrote, and the content of the online table.

    Both databases keep it. It is equal only if both are as the same run left them.
    """

    at: datetime
    content: Content


@dataclass(frozen=True)
class ViewState:
    """State of a view before a materialization.

    `is_current`: the table is the view's current one; a former one may hold anything. `offline` and `online`: the mark
    of each database, None if there is none. The online database forgets its mark when a program other than a
    materialization writes to the table, replaces it or alters it. `compared_at`: when all rows were last compared.
    `vanished_at`: the last load that left an entity without a row.
    """

    is_current: bool = False
    offline: Mark | None = None
    online: Mark | None = None
    compared_at: datetime | None = None
    vanished_at: datetime | None = None

    @property
    def since(self) -> datetime | None:
        """Return the load after which entities must have changed to be written; None means that all are."""
        return self.offline.at if self.offline and self.is_current else None

    def in_future(self, now: datetime) -> bool:
        """Return whether the last full comparison is dated after `now`: a clock was wrong, so the date says nothing."""
        return self.compared_at is not None and self.compared_at > now

    def baseline(self, now: datetime) -> Baseline | None:
        """Return what is known of the table if that is enough to write and compare what changed since.

        None: all rows must be compared, since the table is not as the last run left it, an entity vanished, or the last
        full comparison is a day old or dated in the future.
        """
        if not self.is_current or self.offline is None or self.offline != self.online or self.compared_at is None:
            return None
        if self.vanished_at is not None and self.vanished_at > self.offline.at:
            return None
        if self.in_future(now) or now - self.compared_at >= FULL_COMPARISON_EVERY:
            return None
        return Baseline(self.offline.at, self.offline.content, self.compared_at)


@dataclass(frozen=True)
class Baseline:
    """A table that is as the last run left it: the load of that run, its content, and when all rows were compared."""

    since: datetime
    content: Content
    compared_at: datetime

    def is_part(self, entities: int) -> bool:
        """Return whether so many changed entities are few enough to be looked up one by one."""
        return entities * LARGEST_PART <= self.content.rows


@dataclass(frozen=True)
class Span:
    """Number of entities, and the first and last event time (UTC) of their rows."""

    entities: int = 0
    first: datetime | None = None
    last: datetime | None = None
