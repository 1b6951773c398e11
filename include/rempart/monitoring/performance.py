"""Measure a champion on rows whose target is known, against the same figures on its hold-out. Pure.

The gate's metric, also by segment; of a classification the error of its probabilities (calibration) too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.models.metrics import LOWER_IS_BETTER
from rempart.monitoring import statistics
from rempart.monitoring.columns import LEVEL
from rempart.settings.champions.monitoring import Monitoring

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

_SMALLEST = 1e-15
_CALIBRATION = 0.1
"""Growth of the calibration error that is a fault."""
_BANDS = 10


@dataclass(frozen=True)
class RowLosses:
    """Rows whose target is known: the loss of each, and its group in each segment column.

    `calibration`: their calibration error; None of a regression.
    """

    losses: Floats
    groups: Mapping[str, Sequence[Any]]
    calibration: float | None = None


@dataclass(frozen=True)
class Figure:
    """The metric on some rows of the window, and on those of the hold-out. `p`: that it is worse only by chance.

    `segment`: `column=value`, or "" for all rows. None: there are too few rows of the window or of the hold-out.
    """

    segment: str
    rows: int
    value: float | None
    recorded: float | None
    p: float
    worse: bool


@dataclass(frozen=True)
class Performance:
    """The metric of the gate on the window. `segments`: those at fault first. None figures: unknown."""

    metric: str
    overall: Figure
    segments: tuple[Figure, ...] = ()
    calibration: float | None = None
    calibration_recorded: float | None = None
    miscalibrated: bool = False

    @property
    def worse(self) -> bool:
        return self.overall.worse or self.miscalibrated or any(figure.worse for figure in self.segments)


def losses(metric: str, truth: Floats, predicted: Floats) -> Floats:
    """Return the loss of each row; the metric is made of their mean.

    truth: [n]; predicted: [n], or [n, classes] probabilities. A prediction that is no finite number has no finite loss;
    for accuracy it is wrong.
    """
    import numpy as np

    if metric in ("mae", "rmse"):
        error = np.abs(predicted - truth)
        return error if metric == "mae" else error**2
    classes, finite = truth.astype(int), np.isfinite(predicted).all(axis=1)
    if metric == "accuracy":
        return np.asarray((predicted.argmax(axis=1) != classes) | ~finite, np.float64)
    chosen = np.where(finite, predicted[np.arange(len(classes)), classes], np.nan)
    return np.asarray(-np.log(np.clip(chosen, _SMALLEST, 1.0)), np.float64)


def calibration_error(truth: Floats, predicted: Floats) -> float:
    """Return the expected calibration error of the most probable class, in ten bands of equal width (Naeini 2015).

    truth: [n]; predicted: [n, classes]. A row with a probability that is no finite number counts as sure and wrong.
    """
    import numpy as np

    finite = np.isfinite(predicted).all(axis=1)
    top = np.where(finite, predicted.max(axis=1), 1.0)
    right = (predicted.argmax(axis=1) == truth.astype(int)) & finite
    band = np.minimum((top * _BANDS).astype(int), _BANDS - 1)
    gaps = [abs(float((top[band == b] - right[band == b]).sum())) for b in range(_BANDS)]
    return sum(gaps) / max(1, len(top))


def judge(metric: str, window: RowLosses, holdout: RowLosses, recorded: float, rules: Monitoring) -> Performance:
    """Return the performance on a window, against the hold-out and the metric on record for it.

    It is worse if that is no chance (corrected for the number of segments), and by more than `rules.worse`.
    """
    overall = _figure(metric, "", window.losses, holdout.losses, rules, recorded)
    segments = [
        _figure(metric, name, mine, theirs, rules)
        for column in window.groups
        for name, mine, theirs in _segments(column, window, holdout)
        if min(len(mine), len(theirs)) >= rules.least_rows
    ]
    adjusted = statistics.benjamini_hochberg([overall.p, *(figure.p for figure in segments)])
    overall, *segments = [
        Figure(f.segment, f.rows, f.value, f.recorded, p, f.worse and p < LEVEL)
        for f, p in zip([overall, *segments], adjusted, strict=True)
    ]
    before, now = holdout.calibration, window.calibration
    rows = min(len(window.losses), len(holdout.losses))
    enough = rows >= rules.least_rows and before is not None and now is not None
    return Performance(
        metric,
        overall,
        tuple(sorted(segments, key=lambda figure: (not figure.worse, figure.p))),
        now if enough else None,
        before,
        bool(enough and (now or 0.0) - (before or 0.0) > _CALIBRATION),
    )


def _figure(
    metric: str, segment: str, mine: Floats, theirs: Floats, rules: Monitoring, recorded: float | None = None
) -> Figure:
    """Return a figure; `worse` before the test for chance. It is worse if a loss is no finite number."""
    import numpy as np

    if min(len(mine), len(theirs)) < rules.least_rows:
        return Figure(segment, len(mine), None, recorded, 1.0, False)
    value, before = _value(metric, float(mine.mean())), _value(metric, float(theirs.mean()))
    before = before if recorded is None else recorded
    with np.errstate(invalid="ignore", over="ignore"):
        noise = math.sqrt(float(mine.var()) / len(mine) + float(theirs.var()) / len(theirs))
    if not math.isfinite(noise):  # a p-value of NaN would hide every fault
        return Figure(segment, len(mine), value, before, 0.0, True)
    excess = float(mine.mean() - theirs.mean())
    p = statistics.normal_tail(excess / noise) if noise else float(excess <= 0)
    lower = LOWER_IS_BETTER[metric]
    worse = value > before * (1 + rules.worse) if lower else 1 - value > (1 - before) * (1 + rules.worse)
    return Figure(segment, len(mine), value, before, p, worse)


def _value(metric: str, mean: float) -> float:
    """Return the metric of a mean loss."""
    return math.sqrt(mean) if metric == "rmse" else 1 - mean if metric == "accuracy" else mean


def _segments(column: str, window: RowLosses, holdout: RowLosses) -> list[tuple[str, Floats, Floats]]:
    """Return the groups of a column that both sides have: the name, and the losses of either side."""
    import numpy as np

    sides = [np.array([str(value) for value in side.groups[column]]) for side in (window, holdout)]
    return [
        (f"{column}={value}", window.losses[sides[0] == value], holdout.losses[sides[1] == value])
        for value in sorted(set(sides[0].tolist()) & set(sides[1].tolist()))
    ]
