"""Write the prediction log to the local disk: a write returns when no end of the process loses its predictions.

Whoever writes while others write joins the next batch. A batch begins as soon as the former one is written, so a
request that is alone never waits for others. The disk has a batch a little later (`serving.group_commit`). What it
refuses is written again to another segment, and an entry that is there twice counts once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rempart.errors import ServingError
from rempart.serving import records
from rempart.serving.entries import PredictionGroup
from rempart.serving.group_commit import GroupCommit
from rempart.serving.records import EncodedGroup
from rempart.serving.seals import Sealing, SegmentSeal
from rempart.serving.segments import Segment

SEGMENT_BYTES = 64 << 20
"""Size at which the next segment begins."""
SEGMENT_SECONDS = 600.0
"""Age at which a segment is closed, also if nobody writes. A shipment takes closed segments only."""


@dataclass
class _Waiting:
    group: PredictionGroup
    written: asyncio.Future[None]


@dataclass
class Journal:
    """The journal of one pipeline, in segments of this process. It implements the port `PredictionLog`.

    It is used in one event loop. `sample`: share of the predictions that are written. `sealing`: of inputs and
    features; None leaves them readable. Another sealing begins another segment.
    """

    folder: Path
    sealing: Sealing | None = None
    sample: float = 1.0
    segment_bytes: int = SEGMENT_BYTES
    segment_seconds: float = SEGMENT_SECONDS
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _segment: Segment | None = field(default=None, init=False)
    _seal: SegmentSeal = field(init=False)
    _began: float = field(default=0.0, init=False)
    _commit: GroupCommit = field(init=False)
    _disk: ThreadPoolExecutor = field(init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _closing: asyncio.TimerHandle | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._disk = ThreadPoolExecutor(1, f"prediction log {self.folder.name}")
        self._commit = GroupCommit(f"disk of {self.folder.name}", lambda: self._disk.submit(self._append, []))

    async def write(self, group: PredictionGroup) -> None:
        """Return once the sampled predictions are written.

        Raises ServingError: none of them counts then, and a later write may succeed. A write that is cancelled before
        it began is forgotten: while a disk stalls, others keep coming.
        """
        chosen = records.sampled(group, self.sample)
        if chosen is None:
            return
        loop = asyncio.get_running_loop()
        self._waiting.append(waiting := _Waiting(chosen, loop.create_future()))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._write_waiting())
        try:
            await waiting.written
        except asyncio.CancelledError:
            self._waiting = [each for each in self._waiting if each is not waiting]
            raise

    async def close(self) -> None:
        """Wait for the predictions under way, and release the segment."""
        if self._task is not None:
            await self._task
        if self._closing is not None:
            self._closing.cancel()
        await asyncio.get_running_loop().run_in_executor(self._disk, self._end)
        self._disk.shutdown()

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                outcomes = await loop.run_in_executor(self._disk, self._append, [each.group for each in batch])
            except Exception as cause:  # nobody may wait for ever
                outcomes = [self._failure(cause)] * len(batch)
            for each, error in zip(batch, outcomes, strict=True):
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
        self._disk.submit(self._close_all)

    def _append(self, groups: Sequence[PredictionGroup]) -> list[ServingError | None]:
        """Write a batch. Return the error of each writer, or None. The disk's own thread calls it."""
        outcomes, written = list[ServingError | None](), list[EncodedGroup]()
        for group in groups:
            try:
                written.append(records.encode(group))
            except ServingError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        try:
            self._write(written)
        except Exception as cause:  # a position that was used is not used again
            self._close()
            return [error or self._failure(cause) for error in outcomes]
        return outcomes

    def _write(self, written: Sequence[EncodedGroup]) -> None:
        if not self._commit.wait():
            self._close()
        if not written and (self._segment is not None or not self._commit.at_risk):
            return
        segment = self._current()
        again = () if segment.size else self._commit.at_risk
        segment.append(self._seal.framed([*again, *written]), at_once=bool(again))
        if again:
            self._commit.at_risk = []
        else:
            self._commit.wrote(segment, written)

    def _current(self) -> Segment:
        """Return the segment to append to, for which `_seal` seals."""
        sealing = self.sealing
        key = sealing.key if sealing else ""
        old = time.monotonic() - self._began >= self.segment_seconds
        if self._segment is not None and (old or self._segment.size >= self.segment_bytes or self._seal.key != key):
            self._close()
        if self._segment is None:
            name = f"{self.clock():%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
            self._seal = SegmentSeal(name, sealing)
            self._segment, self._began = Segment(self.folder, name), time.monotonic()
        return self._segment

    def _close(self) -> None:
        """End the segment. What the disk did not take remains at risk, until it is written to another one."""
        segment, self._segment = self._segment, None  # also if it fails: its descriptor may be another file's by then
        if segment is None:
            return
        took = self._commit.end()
        try:
            segment.close()
        except OSError:
            took = False
        if took and segment.size:  # one without a record holds nothing of what was at risk before it
            self._commit.at_risk = []

    def _close_all(self) -> None:
        """End the segment, and the one that holds again what the disk did not take with it."""
        self._close()
        if self._commit.at_risk:
            self._append([])
            self._close()

    def _end(self) -> None:
        self._close_all()
        self._commit.close()

    def _failure(self, cause: Exception) -> ServingError:
        return ServingError(
            f"write the prediction log in {self.folder}: {getattr(cause, 'strerror', None) or type(cause).__name__}",
            "Make room on the disk, or correct the rights of the folder. The next prediction is logged again as soon "
            "as it can be written.",
        )
