"""The cursor of a source that is read in rows: how far it is, and which rows of its overlap were taken. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from rempart.ingestion.parsing import instants, recognise
from rempart.settings.columns import Column
from rempart.settings.sources import Cursor, Dialect

SEEN = 2_000
"""Most rows of the overlap that are remembered. A row beyond is delivered again, which `newest` accepts."""

_FIRST = datetime(1, 1, 1, tzinfo=UTC)
Parse = Callable[[Any], datetime | None]


def parser(column: Column, dialect: Dialect) -> Parse:
    """Return how a value of the cursor's column becomes an instant; None for a value that is none."""

    def parse(value: Any) -> datetime | None:
        if not isinstance(value, str):
            return None
        if column.type == "timestamp":
            found = instants.instant(value, dialect)
            return found if isinstance(found, datetime) else None
        day = recognise.day(value, dialect)
        return datetime.combine(day, time(), UTC) if day else None

    return parse


class Progress:
    """Follows the rows of one extraction: leaves out those already taken, and finds the cursor's next value.

    `state` has `cursor` (UTC, ISO 8601) and `seen` (digests). A cursor never passes `now`: a row with a time in the
    future would hide all that come before that time.
    """

    def __init__(
        self, cursor: Cursor, column: Column, dialect: Dialect, state: Mapping[str, str], now: datetime
    ) -> None:
        self._date = column.type == "date"
        # a day goes on after its rows were read
        self._overlap, self._now = max(cursor.overlap, timedelta(days=1)) if self._date else cursor.overlap, now
        self._name, self._parse = cursor.column, parser(column, dialect)
        self._old, self._state = frozenset(state.get("seen", "").split()), state
        self._most = datetime.fromisoformat(state["cursor"]) if state.get("cursor") else None
        self._taken: dict[str, datetime] = {}
        self.rows = self.readable = 0

    @property
    def since(self) -> str | None:
        """Return the value from which rows are wanted: the cursor less the overlap, as ISO 8601 in UTC."""
        if self._most is None:
            return None
        at = self._edge()
        return at.date().isoformat() if self._date else at.isoformat().replace("+00:00", "Z")

    def is_new(self, row: Mapping[str, Any], line: bytes) -> bool:
        """Return whether the row was not taken before, and take it."""
        self.rows += 1
        at = self._parse(row.get(self._name))
        if at is None:  # the row is judged as any other, and refused with its reason
            return True
        self.readable += 1
        digest = hashlib.blake2b(line, digest_size=16).hexdigest()
        self._most = max(self._most or _FIRST, min(at, self._now))
        if at >= self._edge():
            self._taken[digest] = at
            if len(self._taken) > 4 * SEEN:
                self._taken = self._kept()
        return digest not in self._old

    def _edge(self) -> datetime:
        """Return the time from which rows are read again."""
        most = self._most or _FIRST
        return most - self._overlap if most - _FIRST > self._overlap else _FIRST

    def _kept(self) -> dict[str, datetime]:
        edge = self._edge()
        near = sorted(((at, digest) for digest, at in self._taken.items() if at >= edge), reverse=True)
        return {digest: at for at, digest in near[:SEEN]}

    def state(self) -> dict[str, str]:
        """Return `cursor` and `seen` after the rows that were taken."""
        if not self.readable or self._most is None:
            return {name: self._state[name] for name in ("cursor", "seen") if name in self._state}
        return {"cursor": self._most.isoformat(), "seen": " ".join(sorted(self._kept()))}
