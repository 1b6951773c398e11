"""Tells in the log how far a copy is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


def told(what: str, done: int, total: int, seconds: float) -> str:
    """Return the log line of a copy that runs: rows done, rate, time left. Pure; `rempart`'s progress reads the count.

    `seconds` since the copy began.
    """
    line = f"{what} {min(done, total):,} of {total:,} rows"
    if not done or seconds <= 0:
        return line
    rate = done / seconds
    return f"{line}, {rate:,.0f} rows/s, {max(0.0, total - done) / rate:,.0f} s left"


class Reporter:
    """Logs `told` at most every five seconds of its clock."""

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._began = self._last = clock()

    def __call__(self, done: int) -> None:
        """Take the number of rows done so far."""
        now = self._clock()
        if now - self._last >= EVERY_SECONDS:
            self._last = now
            logger.info("%s", told(self._what, done, self._total, now - self._began))

    @property
    def seconds(self) -> float:
        """Return the seconds since the copy began."""
        return self._clock() - self._began
