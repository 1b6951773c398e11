"""Form tables, times, durations and sizes for the terminal, and read lines that a person passes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rempart.counts import counted as counted  # the terminal's words
from rempart.deployment.setup.terminal import duration, printable
from rempart.errors import BackupError

UNKNOWN = "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table as lines: the head, then each row, with columns of equal width."""
    lines = [tuple(head), *(tuple(printable(cell, keep="") for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def pairs(entries: Iterable[tuple[str, str]], indent: str = "  ") -> Iterator[str]:
    """Yield names and their values as lines, the values below each other."""
    found = [(printable(name, keep=""), printable(text, keep="")) for name, text in entries]
    width = max((len(name) for name, _ in found), default=0)
    for name, text in found:
        yield f"{indent}{name:<{width}}  {text}".rstrip()


def folded(description: str) -> str:
    """Return a text of several lines as one line."""
    return " ".join(description.split())


def look_again(command: str, *silent: str | None) -> Iterator[str]:
    """Yield the command that asks once more, if one of these says why something is not known."""
    if any(silent):
        yield f"To ask once more for what is unknown: {command}"


def moment(at: datetime | None) -> str:
    """Return a time to the minute, UTC."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def day_or_moment(iso: str) -> str:
    """Return a day as it is, and a time of a record as `moment` does."""
    return moment(datetime.fromisoformat(iso).astimezone(UTC)) if "T" in iso else iso


def span(seconds: float | None) -> str:
    """Return a duration in its largest units, or `unknown`."""
    if seconds is None:
        return UNKNOWN
    return duration(seconds).removesuffix(" 00 s").removesuffix(" 00 min").removesuffix(" 0 h")


def places(lines: Sequence[int], count: int) -> str:
    """Return the known lines of so many rows of a file, as ` (line 3, 5, ...)`; empty if none is known."""
    shown = ", ".join(map(str, lines)) + (", ..." if count > len(lines) else "")
    return f" (line {shown})" if lines else ""


def number(value: float | None) -> str:
    """Return a figure with four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def figures(metrics: Mapping[str, float | None], first: str | None = None) -> str:
    """Return figures as text, the deciding one first."""
    ordered = sorted(metrics, key=lambda name: name != first)
    return ", ".join(f"{name} {number(metrics[name])}" for name in ordered) or "-"


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file, or of standard input for `-`. Raises BackupError."""
    if str(file) == "-":
        return sys.stdin.read().splitlines()
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        shown = printable(str(file), keep="")
        raise BackupError(f"read {shown}: {type(cause).__name__}", "Pass a file of UTF-8 text.") from cause
