"""How much of the target one feature tells alone: almost all, if it is a copy that is declared known too early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.models import metrics
from rempart.models.encoding import Feature, encode

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Numbers = np.ndarray[Any, np.dtype[np.float64]]

SAMPLE = 20_000
"""Rows on which a share is measured, at most: spread evenly over all."""
FEWEST = 100
"""Rows without which nothing is told: chance would do."""
_FEWEST_WRONG = 5
"""Rows that a guess of the commonest class must get wrong, before avoiding them says something."""
_LEAVES, _IN_A_LEAF = 128, 5


def told_alone(features: Sequence[Feature], target: Feature, task: str, table: pa.Table) -> Mapping[str, float] | None:
    """Return the share of the target that each feature tells alone, 0 to 1; None of fewer than FEWEST rows.

    A decision tree of this feature is fitted on every second row, and measured on the others. Of a number the share is
    the explained variance of its ranks, so that it is the same for each rising or falling function of the target; of a
    class, the wrong guesses of the commonest class that the tree avoids. An empty cell is a value. Of a number that
    follows the order of the target where it is known, the squared rank correlation counts, too (Spearman).

    `table`: rows to learn from, with the features and the target. Raises TrainingError with the column at fault.
    """
    import numpy as np
    import pyarrow as pa

    step = max(1, -(-table.num_rows // SAMPLE))
    rows = table.take(pa.array(np.arange(0, table.num_rows, step)))
    if rows.num_rows < FEWEST:
        return None
    truth = metrics.target_values(target, rows)
    share = _of_a_number if task == "regression" else _of_a_class
    return {feature.name: share(_values(feature, rows), truth) for feature in features}


def above(told: Mapping[str, float], limit: float, allowed: Sequence[str] = ()) -> tuple[tuple[str, float], ...]:
    """Return the features that tell more than a share and are not allowed to, with their shares: the largest first."""
    found = [(name, share) for name, share in told.items() if share > limit and name not in allowed]
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))


def _values(feature: Feature, rows: pa.Table) -> Numbers:
    """Return a number for each row: of a category the place of its value; NaN for an empty cell."""
    import numpy as np

    block = encode([feature], rows)
    if feature.type != "category":
        return np.asarray(block[:, 0], np.float64)
    return np.where(block.any(axis=1), block.argmax(axis=1), np.nan)


def _of_a_number(values: Numbers, truth: Numbers) -> float:
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.tree import DecisionTreeRegressor

    ranks = rankdata(truth)
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=_IN_A_LEAF, random_state=0)
    column = _filled(values)
    tree.fit(column[::2], ranks[::2])
    wanted = ranks[1::2]
    variance = float(((wanted - wanted.mean()) ** 2).sum())
    if not variance:
        return 0.0
    explained = 1 - float(((wanted - tree.predict(column[1::2])) ** 2).sum()) / variance
    known = np.isfinite(values)
    both = rankdata(values[known]), rankdata(truth[known])
    ordered = len(both[0]) >= FEWEST and all(np.ptp(side) > 0 for side in both)
    return max(0.0, explained, float(np.corrcoef(*both)[0, 1] ** 2) if ordered else 0.0)


def _of_a_class(values: Numbers, truth: Numbers) -> float:
    import numpy as np
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=_IN_A_LEAF, random_state=0)
    column, wanted = _filled(values), truth[1::2]
    tree.fit(column[::2], truth[::2])
    commonest = np.bincount(truth[::2].astype(int)).argmax()
    constant = int((wanted != commonest).sum())
    if constant < _FEWEST_WRONG:
        return 0.0
    return max(0.0, 1 - int((tree.predict(column[1::2]) != wanted).sum()) / constant)


def _filled(values: Numbers) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return ranks as a column of one feature, with 0 for empty cells: trees see only the order."""
    import numpy as np

    known = np.isfinite(values)
    places = np.zeros(len(values), np.float32)
    places[known] = np.unique(values[known], return_inverse=True)[1] + 1
    return places[:, None]
