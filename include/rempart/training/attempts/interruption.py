"""End a job in order and within a limited time, on SIGTERM (an evicting cluster) or Ctrl-C.

A trainer with checkpoints sees the request as a flag at its next step. Any other code is interrupted at once. If
neither happens in time (one step takes minutes in C code), a watcher ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 143
"""Exit status: 128 + SIGTERM. The same spec continues from the last checkpoint."""
TRY_AGAIN, SESSION_OVER = 75, 77
"""Exit statuses: a service did not answer; the job's session at a site is over."""
PATIENCE_SECONDS = 15.0
"""Maximum seconds from the request to the end; clusters wait 30 s or more before they kill."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """Raised when the job was asked to end. Not an Exception, so that no trainer's handler takes it for a failure."""


class Interruption:
    """Request to end this process."""

    def __init__(self) -> None:
        self.asked = False
        self.facts: dict[str, int] = {}
        """Content of the last line: the reached step, and the step of the checkpoint."""
        self._awaited = False
        self._raised = False
        self._over = threading.Event()

    def await_step(self) -> None:
        """From now on a request only sets `asked`, until `computing` ends. The trainer checks the flag."""
        self._awaited = True

    def agreed(self) -> None:
        """End with another node of the job that was asked to end."""
        self.asked = True

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Allow a trainer to call `await_step`. Raises Interrupted at the end if there was a request."""
        try:
            yield
        finally:
            self._awaited = False
            self._raised = self.asked
        if self.asked:
            raise Interrupted

    @contextmanager
    def listening(self, last_words: Callable[[], None]) -> Iterator[None]:
        """Treat SIGTERM and SIGINT as requests inside the block. Only the main thread can do this.

        PATIENCE_SECONDS after a request, if the process still runs, `last_words` is called and the process ends with
        INTERRUPTED.
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
