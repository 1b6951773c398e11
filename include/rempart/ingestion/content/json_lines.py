"""The lines of a JSON Lines delivery and the keys in them, to remove rows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from rempart.ingestion.reading import Piece, text_lines


def pieces(stream: BinaryIO, size: int, key: Sequence[str]) -> Iterator[Piece]:
    """Yield a delivery of `size` bytes line by line. Joined, the pieces are the whole text.

    `fields` are the key as text; none where the line has no readable key. Raises Unreadable.
    """
    for number, text in text_lines(stream, size, "utf-8"):
        yield Piece(number, text, key_texts(text, key) if text.strip("\ufeff\r\n \t") else None)


def key_texts(line: str, key: Sequence[str]) -> Sequence[str]:
    """Return the key of a row as text, as the columns of a CSV file would have it.

    Nothing if it cannot be read, or if a line has two values of a key column.
    """
    try:
        found = json.loads(
            line.lstrip("\ufeff"), parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=tuple
        )
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, tuple):
        return ()
    values = [[value for of, value in found if of == name] for name in key]
    if any(len(given) > 1 for given in values):  # either may be the key of the person
        return ()
    return [_text(given[0]) if given else "" for given in values]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""
