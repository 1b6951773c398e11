"""A challenger predicts the rows that the champion answered. Its predictions are logged, and never returned.

Its queue is bounded: rows that do not fit are dropped and counted, so it never slows an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from rempart.errors import RempartError, ServingError
from rempart.serving.entries import PredictionGroup, PredictionLog
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.deployments import Deployment
from rempart.serving.scorer.friendly import Question
from rempart.serving.scorer.metrics import Metrics

MOST_WAITING = 2000
"""Rows that wait for a shadow."""
logger = logging.getLogger(__name__)


@dataclass
class Shadows:
    """Asks shadows, and logs what they predict."""

    log: PredictionLog
    metrics: Metrics
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def offer(
        self,
        pipeline: str,
        shadow: Deployment,
        question: Question,
        group: Callable[[Deployment, BatchAnswer], PredictionGroup],
    ) -> None:
        """Let a shadow predict what was answered, without waiting for it."""
        rows = len(question.rows)
        try:
            asked = shadow.ask(question)
        except ServingError:
            self.metrics.shadow_dropped[pipeline] += rows
            return
        except RempartError:  # it has other inputs
            self.metrics.shadow_failed[pipeline] += rows
            return
        task = asyncio.get_running_loop().create_task(self._record(pipeline, shadow, asked, rows, group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(
        self,
        pipeline: str,
        shadow: Deployment,
        asked: asyncio.Future[BatchAnswer],
        rows: int,
        group: Callable[[Deployment, BatchAnswer], PredictionGroup],
    ) -> None:
        try:
            await self.log.write(group(shadow, await asked))
        except Exception as cause:
            if not isinstance(cause, RempartError):  # its text may quote a value
                logger.error("a shadow of %s failed unexpectedly: %s", pipeline, type(cause).__name__)  # noqa: TRY400
            self.metrics.shadow_failed[pipeline] += rows
        else:
            self.metrics.shadow_rows[pipeline] += rows

    async def finish(self) -> None:
        """Wait until what was offered is recorded."""
        await asyncio.gather(*self._tasks)
