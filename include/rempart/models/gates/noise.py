"""How much predictions change when the numbers that a model reads get a little noise. Pure but for the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rempart.models.encoding import Feature

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 10_000


def sample(rows: pa.Table, seed: int = 0) -> pa.Table:
    """Return at most MOST_ROWS rows, chosen by chance, in their order."""
    import numpy as np

    if rows.num_rows <= MOST_ROWS:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).permutation(rows.num_rows)[:MOST_ROWS]))


def changed(
    predict: Callable[[Any], Any], features: Sequence[Feature], matrix: Any, noise: float, seed: int = 0
) -> float:
    """Return the mean change of a prediction.

    predict: from a matrix to figures; matrix: float32 [n, matrix columns] of held-out rows; noise: share of each
    number's standard deviation. Of a regression it is a share of the predictions'
    standard deviation; of a classification half the sum of the changes in probability. NaN without a row, or if a
    prediction is not finite.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if not len(matrix):
        return math.nan
    noisy, start = matrix.copy(), 0
    for feature in features:
        width = len(feature.columns())
        if feature.type == "number":
            column = matrix[:, start]
            known = column[np.isfinite(column)].astype(np.float64)
            spread = float(known.std()) if len(known) else 0.0
            noisy[:, start] = column + random.normal(0.0, 1.0, len(column)) * spread * noise
        start += width
    before, after = predict(matrix), predict(noisy)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return math.nan
    if before.ndim == 2:
        return float(np.abs(after - before).sum(axis=1).mean() / 2)
    change, spread = float(np.abs(after - before).mean()), float(before.std())
    return change / spread if spread else 0.0 if not change else math.inf
