"""Write the prediction log to the local disk: a write returns when its entries are there.

Whoever writes while others are being brought to disk joins the next group. A group begins as soon as the former one is
on disk, so a request that is alone never waits for others.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rempart.errors import ServingError
from rempart.serving import records
from rempart.serving.entries import PredictionEntry
from rempart.serving.records import Sealing
from rempart.serving.segments import Segment, framed

SEGMENT_BYTES = 64 << 20
"""Size at which the next segment begins."""
SEGMENT_SECONDS = 600.0
"""Age at which a segment is closed, also if nobody writes. A shipment takes closed segments only."""


@dataclass
class _Waiting:
    entries: Sequence[PredictionEntry]
    written: asyncio.Future[None]


@dataclass
class Journal:
    """The journal of one pipeline, in segments of this process. It implements the port `PredictionLog`.

    It is used in one event loop. `sample`: share of the entries that are written. `sealing`: of inputs and features;
    None leaves them readable.
    """

    folder: Path
    sealing: Sealing | None = None
    sample: float = 1.0
    segment_bytes: int = SEGMENT_BYTES
    segment_seconds: float = SEGMENT_SECONDS
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _segment: Segment | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _disk: ThreadPoolExecutor = field(init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _closing: asyncio.TimerHandle | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._disk = ThreadPoolExecutor(1, f"prediction log {self.folder.name}")

    async def write(self, entries: Sequence[PredictionEntry]) -> None:
        """Return once the sampled entries are on disk.

        Raises ServingError: none of them counts then, and a later write may succeed.
        """
        chosen = [entry for entry in entries if records.is_sampled(entry.id, self.sample)]
        if not chosen:
            return
        loop = asyncio.get_running_loop()
        self._waiting.append(waiting := _Waiting(chosen, loop.create_future()))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._write_groups())
        await waiting.written

    async def close(self) -> None:
        """Wait for the entries under way, and release the segment."""
        if self._task is not None:
            await self._task
        if self._closing is not None:
            self._closing.cancel()
        await asyncio.get_running_loop().run_in_executor(self._disk, self._close)
        self._disk.shutdown()

    async def _write_groups(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                outcomes = await loop.run_in_executor(self._disk, self._append, [each.entries for each in group])
            except Exception as cause:  # nobody may wait for ever
                outcomes = [self._failure(cause)] * len(group)
            for each, error in zip(group, outcomes, strict=True):
                if each.written.done():  # whoever waited was cancelled
                    continue
                if error is None:
                    each.written.set_result(None)
                else:
                    each.written.set_exception(error)
        if self._closing is None and self._segment is not None:
            self._closing = loop.call_later(self.segment_seconds, self._close_old)

    def _close_old(self) -> None:
        self._closing = None
        self._disk.submit(self._close)

    def _append(self, group: Sequence[Sequence[PredictionEntry]]) -> list[ServingError | None]:
        """Write a group. Return the error of each writer, or None. The disk's own thread calls it."""
        outcomes, frames = list[ServingError | None](), list[bytes]()
        for entries in group:
            try:
                frames.append(b"".join(framed(records.encode(entry, self.sealing)) for entry in entries))
            except ServingError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        if not frames:
            return outcomes
        try:
            self._current().append(b"".join(frames))
        except OSError as cause:
            if self._segment is not None:
                self._segment.abandon()
                self._segment = None
            return [error or self._failure(cause) for error in outcomes]
        return outcomes

    def _current(self) -> Segment:
        """Return the segment to append to."""
        old = time.monotonic() - self._began >= self.segment_seconds
        if self._segment is not None and (old or self._segment.size >= self.segment_bytes):
            self._close()
        if self._segment is None:
            name = f"{self.clock():%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
            self._segment, self._began = Segment(self.folder, name), time.monotonic()
        return self._segment

    def _close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _failure(self, cause: Exception) -> ServingError:
        return ServingError(
            f"write the prediction log in {self.folder}: {getattr(cause, 'strerror', None) or type(cause).__name__}",
            "Make room on the disk, or correct the rights of the folder. The next prediction is logged again as soon "
            "as it can be written.",
        )


@dataclass(frozen=True)
class Journals:
    """The journals of several pipelines, by name. They implement the port `PredictionLog`."""

    by_pipeline: Mapping[str, Journal]

    async def write(self, entries: Sequence[PredictionEntry]) -> None:
        """Return once the sampled entries are on disk. Raises ServingError, also for a pipeline without a journal."""
        groups: dict[str, list[PredictionEntry]] = {}
        for entry in entries:
            groups.setdefault(entry.pipeline, []).append(entry)
        if unknown := sorted(groups.keys() - self.by_pipeline.keys()):
            raise ServingError(
                f"log a prediction of '{unknown[0]}': the log of this pipeline is not open",
                "Start the scorer again: it opens the log of each pipeline that it serves.",
            )
        await asyncio.gather(*(self.by_pipeline[name].write(group) for name, group in groups.items()))

    async def close(self) -> None:
        """Release every journal."""
        await asyncio.gather(*(journal.close() for journal in self.by_pipeline.values()))
