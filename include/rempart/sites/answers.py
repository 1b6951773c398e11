"""Read the required fields of an S3 server's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NotUnderstood(Exception):
    """An answer under a status of success that is no valid answer; the text says what is wrong with it."""


def fact(answer: Mapping[str, Any], name: str) -> Any:
    """Return a field that every S3 server must send, such as ETag. Raises NotUnderstood if it is missing."""
    if (value := answer.get(name)) is None:
        raise NotUnderstood(f"the field {name} is missing in the answer")
    return value


def etag(answer: Mapping[str, Any]) -> str:
    """Return the ETag of an answer without its quotes. Raises NotUnderstood if it is missing."""
    if not (value := str(fact(answer, "ETag")).strip('"')):
        raise NotUnderstood("the ETag in the answer is empty")
    return value
