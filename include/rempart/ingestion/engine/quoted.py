"""The rule for a line with a quotation mark: a field in quotes may hold delimiters, quotes and line ends.

A quote that opens a row of wrong width, or never closes, costs its own line only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

MISPLACED = "a quotation mark is not closed or misplaced"
LONGEST_FIELD = 131_072
"""Limit of the csv module for a field, in characters. A longer field in a line with a quote is refused."""


def row(following: Iterator[str], delimiter: str, width: int) -> tuple[int, Sequence[str] | None]:
    """Return how many of the following lines the row takes, and its fields; 1 and None for a stray quote."""
    reader = csv.reader(following, delimiter=delimiter, strict=True)
    try:
        fields = next(reader)
    except (csv.Error, StopIteration):
        return 1, None
    used = reader.line_num
    if not fields or (used > 1 and len(fields) != width):
        return 1, None
    return used, fields


def well_formed(delimiter: str) -> str:
    """Return the pattern (RE2) of a line whose quotes are all closed in it."""
    mark = f"\\x{{{ord(delimiter):x}}}"
    cell = f'(?:"(?:[^"]|"")*"|[^"{mark}][^{mark}]*|)'
    return rf"\A{cell}(?:{mark}{cell})*\z"


def wrong_width(count: int, width: int, most: int) -> str:
    """Return the reason against a row of `count` fields. `most`: the largest number that is counted."""
    if count > most:
        return f"too many fields: more than {most}, but the header has {width}"
    amount = "few" if count < width else "many"
    return f"too {amount} fields: {count}, but the header has {width}"
