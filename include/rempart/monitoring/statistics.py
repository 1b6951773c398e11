"""Statistics of two sets of counts, and the correction for many tests. Pure.

Both measures of a movement are shares of rows: Kolmogorov-Smirnov for numbers (the largest difference between the
shares of rows up to a value), total variation for categories (the largest difference between the shares of rows in any
set of values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

_FEW = 5.0
"""Expected rows below which a bin is pooled with others for chi-square (Cochran 1954)."""


def shares(counts: Sequence[float]) -> list[float]:
    """Return each count as a share of their sum; of nothing, zeros."""
    whole = sum(counts)
    return [count / whole if whole else 0.0 for count in counts]


def ordered_movement(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the Kolmogorov-Smirnov statistic on the bins, between 0 and 1."""
    first, second = accumulate(shares(before)), accumulate(shares(after))
    return max((abs(b - a) for b, a in zip(first, second, strict=True)), default=0.0)


def unordered_movement(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the total variation distance, between 0 and 1."""
    return sum(abs(b - a) for b, a in zip(shares(before), shares(after), strict=True)) / 2


def psi(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the population stability index. Half a row is added to each bin, so that an empty one is not infinite."""
    pairs = zip(shares([b + 0.5 for b in before]), shares([a + 0.5 for a in after]), strict=True)
    return sum((b - a) * math.log(b / a) for b, a in pairs)


def kolmogorov_smirnov(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the p-value of the two-sample test by its asymptotic distribution (Kolmogorov 1933, Smirnov 1948).

    Of binned or discrete values it is too large rather than too small.
    """
    first, second = sum(before), sum(after)
    if not first or not second:
        return 1.0
    size = math.sqrt(first * second / (first + second))
    scaled = (size + 0.12 + 0.11 / size) * ordered_movement(before, after)  # Stephens 1970
    if scaled < 0.2:
        return 1.0
    terms = [(2.0 if k % 2 else -2.0) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return min(1.0, max(0.0, sum(terms)))


def chi_square(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the p-value of the test of homogeneity; bins with few expected rows are pooled.

    The pool is a bin of its own from five rows on, also if fewer are expected: values that appear or vanish are few on
    one side. It joins the smallest bin only below that.
    The distribution's tail is that of Wilson and Hilferty (1931), near enough for a threshold.
    """
    first, second = sum(before), sum(after)
    if not first or not second:
        return 1.0
    smaller = min(first, second) / (first + second)
    kept: list[tuple[int, int]] = []
    pooled = (0, 0)
    for b, a in zip(before, after, strict=True):
        if (b + a) * smaller >= _FEW:
            kept.append((b, a))
        else:
            pooled = (pooled[0] + b, pooled[1] + a)
    if sum(pooled) >= _FEW or not kept:
        kept.append(pooled)
    elif sum(pooled):  # too few for a bin of their own
        least = min(range(len(kept)), key=lambda place: sum(kept[place]))
        kept[least] = (kept[least][0] + pooled[0], kept[least][1] + pooled[1])
    statistic = 0.0
    for b, a in kept:
        for found, whole in ((b, first), (a, second)):
            if expected := (b + a) * whole / (first + second):
                statistic += (found - expected) ** 2 / expected
    return _chi_square_tail(statistic, len(kept) - 1)


def _chi_square_tail(statistic: float, freedom: int) -> float:
    if freedom < 1:
        return 1.0
    if freedom == 1:
        return math.erfc(math.sqrt(statistic / 2))
    if freedom == 2:
        return math.exp(-statistic / 2)
    spread = 2 / (9 * freedom)
    return normal_tail(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def normal_tail(z: float) -> float:
    """Return the share of the normal distribution above z."""
    return math.erfc(z / math.sqrt(2)) / 2


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values, in order (Benjamini and Hochberg 1995).

    If nothing moved, the chance that one of them is below q is at most q.
    """
    count = len(p_values)
    by_size = sorted(range(count), key=lambda place: p_values[place], reverse=True)
    adjusted, least = [1.0] * count, 1.0
    for rank, place in zip(range(count, 0, -1), by_size, strict=True):
        least = min(least, p_values[place] * count / rank)
        adjusted[place] = least
    return adjusted
