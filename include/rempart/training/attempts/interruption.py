"""A job that is asked to end (SIGTERM from a cluster that evicts it, or Ctrl-C) ends within a bounded time, in order.

While a trainer that takes checkpoints computes, the request is a flag that it sees at its next step; anything else is
left at once. When neither happens in time (one step takes minutes in C code), a watcher ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 143
"""Exit status: 128 + SIGTERM. The same spec again goes on from the last checkpoint."""
PATIENCE_SECONDS = 15.0
"""From the request to the end, at most; clusters give 30 s and more before they kill."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The job ends because it was asked to. No Exception, so that no trainer's own handler takes it for a failure."""


class Interruption:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.asked = False
        self.facts: dict[str, int] = {}
        """What the last line says: the step reached, and the one that a next attempt goes on from."""
        self._awaited = False
        self._raised = False
        self._over = threading.Event()

    def await_step(self) -> None:
        """From now on a request only sets `asked`, until `computing` ends: who computes looks at it."""
        self._awaited = True

    def agreed(self) -> None:
        """Another node of the job was asked to end: this one ends with it."""
        self.asked = True

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Where a trainer may call `await_step`. Raises Interrupted at the end if there was a request."""
        try:
            yield
        finally:
            self._awaited = False
            self._raised = self.asked
        if self.asked:
            raise Interrupted

    @contextmanager
    def listening(self, last_words: Callable[[], None]) -> Iterator[None]:
        """Within, SIGTERM and SIGINT are requests. Only the main thread can listen.

        `last_words` is called, and the process ended with INTERRUPTED, when PATIENCE_SECONDS after one it still runs.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # the interpreter writes to it as the signal arrives, even while the main thread is in C code
        woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        watcher = threading.Thread(target=self._watch, args=(reading, last_words), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._over.set()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken)
            os.close(writing)
            watcher.join(1)
            os.close(reading)

    def _handle(self, *_: object) -> None:
        self.asked = True
        if not self._awaited and not self._raised:
            self._raised = True
            raise Interrupted

    def _watch(self, reading: int, last_words: Callable[[], None]) -> None:
        while number := os.read(reading, 1):
            if number[0] in _SIGNALS:
                self.asked = True
                if not self._over.wait(PATIENCE_SECONDS):
                    last_words()
                    os._exit(INTERRUPTED)
                return
