"""A model tells the window from the training data by all columns at once: finds combinations that moved.

An area under its curve (AUC) of 0.5 tells nothing apart. A season, or a count that grows with the history, is told
apart easily, so the AUC alone is no alarm. It is compared with those of windows as long within the training data, each
told from its own references. The references of a window are those of `profiles.references`; the smaller AUC counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]
    Ints = np.ndarray[Any, np.dtype[np.int64]]

ROWS = 1_500
"""Rows of each side at most; of more, a sample."""
SPANS = 6
"""Earlier windows within the training data, at most: the newest."""
SHOWN = 5
"""Columns that are named."""
_USED = 0.01
"""Loss of AUC without a column from which it counts as used."""
_T = {3: 9.925, 4: 5.841, 5: 4.604, 6: 4.032}
"""Student's t at 0.995 by the number of earlier windows: the chance of a larger AUC is 0.005."""
_EDGE = 1e-6
"""Distance from 0 and 1 of an AUC whose log odds count."""
_Z = 1.96
_SEED = 7
_BINS = 32
"""Of a column: the default of 255 takes three times as long, and tells no more of so few rows."""


@dataclass(frozen=True)
class WindowRows:
    """Rows of one side. `months`: of each row, as years * 12 + month from 0. `matrix`: columns of the rows at some
    places, [n, columns], NaN without a value.
    """

    months: Ints
    matrix: Callable[[Ints], Floats]


@dataclass(frozen=True)
class UsedColumn:
    """A column by which a model tells the sides apart. `share`: loss of AUC if its values are shuffled."""

    column: str
    share: float


@dataclass(frozen=True)
class Separation:
    """How well a model tells the window from the training data.

    `area`: AUC on rows that the model did not learn from; `low`, `high`: its 95 % interval. `rows`: of both sides.
    `allowed`: the largest AUC that the training data lets expect; None if it is too short to tell. `spans`: number of
    earlier windows of which that is made.
    """

    area: float
    low: float
    high: float
    rows: int
    allowed: float | None
    spans: int
    columns: tuple[UsedColumn, ...] = ()

    @property
    def moved(self) -> bool:
        """Return whether the AUC is beyond chance, and beyond what the training data lets expect."""
        return self.allowed is not None and self.area > self.allowed and self.low > 0.5

    def body(self) -> dict[str, Any]:
        """Return its part of a record."""
        return asdict(self) | {"moved": self.moved, "columns": [asdict(column) for column in self.columns]}

    def told(self) -> str:
        """Return the finding as a sentence."""
        by = ", ".join(column.column for column in self.columns)
        return (
            f"a model tells the rows from the training data: AUC {self.area:.3f} ({self.low:.3f} to {self.high:.3f}), "
            f"{self.allowed or 0:.3f} is allowed" + (f"; by {by}" if by else "")
        )


