"""Rempart's own protocol: rows as JSON objects in, named predictions out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from rempart.serving import entries
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.refusals import Refused

MOST_ROWS = 1000
"""Rows of one request."""
_FORM = 'Send {"rows": [{"column": value, ...}]}, one such row alone, or {"keys": [{"column": value, ...}]}.'


@dataclass(frozen=True)
class Question:
    """What a request asks for. `by_key`: `rows` hold keys of entities, and not all columns."""

    rows: Sequence[Mapping[str, Any]]
    by_key: bool = False
    id: str = ""
    named: bool = True
    """Whether the answer names the outputs, as this protocol does."""


def decoded(body: bytes) -> Any:
    """Return the value of a JSON body. Raises Refused (400)."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "read the request: its body is not JSON", _FORM) from None


def question(body: bytes) -> Question:
    """Return what a body asks for. Raises Refused (400)."""
    content = decoded(body)
    if not isinstance(content, dict):
        raise Refused(400, "read the request: its body is not a JSON object", _FORM)
    for name in ("rows", "keys"):
        if name in content and isinstance(content[name], list):
            if len(content) > 1:
                raise Refused(400, f"read the request: it has members beside '{name}'", _FORM)
            return Question(checked(content[name]), by_key=name == "keys")
    return Question(checked([content]))


def checked(rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    """Return rows after checking their number and kind. Raises Refused (400, 413)."""
    if set(map(type, rows)) != {dict}:
        raise Refused(400, "read the request: its rows are no list of JSON objects", _FORM)
    if len(rows) > MOST_ROWS:
        raise Refused(
            413,
            f"read the request: it has {len(rows)} rows; the limit is {MOST_ROWS}",
            "Send several requests, or predict a file with `rempart model predict`.",
        )
    return rows


class RandomBytes:
    """Random bytes of the system, asked for in blocks: a call for each request would cost more than its ids."""

    def __init__(self, block: int = 1 << 12) -> None:
        self._block, self._left, self._next = block, b"", 0

    def take(self, number: int) -> bytes:
        """Return bytes that nobody else gets."""
        if self._next + number > len(self._left):
            self._left, self._next = secrets.token_bytes(max(self._block, number)), 0
        self._next += number
        return self._left[self._next - number : self._next]


def new_ids(number: int, random: RandomBytes) -> list[str]:
    """Return an id for each prediction of a request: 32 hexadecimal digits each, its time and random ones."""
    return entries.new_ids(datetime.now(UTC), random.take(10 * number))


def answer(pipeline: str, version: str, sha256: str, ids: Sequence[str], answered: BatchAnswer) -> dict[str, Any]:
    """Return the answer's content. A prediction names the views that had no value for its row, in `without`."""
    predictions: list[dict[str, Any]] = [
        {"id": id_, **output} for id_, output in zip(ids, answered.outputs, strict=True)
    ]
    for prediction, views in zip(predictions, answered.without, strict=False):
        if views:
            prediction["without"] = list(views)
    return {"pipeline": pipeline, "version": version, "sha256": sha256, "predictions": predictions}
