"""Whom to tell of what: once when something turns red, again while it stays red, once when it is green again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from rempart.backup.watch.heartbeat_check import HeartbeatVerdict


@dataclass(frozen=True)
class News:
    """One thing to tell."""

    what: Literal["red", "still red", "green again"]
    verdict: HeartbeatVerdict


def due(
    moments: Mapping[str, datetime], verdicts: Iterable[HeartbeatVerdict], now: datetime, remind: timedelta
) -> tuple[News, ...]:
    """Return the news for one recipient. `told`: the last notification about each red kind.

    A clock that was set back does not suppress a reminder.
    """
    news = []
    for verdict in verdicts:
        last = moments.get(verdict.kind)
        if verdict.ok and last:
            news.append(News("green again", verdict))
        elif not verdict.ok and last is None:
            news.append(News("red", verdict))
        elif not verdict.ok and last and abs(now - last) >= remind:
            news.append(News("still red", verdict))
    return tuple(news)


def after(
    moments: Mapping[str, datetime], news: Iterable[News], verdicts: Iterable[HeartbeatVerdict], now: datetime
) -> dict[str, datetime]:
    """Return the recipient's state after the news were sent. Unwatched kinds are forgotten."""
    watched = {verdict.kind for verdict in verdicts}
    left = {kind: at for kind, at in moments.items() if kind in watched}
    for change in news:
        if change.what == "green again":
            left.pop(change.verdict.kind, None)
        else:
            left[change.verdict.kind] = now
    return left
