"""State of a pipeline's run, stage by stage, and its lines on the terminal. Pure but for `LiveRun` and `PlainRun`.

The state is a frozen value; each renderer shows it. A terminal gets a live table, anything else a line for each change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from rich.table import Table

Condition = Literal["waiting", "running", "done", "failed", "not run"]
MARKS: dict[Condition, str] = {"waiting": "·", "running": "▸", "done": "✓", "failed": "✗", "not run": "-"}
STYLES: dict[Condition, str] = {
    "waiting": "dim",
    "running": "bold",
    "done": "green",
    "failed": "bold red",
    "not run": "dim",
}


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
    """Return a change of a stage as one line: seconds since the start, stage, and its condition in words."""
    took = stage.seconds(now) or 0.0
    told = {
        "waiting": "waits",
        "running": stage.words or "running",
        "done": f"done in {took:.0f} s: {stage.words}",
        "failed": f"FAILED after {took:.0f} s: {stage.words}",
        "not run": f"not run: {stage.words}",
    }[stage.condition]
    return f"{now - state.began:6.1f} s  {stage.name:<12} {told}"


def cells(state: RunState, now: float) -> Iterator[tuple[str, str, str, str]]:
    """Yield for each stage its mark, name, seconds and words: the rows of the live table."""
    for stage in state.stages:
        seconds = stage.seconds(now)
        told = stage.words or stage.condition
        yield MARKS[stage.condition], stage.name, "" if seconds is None else f"{seconds:.0f} s", told


class RunRenderer(Protocol):
    """Shows a run while it goes on. A context manager: its end leaves the final state on the terminal."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the final state."""

    def show(self, state: RunState, changed: StageState) -> None:
        """Show a state, in which one stage changed."""


class PlainRun:
    """Write a line for each change: for pipes, logs and terminals without control characters."""

    def __init__(self, out: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left open."""

    def show(self, state: RunState, changed: StageState) -> None:
        self._out(line(state, changed, self._clock()))


class LiveRun:
    """Show a table of the stages that is drawn again four times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._state: RunState | None = None
        self._live = Live(console=Console(), get_renderable=self._table, refresh_per_second=4)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        made = Table.grid(padding=(0, 2))
        if self._state is not None:
            for (mark, name, seconds, words), stage in zip(
                cells(self._state, time.monotonic()), self._state.stages, strict=True
            ):
                style = STYLES[stage.condition]
                texts = (Text(mark, style), Text(name, style), Text(seconds, justify="right"), Text(words))
                made.add_row(*texts)
        return made

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, state: RunState, changed: StageState) -> None:
        self._state = state
        self._live.refresh()


def renderer(*, terminal: bool, out: Callable[[str], object]) -> RunRenderer:
    """Return the live table for a terminal, else plain lines."""
    return LiveRun() if terminal else PlainRun(out)


def draws() -> bool:
    """Return whether the terminal can draw a table again in its place."""
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.is_dumb_terminal