def separate(training: WindowRows, window: WindowRows, columns: Sequence[str], least: int) -> Separation | None:
    """Return how well the window is told apart; None if one side has fewer than `least` rows, or there is no column.

    `least`: rows below which a window or reference does not count. One thread; equal rows give equal results.
    """
    import warnings

    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # it has no stubs

    if not columns or len(window.months) < least:
        return None
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn warns for each column if no filter is set
        everything = np.arange(len(window.months))
        found = _smallest(training, window, everything, np.unique(window.months), least)
        if found is None:
            return None
        spans = _spans(training, np.unique(window.months), least)
        earlier = [_smallest(training, training, np.flatnonzero(np.isin(training.months, s)), s, least) for s in spans]
        areas = [each.area for each in earlier if each is not None]
        low, high = interval(found.area, found.rows // 2, found.rows - found.rows // 2)
        used = found.used(columns) if low > 0.5 else ()
    return Separation(found.area, low, high, found.rows, allowed(areas), len(areas), used)


def allowed(areas: Sequence[float]) -> float | None:
    """Return the AUC that one more window exceeds with a chance of at most 0.005, and that none of some exceeded.

    It is the prediction limit of a normal distribution of their log odds. None of fewer than three.
    """
    count = len(areas)
    if count not in _T:
        return None
    odds = [math.log(area / (1 - area)) for area in (min(max(area, _EDGE), 1 - _EDGE) for area in areas)]
    mean = sum(odds) / count
    spread = math.sqrt(sum((each - mean) ** 2 for each in odds) / (count - 1))
    limit = mean + _T[count] * spread * math.sqrt(1 + 1 / count)
    return max(*areas, 1 / (1 + math.exp(-limit)))


def interval(area: float, first: int, second: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC of so many rows of both sides (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (first - 1) * (q1 - area**2) + (second - 1) * (q2 - area**2)
    half = _Z * math.sqrt(max(variance, 0.0) / (first * second))
    return max(0.0, area - half), min(1.0, area + half)


def _spans(training: WindowRows, window: Ints, least: int) -> list[Ints]:
    """Return the months of earlier windows: as many successive months of the training data as the window has."""
    import numpy as np

    months, counts = np.unique(training.months, return_counts=True)
    large = set(months[counts >= least].tolist())
    ends = [int(end) for end in months[::-1] if all(end - back in large for back in range(len(window)))]
    return [np.arange(end - len(window) + 1, end + 1) for end in ends[:SPANS]]


def _smallest(training: WindowRows, side: WindowRows, places: Ints, months: Ints, least: int) -> _CrossFit | None:
    """Return the smaller AUC of some rows of a side against their season, and against the months just before."""
    import numpy as np

    others = ~np.isin(training.months, months)
    season = np.flatnonzero(others & np.isin(training.months % 12, months % 12))
    if len(season) < least:
        season = np.flatnonzero(others)
    before = np.flatnonzero(others & np.isin(training.months, months - len(months)))
    found = [_cross_fit(training, each, side, places) for each in (season, before) if len(each) >= least]
    return min(found, key=lambda fit: fit.area, default=None)


@dataclass(frozen=True)
class _CrossFit:
    """Two models, each asked about the half of the rows that the other learned from."""

    area: float
    matrix: Floats
    is_window: Ints
    halves: tuple[tuple[Any, Ints], ...]

    @property
    def rows(self) -> int:
        return len(self.matrix)

    def used(self, names: Sequence[str]) -> tuple[UsedColumn, ...]:
        """Return the columns without which the models tell less, the most useful first."""
        import numpy as np

        random, lost = np.random.default_rng(_SEED), list[UsedColumn]()
        for place, name in enumerate(names):
            areas = []
            for model, half in self.halves:
                shuffled = self.matrix[half].copy()
                shuffled[:, place] = random.permutation(shuffled[:, place])
                areas.append(_area(self.is_window[half], model.decision_function(shuffled)))
            lost.append(UsedColumn(name, self.area - sum(areas) / len(areas)))
        used = [column for column in lost if column.share > _USED]
        return tuple(sorted(used, key=lambda column: -column.share)[:SHOWN])


def _cross_fit(training: WindowRows, reference: Ints, side: WindowRows, places: Ints) -> _CrossFit:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(_SEED)
    size = min(ROWS, len(reference), len(places))  # sides of one size, so that none is told by its frequency
    parts = [
        rows.matrix(np.sort(random.choice(chosen, size, replace=False)))
        for rows, chosen in ((training, reference), (side, places))
    ]
    finite = np.finfo(np.float32).max
    matrix, is_window = np.clip(np.vstack(parts), -finite, finite), np.repeat(np.array([0, 1]), size)
    half = random.permutation(np.arange(2 * size) % 2)
    made = []
    for asked in (0, 1):
        model = HistGradientBoostingClassifier(
            max_iter=20, learning_rate=0.2, max_leaf_nodes=8, max_bins=_BINS, early_stopping=False, random_state=_SEED
        )
        learned = matrix[half != asked]
        learned[:, np.isnan(learned).all(axis=0)] = 0  # scikit-learn fails on a column without a value
        made.append((model.fit(learned, is_window[half != asked]), np.flatnonzero(half == asked)))
    areas = [_area(is_window[rows], model.decision_function(matrix[rows])) for model, rows in made]
    return _CrossFit(sum(areas) / 2, matrix, is_window, tuple(made))


def _area(truth: Ints, score: Any) -> float:
    """Return the AUC: the chance that a row of the window has a larger score than one of the reference."""
    import numpy as np

    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # of equal scores their mean
    positive = int(truth.sum())
    negative = len(truth) - positive
    return float((rank[place][truth == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))
