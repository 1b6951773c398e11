"""The range that a draft proposes for a column of numbers: a few values far from all others do not widen it.

A range that is too narrow sends good rows to quarantine. So values count as far only if there are few of them, and if
nothing lies between them and the rest over a gap that is wider than the rest. Numbers that seem to mean "not known",
such as 9999, or -1 where no other number is negative, may be many.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from rempart.ingestion.parsing.recognise import few

_FEWEST = 10
"""Distinct numbers from which on others may be far from them."""
_SHARE = 200
"""One of so many cells may be far at each end, and always one."""
_MOST = 10
"""Distinct numbers that may be far at each end."""
_WIDER = 5
"""How many times wider than the rest the gap to several values is, where the rest has no smallest ratio."""
_BROKEN = 10
"""How many times wider the gap below the rest is than the widest one in its lower half, if one negative value breaks
it."""

_PLACEHOLDER = re.compile(r"-1|-9|-?9{2,}(\.9+)?")
"""Text of a number that may mean "not known"."""
_REPEATED = 2
"""Cells with such a number, at least: a single one may be a mistake of typing."""
_FEWEST_OTHERS = 4
"""Distinct other numbers, at least: -1, 0 and 1 may be three answers."""


@dataclass(frozen=True)
class Placeholder:
    """A number that seems to mean "not known". `cells`: how many have it. `texts`: how the source writes it."""

    number: float
    cells: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A proposed range. `outside`: how many of the `cells` with a number are outside.

    `far`: the number farthest outside, rounded outwards: an exact number may tell of one person. `negative`: cells
    below 0 within the range, where they are few. `reached`: whether the largest number is the limit itself: it
    was round, and none is far above it.
    """

    low: float
    high: float
    cells: int
    outside: int = 0
    far: float = 0
    negative: int = 0
    reached: bool = False


def placeholders(counted: Mapping[float, int]) -> tuple[float, ...]:
    """Return which numbers seem to mean "not known", in order. `counted`: cells with each number. Pure.

    They are -1 or made of nines, repeated, in at most half of the cells together. They are far from the other numbers,
    or negative where no other number is.
    """
    found = [n for n in sorted(counted) if counted[n] >= _REPEATED and _PLACEHOLDER.fullmatch(_text(n))]
    while found:
        rest = {number: cells for number, cells in counted.items() if number not in found}
        still = [number for number in found if _stands_apart(number, counted[number], rest)]
        if still == found:
            return tuple(found) if sum(rest.values()) * 2 >= sum(counted.values()) else ()
        found = still
    return ()


def proposed(counted: Mapping[float, int]) -> Range | None:
    """Return the range of numbers, rounded outwards; None without a number. `counted`: cells with each number. Pure."""
    numbers = sorted(counted)
    if not numbers:
        return None
    first, last = _core(numbers, [counted[number] for number in numbers])
    smallest, largest = numbers[first], numbers[last]
    span = largest - smallest
    low = 0 if smallest >= 0 else outwards(smallest, up=False)
    if first and numbers[first - 1] >= low:
        low = max(low, _near(smallest, span, up=False))
    high = max(outwards(largest, up=True), low)
    if last + 1 < len(numbers):
        high = _near(largest, span, up=True)
    far = [number for number in numbers if not low <= number <= high]
    farthest = max(far, key=lambda number: max(low - number, number - high), default=0.0)
    cells, negative = sum(counted.values()), sum(count for number, count in counted.items() if low <= number < 0)
    rare = negative * _SHARE <= 2 * cells and len(numbers) - len(far) >= 2 * _FEWEST
    return Range(
        low,
        high,
        cells,
        sum(counted[number] for number in far),
        outwards(farthest, up=farthest > high),
        negative if rare else 0,
        reached=high == largest != 0 and last + 1 == len(numbers),
    )


def outwards(value: float, *, up: bool) -> float:
    """Round away from the data, to two digits. Pure."""
    return _rounded(value, abs(value), up=up)


def _near(value: float, span: float, *, up: bool) -> float:
    """Return a bound that values beyond a gap wider than `span` do not reach."""
    if span >= abs(value) / 2:
        return outwards(value, up=up)
    return _rounded(value + (span if up else -span) / 10, span, up=up)


def _rounded(value: float, size: float, *, up: bool) -> float:
    """Round to the second digit of `size`."""
    step = 10.0 ** (math.floor(math.log10(size)) - 1) if size and math.isfinite(size) else 0.0
    rounded = float(f"{(math.ceil if up else math.floor)(value / step) * step:.15g}") if step else value
    return rounded if math.isfinite(rounded) and (rounded >= value if up else rounded <= value) else value


def _core(numbers: Sequence[float], counts: Sequence[int]) -> tuple[int, int]:
    """Return the places of the smallest and the largest number of the rest: without as many far cells as possible."""
    cells, end = sum(counts), len(numbers) - 1
    if len(numbers) < _FEWEST or not few(1, cells):
        return 0, end
    most = max(1, cells // _SHARE)
    below = [n for n in range(_MOST + 1) if sum(counts[:n]) <= most]
    above = [n for n in range(_MOST + 1) if sum(counts[len(counts) - n :]) <= most]
    best = (0, 0, end)
    mirrored = [-number for number in reversed(numbers)]
    for low, high in product(below, above):
        first, last = low, end - high
        if last - first + 1 < _FEWEST:
            continue
        fewer, more = sum(counts[:first]), sum(counts[last + 1 :])
        if (not low or _is_far(numbers, first, last, fewer)) and (
            not high or _is_far(mirrored, end - last, end - first, more)
        ):
            best = max(best, (fewer + more, first, last))
    return best[1:]


def _is_far(numbers: Sequence[float], first: int, last: int, cells: int) -> bool:
    """Return whether all numbers before `first` are far from those up to `last`. Mirror the numbers for the other end.

    `cells`: how many have such a number. A single one is far beyond a gap as wide as the rest; several must be far
    by their ratio, too, as large amounts are not.
    """
    far, smallest, largest = numbers[first - 1], numbers[first], numbers[last]
    gap, span = smallest - far, largest - smallest
    if first == 1 and far < 0 <= smallest:
        half = numbers[first : first + (last - first) // 2 + 1]
        widest = max(after - before for before, after in pairwise(half))
        if (cells == 1 and smallest < -far) or (smallest > 0 and gap >= _BROKEN * widest):
            return True
    if gap <= span:
        return False
    if cells == 1:
        return True
    if smallest > 0:
        return far <= 0 or smallest / far > largest / smallest
    if largest < 0:  # the other end of positive numbers
        return far / smallest > smallest / largest
    return gap > _WIDER * span


def _stands_apart(number: float, cells: int, rest: Mapping[float, int]) -> bool:
    """Return whether a number is outside of the range of the rest, and no neighbour of it."""
    range_ = proposed(rest)
    if range_ is None or len(rest) < _FEWEST_OTHERS or range_.low <= number <= range_.high:
        return False
    if number < 0 <= min(rest):
        return True
    return _is_apart(number, cells, sorted(other for other in rest if range_.low <= other <= range_.high))


def _is_apart(number: float, cells: int, others: Sequence[float]) -> bool:
    """Return whether a number of several `cells` is far from `others`, which are in order. Pure."""
    if number > others[-1]:
        number, others = -number, [-other for other in reversed(others)]
    if others[0] - number > _WIDER * (others[-1] - others[0]):
        return True
    return _is_far([number, *others], 1, len(others), cells)


def _text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")
