"""Numbers as a source's dialect writes them: decimal mark and thousands separator, as text that Arrow can convert.

Groups are exact: with `thousands: "."` the text `1.234` is a number. `1.23` is none: the point may be a decimal mark.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_MARKED = r"^-?[0-9][0-9.,' \x{00A0}\x{202F}\x{2019}]*$"
_THOUSANDS = {"": "", ".": "[.]", ",": "[,]", " ": "[ \u00a0\u202f]", "'": "['\u2019]"}
"""Characters that separate thousands. A blank may be narrow or non-breaking; Swiss texts have two apostrophes."""


def is_plain(dialect: Dialect) -> bool:
    """Return whether numbers are written as Arrow reads them: a decimal point, no thousands separator."""
    return dialect.decimal == "." and not dialect.thousands


@lru_cache(maxsize=64)
def pattern(decimal: str, thousands: str) -> str:
    """Return the pattern of a number: digits or exact groups, at most one decimal mark, perhaps an exponent."""
    mark, separator = re.escape(decimal), _THOUSANDS[thousands]
    whole = rf"([0-9]{{1,3}}({separator}[0-9]{{3}})+|[0-9]+)" if separator else "[0-9]+"
    return rf"^-?({whole}({mark}[0-9]*)?|{mark}[0-9]+)([eE][+-]?[0-9]+)?$"


def normal(text: pa.Array, dialect: Dialect) -> tuple[pa.Array, Any]:
    """Return numbers with a decimal point and without separators, null where the text is no number of the dialect,
    and where it is one (null for null)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fits = pc.match_substring_regex(text, pattern(dialect.decimal, dialect.thousands))
    plain = pc.if_else(fits, text, pa.scalar(None, text.type))
    if dialect.thousands:
        plain = pc.replace_substring_regex(plain, _THOUSANDS[dialect.thousands], "")
    if dialect.decimal != ".":
        plain = pc.replace_substring(plain, dialect.decimal, ".")
    return plain, fits


def is_marked(text: pa.Array) -> Any:
    """Return where the text is digits with marks between them, such as `1.234,5` in any dialect."""
    import pyarrow.compute as pc

    return pc.match_substring_regex(text, _MARKED)


def number(text: str, dialect: Dialect) -> float | None:
    """Return the number in one text, or None."""
    if not re.fullmatch(pattern(dialect.decimal, dialect.thousands)[1:-1], text):
        return None
    plain = re.sub(_THOUSANDS[dialect.thousands], "", text) if dialect.thousands else text
    value = float(plain.replace(dialect.decimal, "."))
    return value if abs(value) != float("inf") else None


def decimals(plain: pa.Array, precision: int, scale: int) -> tuple[pa.Array, Any, Any, Any]:
    """Return exact decimals of normal numbers, and where the text is one, has too many places, or too many digits.

    Nothing is rounded: zeros at the end do not count as places, and zeros in front do not count as digits.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ok = pc.match_substring_regex(plain, r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)$")
    bare = pc.if_else(ok, plain, pa.scalar(None, plain.type))
    bare = pc.replace_substring_regex(bare, r"(\.[0-9]*?)0+$", r"\1")
    bare = pc.replace_substring_regex(bare, r"\.$", "")
    bare = pc.replace_substring_regex(bare, r"^(-?)0+([0-9])", r"\1\2")
    bare = pc.replace_substring_regex(bare, r"^(-?)(\.|$)", r"\10\2")  # Arrow wants a digit before the point
    places = pc.match_substring_regex(bare, rf"\.[0-9]{{{scale + 1},}}$")
    whole = precision - scale
    digits = pc.match_substring_regex(bare, rf"^-?[1-9][0-9]{{{whole},}}(\.|$)")
    keep = pc.and_(ok, pc.invert(pc.or_(places, digits)))
    value = pc.cast(pc.if_else(keep, bare, pa.scalar(None, bare.type)), pa.decimal128(precision, scale))
    return value, ok, places, digits
