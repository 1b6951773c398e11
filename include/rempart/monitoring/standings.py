"""Compare champion and challenger on the same rows. Pure.

Both predict the same rows, so the difference is taken row by row: what makes a row hard for both is not in its
interval.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rempart.monitoring.performance import value_of
from rempart.settings.gates.metrics import LOWER_IS_BETTER

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

Standing = Literal["not judged", "refused", "awaits approval", "rolled back", "shadow"]
"""Why a version is no champion. `shadow`: the gate has not judged it, and the scorer asks it already."""
_Z = 1.96
"""Standard deviations to either side of a mean that are its 95 % interval."""


@dataclass(frozen=True)
class PairedComparison:
    """The gate's metric of champion and challenger on rows that neither learned from.

    `difference`: challenger minus champion, in the metric's unit; `low`, `high`: its 95 % interval. `better`: "neither"
    if the interval has 0. None: not known; `why` then says why.
    """

    version: str
    standing: Standing
    metric: str
    rows: int = 0
    champion: float | None = None
    challenger: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    better: Literal["challenger", "champion", "neither"] | None = None
    why: str = ""

    def body(self) -> dict[str, Any]:
        """Return its part of a record."""
        return asdict(self)


def unknown(version: str, standing: Standing, metric: str, why: str, rows: int = 0) -> PairedComparison:
    """Return a comparison that could not be made."""
    return PairedComparison(version, standing, metric, rows, why=why)


def compare(
    version: str, standing: Standing, metric: str, champion: Floats, challenger: Floats, least: int
) -> PairedComparison:
    """Return how the challenger does beside the champion. Both: losses of the same rows, in order, shape [n].

    The interval is that of the mean of the rows' differences; of the root mean square error its first-order
    approximation (delta method).
    """
    import numpy as np

    rows = len(champion)
    empty = PairedComparison(version, standing, metric, rows)
    if rows < least:
        return replace(empty, why=f"{rows:,} rows with a known target are of neither's training, {least:,} are needed")
    if not (np.isfinite(champion).all() and np.isfinite(challenger).all()):
        return replace(empty, why="a prediction is not a number")
    mine, theirs = value_of(metric, float(champion.mean())), value_of(metric, float(challenger.mean()))
    paired = _slope(metric, challenger) * challenger - _slope(metric, champion) * champion
    error = float(paired.std(ddof=1)) / math.sqrt(rows)
    difference = theirs - mine
    low, high = difference - _Z * error, difference + _Z * error
    better: Literal["challenger", "champion", "neither"] = "neither"
    if low > 0 or high < 0:
        better = "challenger" if (high < 0) == LOWER_IS_BETTER[metric] else "champion"
    return replace(empty, champion=mine, challenger=theirs, difference=difference, low=low, high=high, better=better)


def _slope(metric: str, losses: Floats) -> float:
    """Return by how much the metric grows with the mean loss."""
    if metric == "accuracy":
        return -1.0
    mean = float(losses.mean())
    return (0.5 / math.sqrt(mean) if mean else 0.0) if metric == "rmse" else 1.0
