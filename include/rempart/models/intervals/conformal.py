"""Measure how wide an interval must be: split conformal prediction. Pure.

If the rows on which the width is measured and the rows to come are exchangeable, a new true value lies in its interval
with a chance of at least `coverage`, whatever the model is. Rows that follow each other in time are not exchangeable:
what the intervals cover is measured afterwards, by back-tests and on the hold-out.

Source: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-Free Predictive Inference for Regression", JASA
113 (2018), algorithm 2; `scaled` is their locally weighted variant, with the predicted amount as the scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rempart.errors import TrainingError
from rempart.settings.schema import Strict

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SMALLEST = 0.05
"""Share of the mean predicted amount below which a scaled interval becomes no narrower."""


class Width(Strict):
    """How far an interval reaches to each side of a prediction, as measured on `rows` rows for a `coverage`.

    `factor`: in the target's unit; with a `floor`, times the predicted amount, which counts as at least `floor`.
    """

    coverage: float = Field(gt=0, lt=1)
    rows: int = Field(ge=1)
    factor: float = Field(ge=0, allow_inf_nan=False)
    floor: float | None = Field(default=None, gt=0, allow_inf_nan=False)


def check_rows(rows: int, coverage: float) -> None:
    """Check that a width can be measured on that many rows. Raises TrainingError."""
    if _rank(rows, coverage) > rows:
        needed = next(n for n in range(rows, 1000) if _rank(n, coverage) <= n)
        raise TrainingError(
            f"measure intervals for a coverage of {coverage:g}: the validation part has {rows} rows, and {needed} are "
            "the fewest that can tell",
            "Set a longer `validation`, or a smaller `trainer.intervals.coverage`.",
        )


def _rank(rows: int, coverage: float) -> int:
    """Return which of the errors in ascending order, from 1, is the width; more than `rows` if none is enough."""
    return math.ceil(round((rows + 1) * coverage, 9))


def measure(truth: Floats, predicted: Floats, coverage: float, *, scaled: bool) -> Width:
    """Return the width for rows that the model did not learn from. truth, predicted: [n].

    Raises TrainingError for too few rows, or if a prediction is no number.
    """
    import numpy as np

    check_rows(len(truth), coverage)
    errors, floor = np.abs(truth - predicted), None
    if not np.isfinite(errors).all():
        raise TrainingError(
            "measure intervals: a prediction of the validation part is not a number",
            "Check trainer.params (the learning rate may be too high) and the trainer's code.",
        )
    if scaled:
        amounts = np.abs(predicted)
        floor = SMALLEST * float(amounts.mean()) or 1.0
        errors = errors / np.maximum(amounts, floor)
    rank = _rank(len(truth), coverage)
    factor = float(np.partition(errors, rank - 1)[rank - 1])
    return Width(coverage=coverage, rows=len(truth), factor=factor, floor=floor)
