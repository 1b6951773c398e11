"""How much of the target one feature tells alone: almost all, if it is a copy that is declared known too early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.models import metrics
from rempart.models.encoding import Feature, encode, places

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Numbers = np.ndarray[Any, np.dtype[np.float64]]

SAMPLE = 20_000
"""Rows on which a share is measured, at most: drawn from all, the same ones each time."""
FEWEST = 100
"""Rows without which nothing is told: chance would do."""
FEWEST_OTHERS = 50
"""Rows that must have another value than the commonest one of the target: to tell a few of them says nothing."""
_BLOCKS = 10
"""Parts of neighbouring rows. Single rows would not do: what changes slowly is told by its neighbour, so by any number
that counts the rows or the days.
"""
_LEAVES, _IN_A_LEAF = 128, 5


def told_alone(features: Sequence[Feature], target: Feature, task: str, table: pa.Table) -> Mapping[str, float] | None:
    """Return the share of the target that each feature tells alone, 0 to 1; None where too few rows can tell.

    A decision tree of this feature is fitted on every second tenth of the rows and measured on the others, and the
    other way round. Of a number the share is the explained variance of its ranks, so that it is the same for each
    rising or falling function of the target; of a class, the wrong guesses of the commonest class that the tree avoids.
    An empty cell is a value. Of a number that follows the order of the target where it is known, the squared rank
    correlation counts, too (Spearman). Too few rows are less than FEWEST, or less than FEWEST_OTHERS with another value
    than the commonest.

    `table`: rows to learn from, with the features and the target, in their order in time where they have one. Raises
    TrainingError with the column at fault.
    """
    import numpy as np
    import pyarrow as pa

    rows = table
    if table.num_rows > SAMPLE:
        drawn = np.random.default_rng(0).choice(table.num_rows, SAMPLE, replace=False)
        rows = table.select([*(feature.name for feature in features), target.name]).take(pa.array(np.sort(drawn)))
    if rows.num_rows < FEWEST:
        return None
    truth = metrics.target_values(target, rows)
    if _others(truth) < FEWEST_OTHERS:
        return None
    share = _of_a_number if task == "regression" else _of_a_class
    return {feature.name: share(_values(feature, rows), truth) for feature in features}


def above(told: Mapping[str, float], limit: float, allowed: Sequence[str] = ()) -> tuple[tuple[str, float], ...]:
    """Return the features that tell more than a share and are not allowed to, with their shares: the largest first."""
    found = [(name, share) for name, share in told.items() if share > limit and name not in allowed]
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))


def _values(feature: Feature, rows: pa.Table) -> Numbers:
    """Return a number for each row: of a category the place of its value; NaN for an empty cell."""
    import numpy as np

    if feature.type != "category":
        return np.asarray(encode([feature], rows)[:, 0], np.float64)
    found = places(feature, rows)
    return np.where(found < 0, np.nan, found)


def _others(values: Numbers) -> int:
    """Return how many rows have another value than the commonest."""
    import numpy as np

    return len(values) - int(np.max(np.unique(values, return_counts=True)[1], initial=0))


def _predicted(tree: Any, values: Numbers, truth: Numbers) -> Numbers:
    """Return what a tree says of each row, fitted on the blocks before and after it."""
    import numpy as np

    column, told = _filled(values), np.empty(len(truth))
    fitted = np.arange(len(truth)) * _BLOCKS // len(truth) % 2 == 0
    for learns in (fitted, ~fitted):
        told[~learns] = tree.fit(column[learns], truth[learns]).predict(column[~learns])
    return told


def _of_a_number(values: Numbers, truth: Numbers) -> float:
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.tree import DecisionTreeRegressor

    ranks = rankdata(truth)
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=_IN_A_LEAF, random_state=0)
    explained = 1 - float(np.square(ranks - _predicted(tree, values, ranks)).mean() / ranks.var())
    known = np.isfinite(values)
    both = rankdata(values[known]), rankdata(truth[known])
    ordered = len(both[0]) >= FEWEST and all(_others(side) >= FEWEST_OTHERS for side in both)
    return max(0.0, explained, float(np.corrcoef(*both)[0, 1] ** 2) if ordered else 0.0)


def _of_a_class(values: Numbers, truth: Numbers) -> float:
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=_IN_A_LEAF, random_state=0)
    return max(0.0, 1 - int((_predicted(tree, values, truth) != truth).sum()) / _others(truth))


def _filled(values: Numbers) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return ranks as a column of one feature, with 0 for empty cells: trees see only the order."""
    import numpy as np

    known = np.isfinite(values)
    places = np.zeros(len(values), np.float32)
    places[known] = np.unique(values[known], return_inverse=True)[1] + 1
    return places[:, None]
