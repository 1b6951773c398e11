"""Canonical JSON (RFC 8785): equal values give equal bytes, so that a hash or a signature can be made again.

Keys are sorted by their UTF-16 code units, there is no white space, and numbers stand as ECMAScript prints them (1.0 is
`1`). Integers beyond ±(2^53 - 1) are refused: most readers of JSON round them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps."""


class NotCanonical(ValueError):
    """A value without a canonical form. The message names its path."""


def encode(value: Any) -> bytes:
    """Return the canonical bytes of plain JSON. Raises NotCanonical."""
    return "".join(_parts(value, "")).encode()


def read(text: str | bytes) -> Any:
    """Return the value of JSON text, canonical or not. Raises ValueError, also for NaN and infinities.

    A whole number beyond ±(2^53 - 1) is a float: the canonical form of a float of this size has no point. A number that
    no float can hold, such as 1e999, counts as an infinity.
    """
    return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _integer(text: str) -> int | float:
    return whole if abs(whole := int(text)) <= LARGEST else _float(text)


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _parts(value: Any, path: str) -> Iterator[str]:
    match value:
        case None:
            yield "null"
        case bool():
            yield "true" if value else "false"
        case str():
            yield _string(value, path)
        case int():
            if abs(value) > LARGEST:
                raise NotCanonical(f"{path} is an integer beyond ±(2^53 - 1)")
            yield int.__repr__(value)
        case float():
            if not math.isfinite(value):
                raise NotCanonical(f"{path} is not a finite number")
            yield _number(value)
        case Mapping():
            yield "{"
            if odd := [key for key in value if not isinstance(key, str)]:
                raise NotCanonical(f"{path} has a key that is a {type(odd[0]).__name__}")
            for place, key in enumerate(sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))):
                yield f"{',' if place else ''}{_string(key, f'a key of {path}')}:"
                yield from _parts(value[key], f"{path}.{key}" if path else key)
            yield "}"
        case list() | tuple():
            yield "["
            for place, item in enumerate(value):
                if place:
                    yield ","
                yield from _parts(item, f"{path}[{place}]")
            yield "]"
        case _:
            raise NotCanonical(f"{path} is a {type(value).__name__}")


def _string(text: str, path: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise NotCanonical(f"{path} holds half of a surrogate pair")
    return encode_basestring(text)


def _number(value: float) -> str:
    """Return a finite float as ECMAScript's Number::toString prints it (RFC 8785, 3.2.2.3)."""
    if value == 0:
        return "0"
    sign, mantissa, exponent = Decimal(float.__repr__(value)).as_tuple()
    digits = "".join(map(str, mantissa)).rstrip("0")
    point = len(mantissa) + int(exponent)  # the value is 0.digits times ten to this
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+d}"
    return f"{'-' if sign else ''}{text}"
