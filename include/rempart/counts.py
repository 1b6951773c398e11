"""A number with its noun, for messages: one object, two objects."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `counted(1, "row")`, `counted(2, "entry", "entries")`.

    A verb may follow the noun: `counted(1, "row is", "rows are")`.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
