"""Choose the chance from which on a row is taken for the positive class, and take it so. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from rempart.settings.schema import Strict

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]


class OperatingPoint(Strict):
    """From which chance on a model of two classes answers with the class at position `positive`."""

    positive: int = Field(ge=0, le=1)
    threshold: float = Field(allow_inf_nan=False)


def answered(predicted: Floats, operating: OperatingPoint | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the position of the class that each row is answered with.

    predicted: [n, classes], probabilities. `operating`: None for the most probable class.
    """
    import numpy as np

    if operating is None:
        return np.asarray(predicted.argmax(axis=1), np.int64)
    positive = operating.positive
    return np.where(predicted[:, positive] >= operating.threshold, positive, 1 - positive)


def choose_threshold(truth: Floats, chance: Floats, cost: tuple[float, float]) -> float:
    """Return the chance from which on a row is taken for the positive class, so that the costs are lowest.

    truth: [n], 1 for the positive class; chance: [n]; cost: of a false positive and a false negative. The rows must be
    ones that the model neither learned from nor is judged on. Of equal costs, the threshold nearest to 0.5; without a
    row of each class, 0.5.
    """
    import numpy as np

    positives = float(truth.sum())
    if not 0 < positives < len(truth) or not np.isfinite(chance).all():
        return 0.5
    order = np.argsort(-chance, kind="stable")
    ranked, hits = chance[order], np.cumsum(truth[order])
    last = np.append(np.diff(ranked) != 0, True)  # rows of one chance are all taken, or none
    taken, hit = np.arange(1, len(ranked) + 1)[last], hits[last]
    # halfway to the next lower chance; the last takes every row
    bounds = (ranked[last] + np.append(ranked[last][1:], min(0.0, float(ranked[-1])))) / 2
    costs = cost[0] * (taken - hit) + cost[1] * (positives - hit)
    none = np.nextafter(max(1.0, float(ranked[0])), 2.0)
    bounds, costs = np.append(bounds, none), np.append(costs, cost[1] * positives)
    best = np.flatnonzero(costs <= costs.min() * (1 + 1e-12))
    return float(bounds[best[np.argmin(np.abs(bounds[best] - 0.5))]])
