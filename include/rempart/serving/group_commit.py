"""Bring records to disk in groups, after they were written: the end of a process loses none of them.

The operating system has what was written, also if the process is killed. Until it is on disk, the loss of the machine
would take it: the records of WINDOW at most, however slow the disk is, because nobody writes more before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

from rempart.serving.records import EncodedGroup
from rempart.serving.segments import Segment

GROUP_SECONDS = 0.02
"""Seconds in which further records join a group."""
WINDOW = 0.05
"""Seconds of records that may be written and not on disk."""
logger = logging.getLogger(__name__)


class GroupCommit:
    """Brings the segments of one writer to disk, one at a time. `failed` is called in a thread if that fails.

    `at_risk`: the records that are written and may not be on disk, oldest first.
    """

    def __init__(self, name: str, failed: Callable[[], object]) -> None:
        self.at_risk: list[EncodedGroup] = []
        self._failed, self._has_failed = failed, False
        self._thread = ThreadPoolExecutor(1, name)
        self._changed = Condition()
        self._is_running = self._ends = False
        self._since = 0.0

    def wait(self) -> bool:
        """Return once another record may be written: whether the disk took what was brought to it so far."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running or time.monotonic() - self._since < WINDOW)
            return not self._has_failed

    def wrote(self, segment: Segment, records: Sequence[EncodedGroup]) -> None:
        """Note that records were written, and bring them to disk soon."""
        with self._changed:
            if not self.at_risk:
                self._since = time.monotonic()
            self.at_risk += records
            if not self._is_running:
                self._is_running = True
                self._thread.submit(self._run, segment)

    def end(self) -> bool:
        """Return once no thread uses the segment. Return whether the disk took what was brought to it so far."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_running)
            took, self._has_failed, self._ends = not self._has_failed, False, False
            return took

    def close(self) -> None:
        """End the thread, after `end`."""
        self._thread.shutdown()

    def _run(self, segment: Segment) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._ends, GROUP_SECONDS):
                    return self._stop()
                began, number = time.monotonic(), len(self.at_risk)
            try:
                segment.sync()
            except OSError as cause:
                logger.error("the prediction log is not on disk, and is written again: %s", cause.strerror)  # noqa: TRY400
                with self._changed:
                    self._has_failed = True
                    self._stop()
                self._failed()
                return None
            with self._changed:
                del self.at_risk[:number]
                self._since = began
                if not self.at_risk:
                    return self._stop()
                self._changed.notify_all()

    def _stop(self) -> None:
        self._is_running = False
        self._changed.notify_all()
