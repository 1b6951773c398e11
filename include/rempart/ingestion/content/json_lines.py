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
    """Return the key of a row as text, as the columns of a CSV file would have it; nothing if it cannot be read."""
    try:
        found = json.loads(line.lstrip("\ufeff"), parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return ()
    return [_text(found.get(name)) for name in key] if isinstance(found, dict) else ()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""
