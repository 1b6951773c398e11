"""Shows how far a command is: named steps, a count, or the seconds and the last event.

What is shown is a State, which pure functions change and turn into lines. At a terminal the lines are redrawn in place
and other output appears above them. Elsewhere, and with TERM=dumb, a step is one plain line when it ends; a command
that somebody waits for also writes again what goes on (`Repeated`).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rempart.cli import rendering
from rempart.deployment.setup.terminal import Screen, bar, duration, has_colours, is_live, paint, printable
from rempart.repeating import repeating

Phase = Literal["waiting", "running", "done", "failed", "left"]
"""`left`: somebody interrupted the command, and the end of the step is not known."""
LEFT = "interrupted: the end is not known"
LATE_SECONDS = 2.0
"""A command that ends sooner shows no progress of its own."""
AGAIN_SECONDS, TICK_SECONDS = 10.0, 1.0
"""Time after which a plain line is written again, and how often that is looked at."""
_ON_ITS_OWN = frozenset({"run", "users", "stack logs", "stack password", "pipeline deliver"})
"""Commands that replace this process, whose own programs write to the terminal, or that draw by themselves."""
_SIGNS = {
    "waiting": ("·", "faint"),
    "running": ("", "busy"),
    "done": ("✓", "good"),
    "failed": ("✗", "bad"),
    "left": ("?", "faint"),
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_NUMBER = r"\d[\d,]*(\.\d+)?"
_COUNTED = re.compile(rf"\w.*? (?P<done>{_NUMBER}) of (at most )?(?P<total>{_NUMBER}) \w.*")


@dataclass(frozen=True)
class Step:
    """One row: a service, or a stage. Times are seconds of a monotonic clock."""

    name: str
    phase: Phase = "waiting"
    text: str = ""
    began: float | None = None
    ended: float | None = None
    usual: float | None = None
    """Seconds that it took the last time."""

    def seconds(self, now: float) -> float:
        return 0.0 if self.began is None else (self.ended or now) - self.began


@dataclass(frozen=True)
class Count:
    """So many of a known number are done. `first` was the number when counting began."""

    done: float
    total: float
    text: str
    first: float
    began: float


@dataclass(frozen=True)
class State:
    """Everything that is shown."""

    began: float
    title: str = ""
    steps: tuple[Step, ...] = ()
    text: str = ""
    count: Count | None = None
    over: bool = False


def moved(state: State, name: str, phase: Phase, now: float, text: str = "") -> State:
    """Return the state after a step changed; an unknown step is added at the end."""
    old = next((step for step in state.steps if step.name == name), Step(name))
    began = old.began if old.began is not None else (None if phase == "waiting" else now)
    ended = now if phase in _OVER else None
    new = replace(old, phase=phase, text=_one_line(text) or old.text, began=began, ended=ended)
    if old not in state.steps:
        return replace(state, steps=(*state.steps, new))
    return replace(state, steps=tuple(new if step is old else step for step in state.steps))


def told(state: State, event: str, now: float) -> State:
    """Return the state after a log line: a count if it says `sealed 3 of 10 contents`, else the last event."""
    event = _one_line(event)
    matched = _COUNTED.fullmatch(event)
    if not matched:
        return replace(state, text=event, count=None)
    done, total = (float(matched[part].replace(",", "")) for part in ("done", "total"))
    before = state.count
    if before and before.total == total and before.done <= done:
        return replace(state, count=replace(before, done=done, text=event))
    return replace(state, count=Count(done, total, event, done, now))


def continues(before: State, after: State) -> bool:
    """Return whether two states show the same count; if not, the last line of the former stays."""
    return bool(before.count and after.count and before.count.began == after.count.began)


def _one_line(text: str) -> str:
    """Return the first line of a text of a server or a file, without control characters."""
    return printable(text.partition("\n")[0].rstrip("\r"), keep="")


def stopped(state: State, now: float, *, failed: bool = True) -> State:
    """Return the state at the end: steps that run have failed, or were left."""
    for step in state.steps:
        if step.phase == "running":
            state = moved(state, step.name, *(("failed", now) if failed else ("left", now, LEFT)))
    return replace(state, over=True)


def seconds_left(state: State, now: float) -> float | None:
    """Return the seconds that are left, or None if they cannot be known.

    For a count: at the rate so far, once it is three seconds old. For steps: the usual seconds of those to come, at the
    pace of those that ended.
    """
    if state.count:
        done, passed = state.count.done - state.count.first, now - state.count.began
        return (state.count.total - state.count.done) * passed / done if done > 0 and passed >= 3 else None
    to_come = [step for step in state.steps if step.phase not in _OVER]
    if not state.steps or any(step.usual is None for step in to_come):
        return None
    ended = [step for step in state.steps if step.phase in _OVER and step.usual is not None]
    usual = sum(step.usual or 0.0 for step in ended)
    pace = min(4.0, max(0.25, sum(step.seconds(now) for step in ended) / usual)) if usual > 0 else 1.0
    return sum(max(0.0, (step.usual or 0.0) * pace - step.seconds(now)) for step in to_come)


_OVER = ("done", "failed", "left")


def lines(state: State, now: float, *, coloured: bool = False) -> list[str]:
    """Return the lines to draw: one for each step, and one with the count or the last event, and the seconds."""
    width = max((len(step.name) for step in state.steps), default=0)
    shown = [_step_line(step, width, now, coloured) for step in state.steps]
    left = seconds_left(state, now)
    clock = duration(now - state.began) + (f", about {duration(left)} left" if left is not None and left >= 1 else "")
    if state.over or (state.steps and all(step.phase in _OVER for step in state.steps)):
        return shown
    sign = paint(_spin(now), "busy", coloured=coloured)
    if state.count:
        drawn = paint(bar(state.count.done, state.count.total, 20), "busy", coloured=coloured)
        return [*shown, f"{sign} {drawn} {state.count.text}  {clock}"]
    text = state.title if state.steps else (state.text or state.title)
    return [*shown, f"{sign} {clock}  {paint(text, 'faint', coloured=coloured) if text else ''}".rstrip()]


def _step_line(step: Step, width: int, now: float, coloured: bool) -> str:
    sign, style = _SIGNS[step.phase]
    seconds = f"{step.seconds(now):7.1f} s" if step.began is not None else " " * 9
    text = step.text or step.phase
    if step.phase == "waiting" and not step.text:
        return paint(f"{sign} {step.name}", style, coloured=coloured)
    return f"{paint(sign or _spin(now), style, coloured=coloured)} {step.name:<{width}} {seconds}  {text}".rstrip()


def since_start() -> float:
    """Return the seconds since this process started."""
    ticks = float(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _spin(now: float) -> str:
    return _SPINNER[int(now * 5) % len(_SPINNER)]


class Progress:
    """The progress of one command. At most one is shown at a time; `live` tells whether lines are redrawn.

    Without a `table` the events have lines of their own, and only the last one and counts are redrawn.
    """

    def __init__(self, title: str = "", steps: Sequence[Step] = (), *, table: bool = True) -> None:
        self._table = table
        self.state = State(time.monotonic(), title, tuple(steps))
        self.live = is_live(sys.stdout, os.environ)
        self._coloured = has_colours(sys.stdout, os.environ)
        self._screen = Screen(sys.stdout, self._lines)
        self._last: list[str] = []
        self._fixed = bool(steps)

    def move(self, name: str, phase: Phase, text: str = "") -> None:
        """Change a step."""
        self.state = moved(self.state, name, phase, time.monotonic(), text)
        if self.live:
            self._screen.draw()

    def stage(self, name: str, text: str) -> None:
        """Begin a step, or end it with what it did. Elsewhere than at a terminal the end is a line of its own."""
        self.move(name, "done" if text else "running", text)
        if text and not self.live:
            sys.stdout.write(f"{name}: {text}\n")

    def took(self, name: str, seconds: float) -> None:
        """Set the seconds of a step that ended before it was shown."""
        steps = (replace(s, began=(s.ended or 0.0) - seconds) if s.name == name else s for s in self.state.steps)
        self.state = replace(self.state, began=self.state.began - seconds, steps=tuple(steps))

    def take(self, record: logging.LogRecord) -> bool:
        """Show the progress that a log record tells. Return whether the record needs no line of its own."""
        if not self.live or record.levelno >= logging.WARNING:
            return False
        if not self._table:
            before, self.state = self.state, told(self.state, record.getMessage(), time.monotonic())
            if before.count and not continues(before, self.state):
                sys.stdout.write(f"{before.count.text}\n")
            return self.state.count is not None
        if getattr(record, "last", False):
            self._last += [] if self._fixed else [record.getMessage()]
            return True
        steps: Sequence[tuple[str, Phase]] = getattr(record, "steps", ())
        self.state = told(self.state, record.getMessage(), time.monotonic())
        if self._fixed:  # the events of a stage stand beside it
            for step in [step for step in self.state.steps if step.phase == "running"]:
                self.move(step.name, "running", self.state.text)
            return True
        for name, phase in steps:
            self.move(name, phase, getattr(record, "detail", "") if phase != "waiting" else "")
        return bool(steps) or self.state.count is not None

    def begin(self) -> None:
        rendering.views.append(self.take)
        if self.live:
            self._screen.begin()

    def end(self, *, erase: bool = False) -> None:
        if self.take in rendering.views:
            rendering.views.remove(self.take)
        if self.live:
            self._screen.end(erase=erase)
        if self.state.count and not self._table:
            self._last.append(self.state.count.text)
        while self._last:
            sys.stdout.write(f"{self._last.pop(0)}\n")

    def _lines(self, columns: int) -> list[str]:
        return lines(self.state, time.monotonic(), coloured=self._coloured)


@contextmanager
def shown(title: str = "", steps: Sequence[Step] = ()) -> Iterator[Progress]:
    """Show steps while a block runs; they stay on the screen. Steps that an exception interrupts have failed."""
    for waiting in _waiting:
        waiting.end()
    progress = Progress(title, steps)
    progress.begin()
    try:
        yield progress
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        progress.state = stopped(progress.state, time.monotonic(), failed=not interrupted)
        raise
    finally:
        progress.end(erase=not progress.state.steps)


class Repeated:
    """Plain lines of a command: one for each event, and what goes on again after ten seconds without a line."""

    def __init__(self, out: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._lock = threading.Lock()
        self._again: Callable[[float], str] | None = None
        self._began = self._told = clock()

    def tell(self, line: str, again: Callable[[float], str] | None = None) -> None:
        """Write a line. `again` returns the line of what goes on after so many seconds; None if it has ended."""
        with self._lock:
            self._out(line)
            self._again = again
            self._began = self._told = self._clock()

    def tick(self) -> None:
        """Write again what goes on if no line was written for ten seconds."""
        with self._lock:
            now = self._clock()
            if self._again and now - self._told >= AGAIN_SECONDS:
                self._out(self._again(now - self._began))
                self._told = now


@contextmanager
def repeated(out: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> Iterator[Repeated]:
    """Provide the plain lines of a block. At a terminal a clock moves instead, so no line is written again."""
    lines = Repeated(out, clock)
    with nullcontext() if is_live(sys.stdout, os.environ) else repeating(lines.tick, TICK_SECONDS, "plain-lines"):
        yield lines


class Waiting:
    """Shows seconds, count and last event of any command at a terminal that runs longer than LATE_SECONDS."""

    def __init__(self) -> None:
        self._progress = Progress(table=False)
        self._stream = sys.stdout
        self._timer = threading.Timer(LATE_SECONDS, self._show)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._over = False

    def begin(self) -> None:
        if self._progress.live:
            self._timer.start()

    def end(self) -> None:
        """Erase the line. Does nothing the second time."""
        with self._lock:
            self._over = True
            self._timer.cancel()
            self._progress.end(erase=True)

    def _show(self) -> None:
        with self._lock:
            if not self._over and sys.stdout is self._stream:  # else a library draws already
                self._progress.begin()


_waiting: list[Waiting] = []


@contextmanager
def waiting(arguments: Sequence[str]) -> Iterator[None]:
    """Show seconds, count and last event while a command runs long. `arguments` are those of the command line."""
    words = [word for word in arguments if not word.startswith("-")]
    if _ON_ITS_OWN.intersection((" ".join(words[:1]), " ".join(words[:2]))):
        yield
        return
    view = Waiting()
    _waiting.append(view)
    view.begin()
    try:
        yield
    finally:
        view.end()
        _waiting.remove(view)
