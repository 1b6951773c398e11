"""Requests that wait while the model is busy are predicted together.

A model is asked in a thread of its own, one batch at a time. Nobody waits for a batch to fill: it has what came since
the last one began.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rempart.counts import counted
from rempart.errors import DatabaseUnavailable, RempartError, ServingError
from rempart.serving.scorer.rows import Key, Row

MOST_ROWS = 2000
"""Rows of one batch, if no single request has more."""
MOST_WAITING = 20_000
"""Rows that may wait."""


@dataclass(frozen=True)
class BatchAnswer:
    """What the model saw and what it predicted, each by row. `names`: of the features, in the order of their values.

    `without`: for each row the views of which the online store had no value; empty if no view is looked up.
    """

    names: Sequence[str]
    features: Sequence[Sequence[Any]]
    outputs: Sequence[Mapping[str, Any]]
    without: Sequence[Sequence[str]] = ()

    def part(self, start: int, rows: int) -> BatchAnswer:
        end = start + rows
        return BatchAnswer(self.names, self.features[start:end], self.outputs[start:end], self.without[start:end])


@dataclass(frozen=True)
class _WaitingRequest:
    rows: Sequence[Row | Key]
    done: asyncio.Future[BatchAnswer]


class Batches:
    """Asks `predict` for the rows of waiting requests, in a thread. `close` is called in it at the end."""

    def __init__(
        self,
        predict: Callable[[Sequence[Row | Key]], BatchAnswer],
        close: Callable[[], None],
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._predict, self._close, self._most = predict, close, most_waiting
        self._waiting: deque[_WaitingRequest] = deque()
        self._came = asyncio.Event()
        self._ends = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task = asyncio.get_running_loop().create_task(self._work())
        self.rows_waiting = 0

    def submit(self, rows: Sequence[Row | Key]) -> asyncio.Future[BatchAnswer]:
        """Return the future answer for the rows of a request. It fails with the errors of `predict`.

        Raises ServingError if too many rows wait already.
        """
        if self.rows_waiting + len(rows) > self._most or self._ends:
            raise ServingError(
                f"predict {counted(len(rows), 'row')}: {counted(self.rows_waiting, 'row waits', 'rows wait')} already",
                "Ask again later, or run more scorers.",
            )
        waiting = _WaitingRequest(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.rows_waiting += len(rows)
        self._came.set()
        return waiting.done

    async def finish(self) -> None:
        """Answer what was submitted, then end the thread."""
        self._ends = True
        self._came.set()
        await self._task

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or not self._ends:
                self._came.clear()
                if batch := self._next():
                    await self._answer(loop, batch)
                elif not self._ends:
                    await self._came.wait()
        finally:
            with suppress(RuntimeError):  # the interpreter ends
                await loop.run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _next(self) -> list[_WaitingRequest]:
        batch: list[_WaitingRequest] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].rows) <= MOST_ROWS):
            waiting = self._waiting.popleft()
            self.rows_waiting -= len(waiting.rows)
            if not waiting.done.done():  # its client is gone
                batch.append(waiting)
                rows += len(waiting.rows)
        return batch

    async def _answer(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_WaitingRequest]) -> None:
        try:
            answer = await loop.run_in_executor(self._thread, self._predict, _rows(batch))
        except Exception as cause:
            error = cause if isinstance(cause, RempartError) else _unforeseen(cause)
            is_by_rows = not isinstance(cause, DatabaseUnavailable)
            for waiting in batch:
                if is_by_rows and len(batch) > 1:  # those of a single request may be at fault
                    await self._answer(loop, [waiting])
                elif not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        start = 0
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(answer.part(start, len(waiting.rows)))
            start += len(waiting.rows)


def _rows(batch: Sequence[_WaitingRequest]) -> Sequence[Row | Key]:
    if len(batch) == 1:
        return batch[0].rows
    return [row for waiting in batch for row in waiting.rows]


def _unforeseen(cause: Exception) -> ServingError:
    """Return an error without the text of its cause, which may quote a value."""
    return ServingError(
        f"predict rows: the scorer failed with {type(cause).__name__}", "Report the failure to the platform's owner."
    )
