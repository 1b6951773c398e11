"""Metrics on random resamples of the held-out rows (paired bootstrap, Efron 1979): how much of a difference is chance.

Every prediction is measured on the same resamples. A resample is the number of times that each row was drawn, so a
metric is made of weighted sums, or of weighted running sums in the order of the chances. Memory is bounded: the rows
are counted for a few resamples at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rempart.models.gates.measures import Measures, bands, brier_terms, cost_terms, smape_terms

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Statistic = Callable[[Floats], Floats]

RESAMPLES = 1000
FEWEST_ROWS = 30
"""Of fewer rows nothing is resampled: few rows resemble each other, and one row would always be sure."""
MOST_ROWS = 50_000
"""Of more rows, so many are chosen by chance: fewer rows make a rule stricter, never easier."""
_BYTES = 16 << 20
_SMALLEST = 1e-15

Samples = Mapping[str, Mapping[str, "Floats"]]
"""For each set of predictions, each metric on each resample: [RESAMPLES]."""


def resampled(
    measures: Mapping[str, Measures],
    names: Iterable[str],
    truth: Floats,
    predicted: Mapping[str, Floats],
    seed: int = 0,
) -> Samples:
    """Return metrics of several predictions of the same rows on the same resamples; NaN where one is undefined.

    Nothing is returned of fewer than FEWEST_ROWS rows. truth: [n]; predicted: [n], or [n, classes] probabilities, for
    each set, as `measures` is. Equal arguments give equal numbers.
    """
    import numpy as np

    if len(truth) < FEWEST_ROWS:
        return {}
    random, wanted = np.random.default_rng(seed), list(dict.fromkeys(names))
    if len(truth) > MOST_ROWS:
        rows = np.sort(random.permutation(len(truth))[:MOST_ROWS])
        truth, predicted = truth[rows], {whose: made[rows] for whose, made in predicted.items()}
    found = {whose: {name: np.full(RESAMPLES, np.nan) for name in wanted} for whose in predicted}
    n = len(truth)
    usable = {
        whose: {name: statistic(measures[whose], name, truth, made) for name in wanted}
        for whose, made in predicted.items()
        if np.isfinite(made).all()
    }
    size = max(1, _BYTES // (8 * n))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, RESAMPLES, size):
            drawn = min(size, RESAMPLES - start)
            weights = np.stack([np.bincount(random.integers(0, n, n), minlength=n) for _ in range(drawn)]).astype(float)
            for whose, statistics in usable.items():
                for name, made in statistics.items():
                    found[whose][name][start : start + drawn] = made(weights)
    return found


def statistic(measures: Measures, name: str, truth: Floats, predicted: Floats) -> Statistic:
    """Return a function from weights [resamples, n] to the metric on each resample."""
    import numpy as np

    if name in ("roc_auc", "pr_auc"):
        curve = _roc if name == "roc_auc" else _average_precision
        ranked = [curve(truth == each, predicted[:, each]) for each in measures.looked_for()]
        return lambda weights: np.mean([made(weights) for made in ranked], axis=0)
    if name == "calibration_error":
        return _calibration(measures, truth, predicted)
    terms, finish = _sums(measures, name, truth, predicted)
    return lambda weights: finish(weights @ terms, weights.sum(axis=1))


def _sums(
    measures: Measures, name: str, truth: Floats, predicted: Floats
) -> tuple[Floats, Callable[[Floats, Floats], Floats]]:
    """Return terms [n, k], and a function from their weighted sums [resamples, k] and the rows to the metric."""
    import numpy as np

    if name == "rmse":
        return ((predicted - truth) ** 2)[:, None], lambda sums, rows: np.sqrt(sums[:, 0] / rows)
    if name == "r2":
        centred = truth - truth.mean()
        return np.column_stack([(predicted - truth) ** 2, centred, centred**2]), _r2
    if name in ("balanced_accuracy", "f1", "f_beta"):
        chosen = measures.chosen(predicted)
        looked_for = range(measures.classes) if name == "balanced_accuracy" else measures.looked_for()
        made = [column for each in looked_for for column in _confusion(truth == each, chosen == each)]
        recall = name == "balanced_accuracy"
        beta = math.inf if recall else measures.beta if name == "f_beta" else 1.0
        return np.column_stack(made), lambda sums, _: _f_score(sums, beta)
    losses = _BY_ROW[name](measures, truth, predicted)
    return losses[:, None], lambda sums, rows: sums[:, 0] / rows


def _r2(sums: Floats, rows: Floats) -> Floats:
    import numpy as np

    variance = sums[:, 2] - sums[:, 1] ** 2 / rows
    return np.where(variance > 0, 1 - sums[:, 0] / variance, np.nan)


def _confusion(truth: Any, chosen: Any) -> tuple[Any, Any, Any]:
    """Return for each row: found, taken wrongly, missed."""
    return truth & chosen, ~truth & chosen, truth & ~chosen


def _f_score(sums: Floats, beta: float) -> Floats:
    """Return the mean F score of classes; with an infinite beta the mean recall."""
    import numpy as np

    found, wrong, missed = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    if math.isinf(beta):
        return np.asarray((found / (found + missed)).mean(axis=1))
    weight = beta**2
    return np.asarray(((1 + weight) * found / ((1 + weight) * found + weight * missed + wrong)).mean(axis=1))


def _calibration(measures: Measures, truth: Floats, predicted: Floats) -> Statistic:
    """Sum the gaps by band, whose edges are those of all rows. A row is in one band of each class: a sparse matrix."""
    import numpy as np
    from scipy.sparse import csr_array, vstack

    looked_for, made, rows = measures.looked_for(), [], np.arange(len(truth))
    for each in looked_for:
        gap, band = predicted[:, each] - (truth == each), bands(predicted[:, each])
        made.append(csr_array((gap, (band, rows)), shape=(int(np.max(band)) + 1, len(truth))))
    gaps = vstack(made, format="csr")

    def error(weights: Floats) -> Floats:
        sums = gaps @ np.ascontiguousarray(weights.T)  # [bands of all classes, resamples]
        return np.asarray(np.abs(sums).sum(axis=0) / weights.sum(axis=1) / len(looked_for))

    return error


def _ranked(is_it: Any, chance: Floats) -> tuple[Any, Any, Any]:
    """Return the order of falling chances, whether each row in it is positive, and where rows of one chance end."""
    import numpy as np

    order = np.argsort(-chance, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(chance[order]) != 0, True))
    return order, is_it[order], ends


def _counts(weights: Floats, ranked: tuple[Any, Any, Any]) -> tuple[Floats, Floats]:
    """Return the positives, and the others, down to the end of each chance: [resamples, chances + 1], from 0."""
    import numpy as np

    order, positive, ends = ranked
    sorted_weights = weights[:, order]
    hits = np.cumsum(sorted_weights * positive, axis=1)[:, ends]
    others = np.cumsum(sorted_weights * ~positive, axis=1)[:, ends]
    nothing = np.zeros((len(weights), 1))
    return np.hstack([nothing, hits]), np.hstack([nothing, others])


def _roc(is_it: Any, chance: Floats) -> Statistic:
    import numpy as np

    ranked = _ranked(is_it, chance)

    def area(weights: Floats) -> Floats:
        hits, others = _counts(weights, ranked)
        whole = (np.diff(others, axis=1) * (hits[:, 1:] + hits[:, :-1])).sum(axis=1) / 2
        return np.asarray(whole / (hits[:, -1] * others[:, -1]))

    return area


def _average_precision(is_it: Any, chance: Floats) -> Statistic:
    import numpy as np

    ranked = _ranked(is_it, chance)

    def area(weights: Floats) -> Floats:
        hits, others = _counts(weights, ranked)
        taken = hits + others
        precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
        return np.asarray((np.diff(hits, axis=1) * precision[:, 1:]).sum(axis=1) / hits[:, -1])

    return area


def _log_loss(_: Measures, truth: Floats, predicted: Floats) -> Floats:
    import numpy as np

    found: Floats = -np.log(np.clip(predicted[np.arange(len(truth)), truth.astype(int)], _SMALLEST, 1.0))
    return found


def _mape(_: Measures, truth: Floats, predicted: Floats) -> Floats:
    import numpy as np

    return np.abs(predicted - truth) / np.abs(truth) if truth.all() else np.full(len(truth), np.nan)


def _pinball(measures: Measures, truth: Floats, predicted: Floats) -> Floats:
    import numpy as np

    error = truth - predicted
    return np.maximum(measures.quantile * error, (measures.quantile - 1) * error)


_BY_ROW: Mapping[str, Callable[[Measures, Floats, Floats], Floats]] = {
    "mae": lambda _, truth, predicted: abs(predicted - truth),
    "mape": _mape,
    "smape": lambda _, truth, predicted: smape_terms(truth, predicted),
    "pinball": _pinball,
    "cost": cost_terms,
    "log_loss": _log_loss,
    "accuracy": lambda _, truth, predicted: (predicted.argmax(axis=1) == truth) * 1.0,
    "brier": brier_terms,
}
"""Metrics that are the mean of a figure of each row."""
