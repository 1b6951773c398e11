"""Units beside numbers, as in `12,50 €` and `CHF 14.20`: the declared unit is taken off, and a draft finds the likely
one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.ingestion.parsing import recognise

if TYPE_CHECKING:
    import pyarrow as pa

_BLANKS = "[ \u00a0\u202f]*"
_WITH_UNIT = re.compile(
    r"(?P<before>EUR|USD|CHF|GBP|[€$£¥])?\s*[+-]?\d[\d.,]*\s*(?P<behind>[€$£¥%‰]|(?![eE]\d)[^\W\d_][^\W_]{0,5})?"
)
"""`E7` is an exponent, and `m2` a unit."""
_ATTACHED = re.compile(r"\d[^\W\d_]\Z")
"""A letter right behind a digit, such as `12b`: rather a part of a name than a unit."""


@dataclass(frozen=True)
class Unit:
    """The unit beside almost all numbers of a column. `absent`: how many cells do not have it."""

    text: str
    absent: int


def bare(text: pa.Array, unit: str) -> tuple[pa.Array, Any]:
    """Return texts without their unit, null where a text does not have it on exactly one side; and where it has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fits = pc.xor(pc.starts_with(text, unit), pc.ends_with(text, unit))
    plain = pc.replace_substring_regex(text, _at_either_end(unit), "")
    return pc.if_else(fits, plain, pa.scalar(None, text.type)), fits


def likely(cells: recognise.Cells) -> Unit | None:
    """Return the unit that stands before or behind almost every number of a column; None without such a unit. Pure."""
    counts, total = _counts(cells), sum(cells.values())
    unit, most = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
    if not unit or not recognise.few(total - most, total):
        return None
    attached = len(unit) == 1 and unit.isalpha() and any(map(_ATTACHED.search, cells))
    return None if attached else Unit(unit, total - most)


def without(cells: recognise.Cells, unit: str) -> dict[str, int]:
    """Return the cells of a column without their unit; a cell that does not have it stays as it is. Pure."""
    found = Counter[str]()
    for text, count in cells.items():
        found[stripped(text, unit)] += count
    return dict(found)


def stripped(text: str, unit: str) -> str:
    """Return one text without its unit; as it is if it does not have it on exactly one side. Pure."""
    return re.sub(_at_either_end(unit), "", text) if text.startswith(unit) != text.endswith(unit) else text


def mixed(cells: recognise.Cells) -> Mapping[str, int]:
    """Return the units of a column in which almost every number has one of several, most frequent first; else none.
    Pure."""
    counts, total = _counts(cells), sum(cells.values())
    some = Counter({unit: count for unit, count in counts.items() if unit and not recognise.few(count, total)})
    enough = len(some) > 1 and recognise.few(total - some.total(), total)
    return dict(some.most_common()) if enough else {}


def _at_either_end(unit: str) -> str:
    """Return the pattern of a unit at the start or at the end of a text, with the blanks between it and the number."""
    return f"^{re.escape(unit)}{_BLANKS}|{_BLANKS}{re.escape(unit)}$"


def _counts(cells: recognise.Cells) -> Counter[str]:
    """Return how many cells have each unit; `""`: a number without one."""
    counts = Counter[str]()
    for text, count in cells.items():
        if found := _WITH_UNIT.fullmatch(text):
            counts[found["before"] or found["behind"] or ""] += count
    return counts
