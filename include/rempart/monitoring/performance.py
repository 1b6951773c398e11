"""Measure a champion on rows whose target is known, against the same figures on its hold-out. Pure.

The gate's metric, also by segment; of a classification the error of its probabilities (calibration) too. A segment of
which the hold-out has too few rows is measured against its training rows, whose losses are too small: a model fits what
it learned from. So they are raised until their mean is that of the whole hold-out: of a regression by the ratio,
of a classification by the difference, since the share of errors on what a model learned from is often almost 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rempart.monitoring import statistics
from rempart.monitoring.columns import LEVEL
from rempart.settings.champions.monitoring import Monitoring
from rempart.settings.gates.metrics import LOWER_IS_BETTER

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

Reference = Literal["hold-out", "training data", "none"]
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
    """The metric on some rows of the window, and on those of the reference. `p`: that it is worse only by chance.

    `segment`: `column=value`, or "" for all rows. `reference`: what it is compared with; "none" has too few rows in
    both, and is at fault only if a loss is no number. None: there are too few rows of the window or of the reference.
    """

    segment: str
    rows: int
    value: float | None
    recorded: float | None
    p: float
    worse: bool
    reference: Reference = "hold-out"


@dataclass(frozen=True)
class Performance:
    """The metric of the gate on the window. `segments`: those at fault first, then those without a reference.

    None figures: unknown.
    """

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


def judge(
    metric: str,
    window: RowLosses,
    holdout: RowLosses,
    recorded: float,
    rules: Monitoring,
    training: RowLosses | None = None,
) -> Performance:
    """Return the performance on a window, against the hold-out and the metric on record for it.

    It is worse if that is no chance (corrected for the number of segments), and by more than `rules.worse`. `training`:
    the reference of segments that the hold-out lacks.
    """
    overall = _figure(metric, "", window.losses, holdout.losses, rules, recorded)
    learned, doubt = _comparable(metric, training, holdout) if training else (None, 0.0)
    segments = [
        _segment(metric, name, losses, (_of(holdout, column, value), _of(learned, column, value)), rules, doubt)
        for column in window.groups
        for value, name, losses in _segments(column, window)
        if len(losses) >= rules.least_rows
    ]
    adjusted = statistics.benjamini_hochberg([overall.p, *(figure.p for figure in segments)])
    overall, *segments = [
        replace(figure, p=p, worse=figure.worse and p < LEVEL)
        for figure, p in zip([overall, *segments], adjusted, strict=True)
    ]
    before, now = holdout.calibration, window.calibration
    rows = min(len(window.losses), len(holdout.losses))
    enough = rows >= rules.least_rows and before is not None and now is not None
    return Performance(
        metric,
        overall,
        tuple(sorted(segments, key=lambda figure: (not figure.worse, figure.reference != "none", figure.p))),
        now if enough else None,
        before,
        bool(enough and (now or 0.0) - (before or 0.0) > _CALIBRATION),
    )


def _figure(
    metric: str,
    segment: str,
    mine: Floats,
    theirs: Floats,
    rules: Monitoring,
    recorded: float | None = None,
    doubt: float = 0.0,
) -> Figure:
    """Return a figure; `worse` before the test for chance. It is worse if a loss is no finite number.

    `doubt`: variance of the mean of `theirs`, besides that of its rows.
    """
    import numpy as np

    if min(len(mine), len(theirs)) < rules.least_rows:
        return Figure(segment, len(mine), None, recorded, 1.0, False)
    value, before = value_of(metric, float(mine.mean())), value_of(metric, float(theirs.mean()))
    before = before if recorded is None else recorded
    with np.errstate(invalid="ignore", over="ignore"):
        noise = math.sqrt(float(mine.var()) / len(mine) + float(theirs.var()) / len(theirs) + doubt)
    if not math.isfinite(noise):  # a p-value of NaN would hide every fault
        return Figure(segment, len(mine), value, before, 0.0, True)
    excess = float(mine.mean() - theirs.mean())
    p = statistics.normal_tail(excess / noise) if noise else float(excess <= 0)
    lower = LOWER_IS_BETTER[metric]
    worse = value > before * (1 + rules.worse) if lower else 1 - value > (1 - before) * (1 + rules.worse)
    return Figure(segment, len(mine), value, before, p, worse)


def value_of(metric: str, mean: float) -> float:
    """Return the metric of a mean loss."""
    return math.sqrt(mean) if metric == "rmse" else 1 - mean if metric == "accuracy" else mean


def _segment(
    metric: str, name: str, mine: Floats, references: tuple[Floats, Floats], rules: Monitoring, doubt: float
) -> Figure:
    """Return the figure of a segment. `references`: losses of its rows in the hold-out, and in the training data.

    `doubt`: variance of the mean of the latter, besides that of its rows.
    """
    import numpy as np

    names: tuple[Reference, Reference] = ("hold-out", "training data")
    for reference, theirs in zip(names, references, strict=True):
        if len(theirs) >= rules.least_rows:
            more = doubt if reference == "training data" else 0.0
            return replace(_figure(metric, name, mine, theirs, rules, doubt=more), reference=reference)
    is_broken = not np.isfinite(mine).all()
    value = value_of(metric, float(mine.mean()))
    return Figure(name, len(mine), value, None, 0.0 if is_broken else 1.0, is_broken, "none")


def _comparable(metric: str, training: RowLosses, holdout: RowLosses) -> tuple[RowLosses | None, float]:
    """Return the training losses with the mean of the hold-out, and the variance of what was added to each.

    None if one of the means is no number, or a mean of 0 gives no ratio.
    """
    import numpy as np

    learned, unseen = (float(side.losses.mean()) if len(side.losses) else 0.0 for side in (training, holdout))
    if not (np.isfinite(learned) and unseen > 0 and np.isfinite(unseen)):
        return None, 0.0
    if metric in ("mae", "rmse") or unseen < learned:
        scaled = replace(training, losses=training.losses * (unseen / learned)) if learned else None
        return scaled, 0.0
    most = 1.0 if metric == "accuracy" else np.inf
    shifted = np.minimum(training.losses + (unseen - learned), most)
    return replace(training, losses=shifted), float(holdout.losses.var()) / len(holdout.losses)


def _of(side: RowLosses | None, column: str, value: str) -> Floats:
    """Return the losses of a group; empty if a side does not have it."""
    import numpy as np

    if side is None or column not in side.groups:
        return np.empty(0)
    return side.losses[np.array([str(group) == value for group in side.groups[column]], np.bool_)]


def _segments(column: str, window: RowLosses) -> Iterator[tuple[str, str, Floats]]:
    """Yield the groups of a column: the value, the name, and the losses."""
    for value in sorted({str(group) for group in window.groups[column]}):
        yield value, f"{column}={value}", _of(window, column, value)
