"""A value that is gathered beside the requests: they read the newest one there is, and it says how old it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class RefreshingCache(Generic[T]):
    """What `gather` gave last; a request that finds it older than `lasts` seconds has it gathered anew, and waits not.

    Only where there is none yet, or none as young as the request wants, does it wait: `first_patience` seconds at most
    for the first value, else `patience`. At most one gathering goes on at a time. One that fails leaves the older
    value, whose age then tells.
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
        """The newest value, from the last `within` seconds if it can be had in time; None if there is none yet."""
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
        """What was gathered last, however old."""
        return self._value

    def _run(self, done: threading.Event) -> None:
        try:
            value = self._gather()
        except Exception:
            logger.exception("The cockpit's facts could not be gathered; pages show the older ones, and their age")
        else:
            with self._lock:
                self._value = value
        finally:
            with self._lock:
                self._at, self._going = self._monotonic(), None
            done.set()
