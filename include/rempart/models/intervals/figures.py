"""Measure what intervals cover, and how wide they are. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

COVERAGE, WIDTH = "coverage", "width"
NAMES = (COVERAGE, WIDTH)
"""Names of these figures beside the metrics."""


def covered(truth: Floats, lower: Floats, upper: Floats) -> dict[str, float]:
    """Return the share of the true values that lie in their interval, ends included, and the mean width.

    truth, lower, upper: [n], n > 0. An end that is no number covers nothing, and makes the width NaN.
    """
    import numpy as np

    return {COVERAGE: float(np.mean((lower <= truth) & (truth <= upper))), WIDTH: float(np.mean(upper - lower))}
