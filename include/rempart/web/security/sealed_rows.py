"""Open quarantined rows that a task encrypted for one browser's key; as a table, and as a file. Pure."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from rempart.backup.keys import age
from rempart.errors import ConfigError, IntegrityError, KeyWrong

LARGEST = 2 * 1024 * 1024
"""Characters of a sealed text at most: the task writes a fraction of that."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Characters that a spreadsheet treats as the start of a formula, or ignores before one."""


@dataclass(frozen=True)
class Row:
    """One row: its line in the delivery, why it was refused, its text as received (`cut`: only the beginning)."""

    line: int
    reason: str
    raw: str
    cut: bool


@dataclass(frozen=True)
class OpenedRows:
    """The first quarantined rows of a delivery; it has `of` such rows.

    `header`: the delivery's first line, empty if it is no longer stored.
    """

    pipeline: str
    delivery: str
    file: str
    of: int
    header: str
    rows: tuple[Row, ...]


def opened(answer: Any, secret: str, pipeline: str, delivery: str) -> OpenedRows | None:
    """Return the rows of a look; None if this key does not open it, or it is of another delivery."""
    sealed = answer.get("sealed") if isinstance(answer, dict) else None
    if not isinstance(sealed, str) or len(sealed) > LARGEST:
        return None
    try:
        identity = age.read_identity(secret, "the browser's cookie")
        told = json.loads(age.decrypt(base64.b64decode(sealed, validate=True), identity, "the rows"))
    except (ConfigError, KeyWrong, IntegrityError, binascii.Error, ValueError):
        return None
    if (told["pipeline"], told["delivery"]) != (pipeline, delivery):
        return None
    rows = tuple(Row(row["line"], row["reason"], row["raw"], row["cut"]) for row in told["rows"])
    return OpenedRows(pipeline, delivery, told["file"], told["of"], told["header"], rows)


def as_csv(opened_rows: OpenedRows) -> str:
    """Return the rows as a file. A cell that a spreadsheet would run begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(("source_line", "reason", "row_as_received"))
    writer.writerows((row.line, _harmless(row.reason), _harmless(row.raw)) for row in opened_rows.rows)
    return out.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.lstrip(" ").startswith(_FORMULA) else cell
