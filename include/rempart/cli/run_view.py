"""State of a pipeline's run, stage by stage, and its lines on the terminal. Pure but for `shown`.

The state is a frozen value. A terminal gets a live table, anything else a line for each change, and each ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from rempart.cli import progress
from rempart.deployment.setup.terminal import duration

Condition = Literal["waiting", "running", "done", "failed", "not run"]


@dataclass(frozen=True)
class StageState:
    """One stage. Times are seconds of a monotonic clock; `words`: its progress, its result, or its error."""

    name: str
    condition: Condition = "waiting"
    began: float | None = None
    ended: float | None = None
    words: str = ""

    def seconds(self, now: float) -> float | None:
        """Return how long the stage ran, or runs so far; None if it did not start."""
        return None if self.began is None else (self.ended or now) - self.began


@dataclass(frozen=True)
class RunState:
    """A run of a pipeline: its stages in order."""

    pipeline: str
    began: float
    stages: tuple[StageState, ...]

    @property
    def failed(self) -> bool:
        return any(stage.condition == "failed" for stage in self.stages)

    def stage(self, name: str) -> StageState:
        return next(stage for stage in self.stages if stage.name == name)

    def with_stage(self, changed: StageState) -> RunState:
        """Return the run with this stage in place of the one of its name."""
        return replace(self, stages=tuple(changed if stage.name == changed.name else stage for stage in self.stages))


def line(state: RunState, stage: StageState, now: float) -> str:
    """Return a stage as one line: seconds since the start, stage, its condition in words, and for how long it runs."""
    took = stage.seconds(now) or 0.0
    so_far = f", {duration(took)} so far" if took >= progress.AGAIN_SECONDS else ""
    told = {
        "waiting": "waits",
        "running": f"{stage.words or 'running'}{so_far}",
        "done": f"done in {took:.0f} s: {stage.words}",
        "failed": f"FAILED after {took:.0f} s: {stage.words}",
        "not run": f"not run: {stage.words}",
    }[stage.condition]
    return f"{now - state.began:6.1f} s  {stage.name:<12} {told}"


Show = Callable[[RunState, StageState], object]
"""Shows a state, in which one stage changed."""


@contextmanager
def shown(
    stages: Sequence[str], out: Callable[[str], object], clock: Callable[[], float] = time.monotonic
) -> Iterator[Show]:
    """Show a run while it goes on: a live table of its stages at a terminal, else a line for each change.

    Without a change, the line of the stage that runs is written again each ten seconds.
    """
    with (
        progress.shown(steps=[progress.Step(stage) for stage in stages]) as view,
        progress.repeated(out, clock) as plain,
    ):

        def tell(state: RunState, changed: StageState) -> None:
            if not view.live:
                runs = changed.condition == "running"
                plain.tell(
                    line(state, changed, clock()), (lambda seconds: line(state, changed, clock())) if runs else None
                )
            elif changed.condition == "not run":
                view.move(changed.name, "waiting", f"not run: {changed.words}")
            else:
                view.move(changed.name, changed.condition, changed.words)

        yield tell
