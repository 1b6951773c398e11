"""The job as a trainer uses it: where to continue, checkpoints, progress, whether to stop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rempart.errors import SiteUnavailable
from rempart.training.attempts.checkpoints import Checkpoints, pack, unpack
from rempart.training.attempts.interruption import Interrupted, Interruption
from rempart.training.attempts.process_group import Group, PeerLost
from rempart.training.job import Work

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

Progress = Callable[..., None]
"""`progress(stage, **facts)`: facts are numbers, ids and names of columns, never a value of the data."""
EVERY_SECONDS = 30.0
LINE_SECONDS = 1.0
_PHASE = "_phase"
"""Array of a checkpoint of the second phase: what the first phase found, as JSON."""


class TrainingRun:
    """The interface between a job and its trainer. Steps are whole numbers from 1 to the last: iterations, updates,
    epochs.

    A trainer calls `resume` once, then `checkpoint` and `progress` after each step. A checkpoint is stored every
    `every` seconds, a line printed every second. On several nodes each node calls them; the first node reads and
    stores, and all end after the same step. A job that trains twice, as validation does, has two phases: the steps of
    the second follow those of the first, and a trainer sees only its own.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        progress: Progress,
        interruption: Interruption,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self._checkpoints, self._progress, self._interruption = checkpoints, progress, interruption
        self.every, self._clock = every, clock
        self._began = self._saved_at = clock()
        self._told_at = -math.inf
        self._first = self._step = self._more = 0
        self._before = 0
        self._phase = self._offset = 0
        self._carried: Mapping[str, Any] = {}
        self._looked = False
        self._found: tuple[int, Arrays] | None = None
        self.made_with: dict[str, str] = {}
        """Version, device and precision of the trainer, for the record."""
        self.waited_seconds: float | None = None
        """Time in which the trainer waited for rows; None if it does not measure it."""

    def computing(self) -> AbstractContextManager[None]:
        """Wrap a trainer. After its first checkpoint, a request to end waits for its next checkpoint."""
        return self._interruption.computing()

    @property
    def stopping(self) -> bool:
        """Return True if the job was asked to end. The next `checkpoint` stores one and ends the trainer."""
        return self._interruption.asked

    def resume(self) -> Arrays | None:
        """Return the arrays of this job's newest usable checkpoint, or None.

        Raises TrainingError if the checkpoint is another job's; PeerLost.
        """
        found, self._found = self._stored(), None
        if found is not None and _phase_of(found[1]) != self._phase:
            found = None
        self._began = self._saved_at = self._clock()
        self._interruption.await_step()
        if found is None:
            return None
        self._first = found[0]
        self._reached(self._first)
        self._interruption.facts["saved_step"] = self._first
        self._progress("resumed", step=self._first, done_before=self._before)
        return {name: array for name, array in found[1].items() if name != _PHASE}

    def carried(self) -> Mapping[str, Any] | None:
        """Return what an earlier attempt carried into its second phase; None if it did not store a step of that."""
        found = self._stored()
        if found is None or _phase_of(found[1]) == 0:
            return None
        carried: Mapping[str, Any] = json.loads(bytes(found[1][_PHASE]))
        return carried

    def second_phase(self, carried: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the second phase. Its checkpoints hold `carried`, and the step at which it began. Return both."""
        self._phase, self._offset = 1, int(carried.get("offset", self._step))
        self._carried = {**carried, "offset": self._offset}
        return self._carried

    def _stored(self) -> tuple[int, Arrays] | None:
        if not self._looked:
            self._looked, self._found = True, self._newest()
        return self._found

    def _newest(self) -> tuple[int, Arrays] | None:
        """Read on the first node and send to the others, so that all continue from the same step."""
        first = self.group.rank == 0
        found = self._checkpoints.newest() if first else None
        self._before = self._checkpoints.manifest.done
        if self.group.size == 1:
            return found
        told = json.loads(self.group.broadcast(json.dumps([found and found[0], self._before]).encode()))
        step, self._before = told
        if step is None:
            return None
        arrays = unpack(self.group.broadcast(pack(found[1]) if found else b""))
        assert arrays is not None  # noqa: S101 - the first node packed them
        return step, arrays

    def checkpoint(self, step: int, arrays: Arrays | Callable[[], Arrays]) -> None:
        """Store the state after `step` if it is due or the job was asked to end; in the latter case end the trainer.

        `arrays`: all that the next step depends on, as arrays of numbers, or a function that returns them (called only
        if needed). Raises Interrupted, which a trainer must let pass; SiteError.
        """
        step += self._offset
        self._reached(step)
        self._interruption.await_step()
        due = self.group.rank == 0 and self._clock() - self._saved_at >= self.every
        try:
            stopping, due = self.group.any(self.stopping, due)
        except PeerLost:
            self._keep(step, arrays)
            raise
        if not stopping and not due:
            return
        self._keep(step, arrays)
        self.group.meet()  # storing may take longer than the others wait within a step
        if stopping or (self.stopping and self.group.size == 1):
            self._interruption.agreed()
            raise Interrupted

    def keep(self, step: int, arrays: Arrays | Callable[[], Arrays]) -> None:
        """Store the state after `step` now, on the first node. Raises SiteError."""
        self._keep(step + self._offset, arrays)

    def _keep(self, step: int, arrays: Arrays | Callable[[], Arrays]) -> None:
        if self.group.rank != 0:
            return
        state = arrays() if callable(arrays) else arrays
        if self._phase:
            import numpy as np

            state = {**state, _PHASE: np.frombuffer(json.dumps(self._carried).encode(), np.uint8)}
        try:
            self._checkpoints.save(step, state, self._before + self._done_here)
            self._interruption.facts["saved_step"] = step
        except SiteUnavailable as error:  # it costs at most what is computed until the next checkpoint
            self._progress("checkpoint not stored", step=step, error=error.what)
        self._saved_at = self._clock()

    def progress(self, step: int, steps: int, loss: float | Callable[[], float] | None = None) -> None:
        """Report `step` of `steps`, and the loss (or a function that returns it, called only if reported)."""
        step, steps = step + self._offset, steps + self._offset
        self._reached(step)
        now = self._clock()
        if now - self._told_at < LINE_SECONDS and step < steps:
            return
        self._told_at = now
        facts: dict[str, float] = {"step": step, "steps": steps}
        if loss is not None and math.isfinite(value := float(loss() if callable(loss) else loss)):
            facts["loss"] = float(f"{value:.6g}")
        if step > self._first:
            facts["seconds_left"] = round((now - self._began) * (steps - step) / (step - self._first), 1)
        self._progress("progress", **facts)

    def computed_again(self, steps: int) -> None:
        """Count repeated steps: they are work, but do not advance the model."""
        self._more += steps

    def waited(self) -> dict[str, float]:
        """Return the seconds in which the trainer waited for rows, by the name that they have in the result."""
        return {} if self.waited_seconds is None else {"wait_for_data": round(self.waited_seconds, 3)}

    def work(self) -> Work:
        """Return the computed work so far."""
        return Work(
            steps=self._step,
            done_here=self._done_here,
            resumed_from=self._first,
            total_over_attempts=self._before + self._done_here,
        )

    @property
    def _done_here(self) -> int:
        return self._step - self._first + self._more

    def _reached(self, step: int) -> None:
        self._step = max(self._step, step)
        self._interruption.facts["step"] = self._step


def _phase_of(arrays: Arrays) -> int:
    return 1 if _PHASE in arrays else 0
