"""Limits of time that one timer watches for all requests: a timer for each would cost more than reading a row."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

EVERY = 0.25
"""Seconds between two looks at what waits. So much later than its limit a wait may end."""


class TimeLimit:
    """Ends what the task waits for in the block once its seconds are over. Raises TimeoutError then."""

    __slots__ = ("_is_late", "_patience", "_task", "until")

    def __init__(self, patience: Patience, seconds: float) -> None:
        self._patience, self._is_late = patience, False
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self.until = asyncio.get_running_loop().time() + seconds

    def __enter__(self) -> None:
        self._patience.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patience.waits.discard(self)
        if self._is_late and self._task and not self._task.uncancel() and kind is asyncio.CancelledError:
            raise TimeoutError from cause

    def end(self) -> None:
        """Cancel what the task waits for."""
        self._is_late = bool(self._task and self._task.cancel())


class Patience:
    """The limits that count now. It is used in one event loop."""

    def __init__(self) -> None:
        self.waits: set[TimeLimit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, seconds: float) -> TimeLimit:
        """Return a limit for the task that asks, to be used once in a `with` statement."""
        return TimeLimit(self, seconds)

    def add(self, limit: TimeLimit) -> None:
        """Watch a limit until it is discarded."""
        self.waits.add(limit)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for limit in [each for each in self.waits if each.until <= loop.time()]:
            self.waits.discard(limit)
            limit.end()
        self._timer = loop.call_later(EVERY, self._look) if self.waits else None
