"""Read the new lines of a driver's log, again and again, without a line twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Read = Callable[[int | None], str]
"""Returns lines of a log with their times (RFC 3339), of the last so many seconds or of all."""
OVERLAP_SECONDS = 10
"""Seconds by which two reads overlap, since the clocks of nodes differ from ours."""


@dataclass
class DriverLog:
    """The state of reading a log: the time of its last line, the lines of that time, and the time of the last read."""

    read: Read
    clock: Callable[[], float]
    _last: str = ""
    _at_last: set[str] = field(default_factory=set)
    _read_at: float | None = None

    def new_lines(self) -> list[str]:
        """Return the lines since the last call, oldest first. Errors are those of `read`."""
        now = self.clock()
        since = None if self._read_at is None else int(now - self._read_at) + OVERLAP_SECONDS
        text = self.read(since)
        self._read_at = now
        found = []
        for row in text.splitlines():
            stamp, _, line = row.partition(" ")
            moment = _comparable(stamp)
            if moment < self._last or (moment == self._last and line in self._at_last):
                continue
            if moment > self._last:
                self._last, self._at_last = moment, set()
            self._at_last.add(line)
            found.append(line)
        return found


def _comparable(stamp: str) -> str:
    """Return a time such that texts compare as times: Kubernetes drops zeros at the end of the fraction."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
