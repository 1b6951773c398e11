"""Numbers of a column that seem to mean "not known", such as 9999, or -1 where no other number is negative."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rempart.ingestion.sampling.ranges import is_far, proposed

_LIKELY = re.compile(r"-1|-9|-?9{2,}(\.9+)?")
_REPEATED = 2
"""Cells with such a number, at least: a single one may be a mistake of typing."""
_FEWEST = 4
"""Distinct other numbers, at least: -1, 0 and 1 may be three answers."""


@dataclass(frozen=True)
class Placeholder:
    """A number that seems to mean "not known". `cells`: how many have it. `texts`: how the source writes it."""

    number: float
    cells: int
    texts: tuple[str, ...]


def placeholders(counted: Mapping[float, int]) -> tuple[float, ...]:
    """Return which numbers seem to mean "not known", in order. `counted`: cells with each number. Pure.

    They are -1 or made of nines, repeated, in at most half of the cells together. They are far from the other numbers,
    or negative where no other number is.
    """
    found = [n for n in sorted(counted) if counted[n] >= _REPEATED and _LIKELY.fullmatch(_text(n))]
    while found:
        rest = {number: cells for number, cells in counted.items() if number not in found}
        still = [number for number in found if _stands_apart(number, counted[number], rest)]
        if still == found:
            return tuple(found) if sum(rest.values()) * 2 >= sum(counted.values()) else ()
        found = still
    return ()


def _stands_apart(number: float, cells: int, rest: Mapping[float, int]) -> bool:
    """Return whether a number is outside of the range of the rest, and no neighbour of it."""
    range_ = proposed(rest)
    if range_ is None or len(rest) < _FEWEST or range_.low <= number <= range_.high:
        return False
    if number < 0 <= min(rest):
        return True
    return is_far(number, cells, sorted(other for other in rest if range_.low <= other <= range_.high))


def _text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")
