"""Numbers of messages: a number with its noun, and bytes."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `counted(1, "row")`, `counted(2, "entry", "entries")`.

    A verb may follow the noun: `counted(1, "row is", "rows are")`.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def size(count: float) -> str:
    """Return bytes in decimal units: `512 B`, `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
