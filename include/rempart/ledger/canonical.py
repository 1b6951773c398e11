"""Canonical JSON as RFC 8785 has it: one value, one sequence of bytes, so that a hash or signature can be made anew.

Keys sorted by their UTF-16 code units, no white space, UTF-8, strings escaped only where JSON demands it, and numbers
as ECMAScript prints them (1.0 is `1`, 1e-7 is `1e-7`). Narrower than the RFC in two points: integers beyond
±(2^53 - 1), which a reader may round, and U+0000, which PostgreSQL's jsonb cannot hold, are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

from rempart.errors import LedgerError

LARGEST = 2**53 - 1


def canonical(value: Any) -> str:
    """The canonical text of plain JSON. Raises LedgerError naming the path of what may not stand in a record."""
    text = "".join(_parts(value, ""))
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise _refused("a string", "holds half of a surrogate pair") from cause
    return text


def parse(text: str) -> Any:
    """The value of a canonical text. Raises ValueError when the text is no JSON, or is not in its canonical form."""
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_constant)
        same = canonical(value) == text
    except (LedgerError, RecursionError) as cause:
        raise ValueError("it holds what no record may hold") from cause
    if not same:
        raise ValueError("it is not in canonical form")
    return value


def _integer(text: str) -> int | float:
    # a float of this size is printed without a point or an exponent
    return whole if abs(whole := int(text)) <= LARGEST else float(text)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _refused(path: str, why: str) -> LedgerError:
    return LedgerError(
        f"A record of the ledger cannot hold what it was given: {path} {why}",
        "Write it as null or as a string; records hold plain JSON with finite numbers.",
    )


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
                raise _refused(path, "is an integer beyond ±(2^53 - 1)")
            yield int.__repr__(value)
        case float():
            if not math.isfinite(value):
                raise _refused(path, "is not a finite number")
            yield number(value)
        case Mapping():
            yield "{"
            if odd := [key for key in value if not isinstance(key, str)]:
                raise _refused(path, f"has a key that is a {type(odd[0]).__name__}")
            for i, key in enumerate(sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))):
                yield f"{',' if i else ''}{_string(key, path)}:"
                yield from _parts(value[key], f"{path}.{key}" if path else key)
            yield "}"
        case list() | tuple():
            yield "["
            for i, item in enumerate(value):
                if i:
                    yield ","
                yield from _parts(item, f"{path}[{i}]")
            yield "]"
        case _:
            raise _refused(path, f"is a {type(value).__name__}")


def _string(text: str, path: str) -> str:
    if "\x00" in text:
        raise _refused(path, "holds U+0000")
    return encode_basestring(text)


def number(value: float) -> str:
    """A finite float as ECMAScript's Number::toString prints it (RFC 8785, 3.2.2.3)."""
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
