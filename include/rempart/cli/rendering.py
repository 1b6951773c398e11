"""Renders the log of a command on the terminal: events to standard output, warnings and errors to standard error."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import typer

from rempart.deployment.setup.terminal import printable

ROOT = logging.getLogger("rempart")
Take = Callable[[logging.LogRecord], bool]
"""Shows a record in a live view. Returns whether the record needs no line of its own."""
views: list[Take] = []
"""The live views of this process: the last one is asked."""
TIMED = ("rempart.deployment.embedded.lifecycle", "rempart.deployment.embedded.service_log")
"""Loggers whose lines show the seconds since the command started, because a start of the stack takes long."""
_WORDS = {logging.WARNING: ("warning", "33"), logging.ERROR: ("error", "31"), logging.CRITICAL: ("error", "31")}


class Terminal(logging.Handler):
    """Write each record as a line: the message alone, with a mark for a warning or an error."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if views and views[-1](record):
            return
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        if stream is None:  # closed by the caller
            return
        coloured = stream.isatty() and not os.environ.get("NO_COLOR")
        stream.write(f"{self._head(record, coloured=coloured)}{printable(self.format(record))}\n")
        stream.flush()

    def _head(self, record: logging.LogRecord, *, coloured: bool) -> str:
        if record.levelno in _WORDS:
            word, colour = _WORDS[record.levelno]
            return f"\033[{colour}m{word}:\033[0m " if coloured else f"{word}: "
        return f"[{time.monotonic() - self._began:6.1f} s] " if record.name in TIMED else ""


@contextmanager
def on_terminal() -> Iterator[None]:
    """Show Rempart's log lines while a command runs. Loggers of libraries stay at WARNING, as Python has them."""
    handler, level, propagates = Terminal(), ROOT.level, ROOT.propagate
    ROOT.addHandler(handler)
    ROOT.setLevel(logging.INFO)
    ROOT.propagate = False
    try:
        yield
    finally:
        ROOT.removeHandler(handler)
        ROOT.setLevel(level)
        ROOT.propagate = propagates


_MACHINE = {
    errno.ENOSPC: "Free space there, or put the state elsewhere: REMPART_VAR=/a/folder.",
    errno.EDQUOT: "Free space of your quota, or put the state elsewhere: REMPART_VAR=/a/folder.",
    errno.EROFS: "That file system is mounted read-only: use another folder.",
    errno.EACCES: "Correct the rights of that file, or run it as its owner.",
    errno.EPERM: "Correct the rights of that file, or run it as its owner.",
    errno.EMFILE: "Run `ulimit -n 4096`, then run it again.",
}


def of_the_machine(fault: OSError) -> str:
    """Return an error of the operating system in two lines; empty if no remedy is known here."""
    remedy = _MACHINE.get(fault.errno or 0)
    return f"error: {fault.filename or 'a file'}: {fault.strerror}\n  What to do: {remedy}" if remedy else ""


def warnings_only() -> None:
    """Show no events: standard output is for one JSON document."""
    ROOT.setLevel(logging.WARNING)


def show(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines that may hold names and messages of files and servers; with `err` to standard error. Control
    characters are escaped, so that a line stays one line.
    """
    for line in lines:
        typer.echo(printable(line, keep="\t"), err=err)


def tell(line: str, *, err: bool = False) -> None:
    """Print one line as `show` does."""
    show([line], err=err)
