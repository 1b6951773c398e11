"""Canonical JSON (RFC 8785): equal values give equal bytes, so that a hash or a signature can be made again.

Keys are sorted by their UTF-16 code units, there is no white space, and numbers stand as ECMAScript prints them (1.0 is
`1`). Integers beyond ±(2^53 - 1) are refused: most readers of JSON round them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import rfc8785

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps."""


class NotCanonical(ValueError):
    """A value without a canonical form. The message names its path."""


def encode(value: Any) -> bytes:
    """Return the canonical bytes of plain JSON. Raises NotCanonical."""
    try:
        return rfc8785.dumps(value)
    except ValueError:  # the library names no path, and takes no mapping but dict
        return rfc8785.dumps(_plain(value, ""))


def read(text: str | bytes) -> Any:
    """Return the value of JSON text, canonical or not. Raises ValueError, also for NaN and infinities.

    A whole number beyond ±(2^53 - 1) is a float: the canonical form of a float of this size has no point. A number that
    no float can hold, such as 1e999, counts as an infinity. Text that is nested too deeply for Python is no JSON.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _integer(text: str) -> int | float:
    return whole if abs(whole := int(text)) <= LARGEST else _float(text)


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _plain(value: Any, path: str) -> Any:
    """Return the value with a dict for every mapping. Raises NotCanonical naming what has no canonical form."""
    where = path or "the value itself"
    match value:
        case None | bool():
            return value
        case str():
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise NotCanonical(f"{where} holds half of a surrogate pair")
        case int():
            if abs(value) > LARGEST:
                raise NotCanonical(f"{where} is an integer beyond ±(2^53 - 1)")
        case float():
            if not math.isfinite(value):
                raise NotCanonical(f"{where} is not a finite number")
        case Mapping():
            if odd := [key for key in value if not isinstance(key, str)]:
                raise NotCanonical(f"{where} has a key that is a {type(odd[0]).__name__}")
            return {
                _plain(key, f"a key of {where}"): _plain(item, f"{path}.{key}" if path else key)
                for key, item in value.items()
            }
        case list() | tuple():
            return [_plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
        case _:
            raise NotCanonical(f"{where} is a {type(value).__name__}")
    return value
