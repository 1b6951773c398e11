"""Whether the intervals of a champion cover what they promise, on rows whose target is known. Pure.

How many rows of a window lie outside is binomial if the promise is kept. The chance of as many or more is bounded from
above (Chernoff 1952), so an alarm is rarer than its level. Chance alone makes no alarm: the width was measured on some
hundreds of rows, and weeks differ. So many times more rows than promised must lie outside as well.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.monitoring.columns import LEVEL
from rempart.settings.champions.monitoring import Monitoring

if TYPE_CHECKING:
    import numpy as np

    Booleans = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class IntervalCoverage:
    """How many of the `rows` lie in their interval.

    `promised`, `covered`: shares of the rows; None: too few rows. `p`: bound of the chance that so many lie outside
    although the promise is kept. `short`: far fewer are covered than promised.
    """

    promised: float
    rows: int
    covered: float | None
    p: float = 1.0
    short: bool = False

    def told(self) -> str:
        """Return the fault as a line."""
        return (
            f"intervals cover {self.covered or 0:.1%} of {counted(self.rows, 'known true value')}, and promise "
            f"{self.promised:.1%}"
        )

    def body(self) -> dict[str, Any]:
        """Return its part of a record: plain JSON with finite numbers."""
        shown = asdict(self)
        return shown | {
            "covered": None if self.covered is None else round(self.covered, 6),
            "p": float(f"{self.p:.3g}"),
        }


def judge(promised: float, inside: Booleans, rules: Monitoring) -> IntervalCoverage:
    """Return what intervals cover. `inside`: [n], of each row with a known target, whether it lies in its interval."""
    rows = len(inside)
    if rows < rules.least_rows:
        return IntervalCoverage(promised, rows, None)
    outside = 1 - float(inside.mean())
    p = binomial_tail(outside, 1 - promised, rows)
    return IntervalCoverage(promised, rows, 1 - outside, p, p < LEVEL and outside > most_outside(promised, rules))


def most_outside(promised: float, rules: Monitoring) -> float:
    """Return the share of rows that may lie outside. Intervals that promise little may lose half of their rows."""
    return min((1 - promised) * rules.outside, 1 - promised / 2)


def binomial_tail(share: float, expected: float, rows: int) -> float:
    """Return an upper bound of the chance that at least `share` of the rows are hits.

    `expected`: the chance that a row is a hit, between 0 and 1, both excluded.
    """
    if share <= expected:
        return 1.0
    divergence = share * math.log(share / expected)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - expected))
    return math.exp(-rows * divergence)
