"""The versions that answer: a swap loses no request, since each finishes on the version that it began with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rempart.models.inputs import Input
from rempart.serving.scorer.batches import BatchAnswer, Batches
from rempart.serving.scorer.friendly import Question
from rempart.serving.scorer.refusals import Refused
from rempart.serving.scorer.rows import KeptColumns, Key, Row, RowTypes


class OpenedVersion(Protocol):
    """A verified version whose model is open. Its methods are called in one thread.

    `is_broken`: its model's process ended, so it must be opened again.
    """

    version: str
    sha256: str
    is_broken: bool
    inputs: tuple[Input, ...]
    kept: tuple[Input, ...]
    """Columns that the log keeps, if they are given: inputs, the pipeline's key, and the keys of views."""
    key: tuple[str, ...]
    outputs: Mapping[str, str]
    """Type (`double`, `string`) of each named output."""

    def answer(self, rows: Sequence[Row | Key]) -> BatchAnswer:
        """Return a prediction for each row, and for each key of an entity whose features the online store has.

        Raises PredictionError, FeatureError, DatabaseUnavailable, ModelRefused.
        """

    def close(self) -> None:
        """End the model's process and its connections."""


class Deployment:
    """A version that answers. `queue`: rows that wait for it."""

    def __init__(self, opened: OpenedVersion, *, most_waiting: int | None = None) -> None:
        more = {} if most_waiting is None else {"most_waiting": most_waiting}
        self.opened = opened
        self.kept = KeptColumns(opened.kept, opened.key)
        self._types = RowTypes(opened.inputs)
        self.batches = Batches(opened.answer, opened.close, **more)

    def ask(self, question: Question) -> asyncio.Future[BatchAnswer]:
        """Return the future answer to a question. Raises PredictionError, ServingError."""
        if question.by_key:
            return self.batches.submit(question.rows)
        return self.batches.submit(self._types.typed(question.rows))


OPENING = "it is being opened"
"""The fault of a champion that may answer soon."""


@dataclass
class Slot:
    """The champion of a pipeline that answers, if any, and its shadow. `fault`: why another does not answer."""

    champion: Deployment | None = None
    shadow: Deployment | None = None
    fault: str = ""

    @property
    def is_opening(self) -> bool:
        """Return whether a first champion may answer soon."""
        return self.champion is None and self.fault == OPENING

    @property
    def is_failing(self) -> bool:
        """Return whether the champion by the ledger cannot be opened, whatever answers meanwhile."""
        return self.fault not in ("", OPENING)


@dataclass
class Deployments:
    """All pipelines that are served, and what is known of the ledger.

    `champions`: pipelines that have a champion on record, None if nothing is known yet. `known_at`: when the newest
    reading of the ledger was made, also if an earlier process left it on disk; `fault`: why it was not read since.
    `has_started`: each champion of the first reading was opened, or found to fail.
    """

    slots: dict[str, Slot] = field(default_factory=dict)
    champions: Collection[str] | None = None
    known_at: datetime | None = None
    fault: str = "the ledger was not read yet"
    has_started: bool = False
    on_swap: Callable[[str], None] = lambda _: None
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_starting(self) -> bool:
        """Return whether there is no reading yet, so that neither clients nor champions are known."""
        return self.champions is None

    @property
    def is_ready(self) -> bool:
        """Return whether requests should come here: it has started, and a champion answers or none fails.

        A pipeline's first champion that is opened later keeps no request from the others. Without a champion there is
        nothing to wait for.
        """
        if self.champions is None:
            return False
        slots = [self.slots.get(name, Slot(fault=OPENING)) for name in self.champions]
        if not self.has_started and any(slot.is_opening for slot in slots):
            return False
        return any(slot.champion for slot in slots) or not any(slot.is_failing for slot in slots)

    def of(self, pipeline: str) -> Deployment:
        """Return the deployment that answers for a pipeline. Raises Refused (404, 503)."""
        slot = self.slots.get(pipeline)
        if slot is None or (slot.champion is None and not slot.fault):
            raise Refused(
                404,
                f"predict with pipeline '{pipeline[:60]}': it has no champion",
                f"Train one: `rempart pipeline run {pipeline[:60]} --follow`.",
            )
        if slot.champion is None:
            raise Refused(
                503,
                f"predict with pipeline '{pipeline}': its champion does not answer: {slot.fault}",
                "docs/runbooks/scorer-down.md tells what to do.",
                {"Retry-After": "10"},
            )
        return slot.champion

    def replace(self, pipeline: str, champion: Deployment | None) -> None:
        """Let another version answer from now on. The former finishes its requests, then ends."""
        slot = self.slots.setdefault(pipeline, Slot())
        before, slot.champion, slot.fault = slot.champion, champion, ""
        if before is not champion:
            self.on_swap(pipeline)
            self._end(before)

    def fail(self, pipeline: str, why: str) -> None:
        """Note why the champion by the ledger does not answer. What answered before goes on."""
        self.slots.setdefault(pipeline, Slot()).fault = why

    def replace_shadow(self, pipeline: str, shadow: Deployment | None) -> None:
        """Let another version be the shadow from now on."""
        slot = self.slots.setdefault(pipeline, Slot())
        before, slot.shadow = slot.shadow, shadow
        if before is not shadow:
            self._end(before)

    def _end(self, deployment: Deployment | None) -> None:
        if deployment is not None:
            task = asyncio.get_running_loop().create_task(deployment.batches.finish())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def finish(self) -> None:
        """End all versions after their requests."""
        for name in list(self.slots):
            self.replace(name, None)
            self.replace_shadow(name, None)
        await asyncio.gather(*self._ending)
