"""Cache a value that is refreshed in the background. Requests read the newest value and its time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class RefreshingCache(Generic[T]):
    """Cache of the last result of `gather`. A value older than `lasts` seconds is refreshed in the background, and
    returned.

    A request waits only if there is no value yet, or none as recent as required: at most `first_patience` seconds for
    the first value, else `patience`. At most one refresh runs at a time. If it fails, the older value stays, and its
    age shows it.
    """

    def __init__(
        self,
        gather: Callable[[], T],
        lasts: float,
        *,
        patience: float = 3.0,
        first_patience: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gather, self._lasts, self._patience, self._monotonic = gather, lasts, patience, monotonic
        self._first_patience = patience if first_patience is None else first_patience
        self._lock = threading.Lock()
        self._value: T | None = None
        self._at = float("-inf")
        self._going: threading.Event | None = None

    def get(self, within: float = float("inf")) -> T | None:
        """Return the newest value, at most `within` seconds old if available in time; None if there is none yet."""
        with self._lock:
            age = self._monotonic() - self._at
            late = age > within
            if (age >= self._lasts or late) and self._going is None:
                self._going = threading.Event()
                threading.Thread(target=self._run, args=(self._going,), name="cockpit", daemon=True).start()
            value, going = self._value, self._going
        if (value is None or late) and going is not None:
            going.wait(self._first_patience if value is None else self._patience)
            return self._value
        return value

    @property
    def last(self) -> T | None:
        """Return the last value, however old."""
        return self._value

    def _run(self, done: threading.Event) -> None:
        try:
            value = self._gather()
        except Exception:
            logger.exception("The cockpit's facts could not be gathered; pages show the older facts and their age")
        else:
            with self._lock:
                self._value = value
        finally:
            with self._lock:
                self._at, self._going = self._monotonic(), None
            done.set()
