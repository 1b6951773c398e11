"""The text of records: canonical JSON without U+0000, which PostgreSQL's jsonb cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rempart import canonical_json
from rempart.canonical_json import NotCanonical
from rempart.errors import LedgerError

WHOLE = "the record itself"
"""Name of the empty path."""


def canonical(value: Any) -> str:
    """Return the canonical text of plain JSON. Raises LedgerError naming the path of what may not stand in a record."""
    try:
        text = canonical_json.encode(value).decode()
    except NotCanonical as cause:
        raise _refused(str(cause)) from cause
    # also in the text where a backslash and `u0000` follow each other in a string
    if "\\u0000" in text and (path := _null_character(value, "")) is not None:
        raise _refused(f"{path or WHOLE} contains U+0000")
    return text


def parse(text: str) -> Any:
    """Return the value of a canonical text. Raises ValueError if it is no JSON, or is not in its canonical form."""
    try:
        value = canonical_json.read(text)
        same = canonical(value) == text
    except (LedgerError, RecursionError) as cause:
        raise ValueError("it contains a value that no record may contain") from cause
    if not same:
        raise ValueError("it is not in canonical form")
    return value


def _refused(what: str) -> LedgerError:
    return LedgerError(
        f"write a record of the ledger: {what}",
        "Write the value as null or as a string. Records hold plain JSON with finite numbers.",
    )


def _null_character(value: Any, path: str) -> str | None:
    """Return the path of a string with U+0000."""
    inner: list[tuple[str, Any]] = []
    match value:
        case str():
            return path if "\x00" in value else None
        case Mapping():
            inner = [
                item
                for key, inside_value in value.items()
                for item in ((f"a key of {path or WHOLE}", key), (f"{path}.{key}", inside_value))
            ]
        case list() | tuple():
            inner = [(f"{path}[{place}]", inside_value) for place, inside_value in enumerate(value)]
    return next(
        (
            null_at
            for where, inside_value in inner
            if (null_at := _null_character(inside_value, where.lstrip("."))) is not None
        ),
        None,
    )
