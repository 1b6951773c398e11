"""Draws a few lines at the bottom of a terminal; other output appears above them.

Standard library only, and no import of Rempart's other rooms: set-up draws with it before anything is installed. The
cursor is never hidden and no mode of the terminal is changed, so that a killed program leaves nothing to repair.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

COLOURS = {"good": "32", "bad": "31", "busy": "36", "faint": "2", "strong": "1"}
REDRAW_SECONDS = 0.2
_CODES = re.compile(r"\033\[[0-9;?]*[a-zA-Z]")
_CONTROLS = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_TAKEN_OVER = "\033[?25l"
"""A library hides the cursor: it draws a view of its own."""


def printable(text: str, keep: str = "\n\t") -> str:
    """Return text with every control character written as an escape, except those to keep.

    Names and messages come from files and servers: they must not move the cursor, hide text or change its direction.
    """
    return "".join(c if c in keep or not is_control(c) else c.encode("unicode_escape").decode() for c in text)


def is_control(character: str) -> bool:
    """Return whether a character has an effect instead of a shape, or cannot be encoded."""
    return unicodedata.category(character) in _CONTROLS


def is_live(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Return whether lines on this stream can be redrawn: a terminal that moves its cursor."""
    return stream is not None and stream.isatty() and environment.get("TERM", "") not in ("", "dumb")


def has_colours(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Return whether to write colours: a terminal, and NO_COLOR is not set (no-color.org)."""
    return is_live(stream, environment) and not environment.get("NO_COLOR")


def paint(text: str, style: str, *, coloured: bool) -> str:
    """Return the text in one of COLOURS, or as it is."""
    return f"\033[{COLOURS[style]}m{text}\033[0m" if coloured and style else text


def length(text: str) -> int:
    """Return the number of cells that a line takes; colours take none."""
    return sum(_cells(character) for character in _CODES.sub("", text))


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Shorten a line to a width. A shortened line loses its colours."""
    if length(text) <= width:
        return text
    kept = _CODES.sub("", text)
    while kept and length(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def bar(done: float, total: float, width: int) -> str:
    """Return a bar of so many cells."""
    full = round(width * min(1.0, done / total)) if total > 0 else 0
    return "█" * full + "░" * (width - full)


def duration(seconds: float) -> str:
    """Return seconds as people say them: `8 s`, `2 min 05 s`, `1 h 03 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class Screen:
    """The lines at the bottom of one terminal. `lines` returns them for a width, and is called at each redraw."""

    def __init__(self, stream: TextIO, lines: Callable[[int], Sequence[str]]) -> None:
        self._stream = stream
        self._lines = lines
        self._drawn: list[str] = []
        self._open_line = False
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._streams: dict[str, TextIO] = {}

    def begin(self) -> None:
        """Draw, and pass what the program prints from now on above the drawn lines."""
        self._stream.flush()
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                self._streams[name] = stream
                setattr(sys, name, _Above(self, stream))
        self.draw()
        self._ticker.start()

    def end(self, *, erase: bool = False) -> None:
        """Draw a last time, or erase, and give the streams back. Does nothing the second time."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._stream.write(self._erased())
            if not erase and not self._open_line:
                self._stream.write("".join(f"{line}\n" for line in self._current()))
            self._stream.flush()
            for name, stream in self._streams.items():
                if isinstance(getattr(sys, name), _Above):
                    setattr(sys, name, stream)
        if self._ticker is not threading.current_thread() and self._ticker.is_alive():
            self._ticker.join(1.0)

    def draw(self) -> None:
        """Redraw in place, unless somebody is typing at the end of an unfinished line."""
        with self._lock:
            if self._ended.is_set() or self._open_line:
                return
            before = self._erased()
            self._drawn = self._current()
            self._stream.write(before + "".join(f"{line}\n" for line in self._drawn))
            self._stream.flush()

    def above(self, stream: TextIO, text: str) -> None:
        """Write to a stream above the drawn lines. An unfinished line (a question) hides them until it is finished."""
        with self._lock:
            if self._ended.is_set():
                stream.write(text)
                return
            if _TAKEN_OVER in text:
                self.end(erase=True)
                stream.write(text)
                return
            self._stream.write(self._erased())
            self._stream.flush()
            stream.write(text)
            stream.flush()
            self._open_line = not text.endswith("\n")
            self.draw()

    def _current(self) -> list[str]:
        columns, rows = shutil.get_terminal_size()
        lines = [cut(line, columns - 1) for line in self._lines(columns)][-max(1, rows - 1) :]
        encoding = self._stream.encoding or "utf-8"
        return [line.encode(encoding, "replace").decode(encoding) for line in lines]

    def _erased(self) -> str:
        """Return the codes that erase the drawn lines, also after the terminal became narrower."""
        columns = shutil.get_terminal_size().columns
        height = sum(max(1, math.ceil(length(line) / columns)) for line in self._drawn)
        self._drawn = []
        return f"\033[{height}A\r\033[J" if height else ""

    def _tick(self) -> None:
        while not self._ended.wait(REDRAW_SECONDS):
            self.draw()


class _Above(io.TextIOBase):
    """Stands for a stream of the terminal while lines are drawn: whole lines go above them."""

    def __init__(self, screen: Screen, stream: TextIO) -> None:
        self._screen = screen
        self._stream = stream
        self._pending = ""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("text is expected, not bytes")
        whole, newline, self._pending = (self._pending + text).rpartition("\n")
        if newline:
            self._screen.above(self._stream, whole + newline)
        if _TAKEN_OVER in self._pending:
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self._pending:
            text, self._pending = self._pending, ""
            self._screen.above(self._stream, text)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override] # read-only here
        return self._stream.errors


class Counter:
    """One task that is counted: a bar at a terminal, a plain line every `every` seconds elsewhere."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str], every: float = 5.0) -> None:
        self.text, self.done, self.total = "", 0.0, 0.0
        self._began = self._told = time.monotonic()
        self._every, self._stream = every, stream
        self._coloured = has_colours(stream, environment)
        self._screen = Screen(stream, self._shown) if is_live(stream, environment) else None

    def begin(self) -> None:
        if self._screen:
            self._screen.begin()

    def update(self, text: str, done: float = 0.0, total: float = 0.0) -> None:
        """Show what is done now; without a total there is no bar."""
        self.text, self.done, self.total = text, done, total
        if self._screen is None and time.monotonic() - self._told >= self._every:
            self.line(text)

    def line(self, text: str) -> None:
        """Write one line that stays."""
        self._told = time.monotonic()
        sys.stdout.write(f"setup: {text} ({duration(self.seconds())})\n")
        sys.stdout.flush()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def end(self) -> None:
        if self._screen:
            self._screen.end(erase=True)

    def _shown(self, columns: int) -> list[str]:
        drawn = bar(self.done, self.total, max(10, min(30, columns - 60))) + " " if self.total else ""
        return [f"setup: {paint(drawn, 'busy', coloured=self._coloured)}{self.text} ({duration(self.seconds())})"]
